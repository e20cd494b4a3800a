"""What the forward and the backward kernels share: tiles of rows, the position ring, and masked scores.

A kernel works on square tiles of BLOCK queries by BLOCK keys. The queries of a tile at row i0 meet, at the keys from
n0 on, the relative positions p = qlen − i + j from qlen − i0 − (BLOCK − 1) + n0 on: a band of 2·BLOCK − 1 rows of r.
Cut that band into two chunks of BLOCK rows, `left` and `right`: the right chunk of one key tile is the left chunk of
the next, so each step along the keys multiplies one chunk only and carries the other. That is the ring; it makes the
position term one matmul a tile instead of two.

The forward kernel can also take 2·BLOCK queries a tile, which halves how often keys, values and positions are read.
Its band has three chunks, `oldest`, `left` and `right`; the upper half of the queries meets the last two of them, the
lower half the first two, so the step is the same but for that choice.
"""

# Triton writes compile-time constants in capitals and types no pointer:
# ruff: noqa: N803
# mypy: allow-untyped-defs

import triton
import triton.language as tl

# Scores are in base 2 inside the kernels: exp2 is the hardware's exponential.
LOG2E = tl.constexpr(1.4426950408889634)
# The score of a hidden key: finite, so that a row without visible keys averages over all of them (see eager.HIDDEN).
HIDDEN = tl.constexpr(-1e30)


@triton.jit
def load_rows(pointer, first, length, stride, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows first … first + BLOCK − 1 of a matrix `[length, D]`, zero outside of it: `[BLOCK, BLOCK_D]`."""
    row = first + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    inside = ((row >= 0) & (row < length))[:, None]
    if D != BLOCK_D:
        inside = inside & (column < D)[None, :]
    return tl.load(pointer + row.to(tl.int64)[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(pointer, tile, first, length, stride, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """The counterpart of `load_rows`."""
    row = first + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    inside = (row < length)[:, None] & (column < D)[None, :]
    address = pointer + row.to(tl.int64)[:, None] * stride + column[None, :]
    tl.store(address, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def load_vector(pointer, head, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """One head's row of `[heads, D]` as `[1, BLOCK_D]` in float32."""
    column = tl.arange(0, BLOCK_D)
    return tl.load(pointer + head * D + column, mask=column < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def contrast(segment_embedding, heads, head, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """g_different − g_same of one head, `[1, BLOCK_D]`: the softmax sees no more of the two than this."""
    different = load_vector(segment_embedding + heads * D, head, D, BLOCK_D)
    return different - load_vector(segment_embedding, head, D, BLOCK_D)


@triton.jit
def dot(a, b, UPCAST: tl.constexpr):
    """a @ b in float32. Full float32 products: TF32 would lose what float32 promises.

    UPCAST is for Triton's interpreter, which multiplies the bit patterns of bfloat16.
    """
    if UPCAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def join(left, right, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The ring: `left` where it belongs to a tile's left chunk, `right` where it belongs to the right one."""
    i = tl.arange(0, ROWS)[:, None] & (BLOCK - 1)
    j = tl.arange(0, BLOCK)[None, :]
    return tl.where(i + j >= BLOCK - 1, left, right)


@triton.jit
def skew(left, right, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Position scores of a tile from the products with its two chunks: entry (i, j) is at p = j − i + BLOCK − 1.

    In row i the left chunk counts from its column BLOCK − 1 − i on, the right one before: together a ring, which is
    then turned by i + 1. With more rows than BLOCK, i counts from 0 again after BLOCK of them.
    """
    i = tl.arange(0, ROWS)[:, None]
    j = tl.arange(0, BLOCK)[None, :]
    return tl.gather(join(left, right, ROWS, BLOCK), (j - i - 1) & (BLOCK - 1), 1)


@triton.jit
def skew_of_three(oldest, left, right, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """`skew` of a tile with 2·BLOCK rows: the upper half meets `left` and `right`, the lower `oldest` and `left`."""
    upper = (tl.arange(0, ROWS) < BLOCK)[:, None]
    return skew(tl.where(upper, left, oldest), tl.where(upper, right, left), ROWS, BLOCK)


@triton.jit
def unskew(tile, BLOCK: tl.constexpr):
    """A tile's entries turned back onto the ring: the inverse of the turn in `skew`."""
    i = tl.arange(0, BLOCK)[:, None]
    j = tl.arange(0, BLOCK)[None, :]
    return tl.gather(tile, (j + i + 1) & (BLOCK - 1), 1)


@triton.jit
def finish_scores(
    scores, across, query_ids, key_segments, mask, row, key, qlen, klen, PAIRS: tl.constexpr, SEE_SELF: tl.constexpr
):
    """Segment term and mask: HIDDEN for hidden keys, −inf beyond the last key.

    `row` and `key` are the tile's indices; `across` and `query_ids` hold one number a row; `key_segments` and `mask`
    point at this item's first entries, or are None.
    """
    if key_segments is not None:
        ids = tl.load(key_segments + key, mask=key < klen, other=0)
        scores += tl.where(query_ids[:, None] != ids[None, :], across[:, None], 0.0)
    if mask is not None:
        if PAIRS:
            inside = (row < qlen)[:, None] & (key < klen)[None, :]
            hidden = tl.load(mask + row.to(tl.int64)[:, None] * klen + key[None, :], mask=inside, other=0) != 0
        else:
            hidden = (tl.load(mask + key, mask=key < klen, other=0) != 0)[None, :]
        if SEE_SELF:
            hidden = hidden & (key[None, :] != (row + klen - qlen)[:, None])
        scores = tl.where(hidden, HIDDEN, scores)
    return tl.where((key < klen)[None, :], scores, float("-inf"))


@triton.jit
def keep_factors(seed, stream, row, key, klen, dropout):
    """Dropout's factors of a tile, 0 or 1 / (1 − dropout): those of a pair are the same in every kernel and tile."""
    uniform = tl.rand(seed + (stream.to(tl.int64) << 32), row[:, None] * klen + key[None, :])
    return tl.where(uniform >= dropout, 1.0 / (1.0 - dropout), 0.0)
