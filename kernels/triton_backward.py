"""The fused backward pass on CUDA. Two kernels compute the scores anew from the saved logsumexp, tile by tile:

- one program per tile of queries walks over the keys: gradients of the queries, the biases and the positions;
- one program per tile of keys walks over the queries: gradients of keys and values.

The gradient of `r` gathers from all items and rows by atomic additions in float32: its last bits depend on their order
and may differ from run to run. All other gradients repeat bit by bit.
"""

# Triton writes compile-time constants in capitals and types no pointer:
# ruff: noqa: N803
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arguments import DIFFERENTIABLE, Arguments, empty_rows, laid_out_like
from kernels.operands import operands, with_rows
from kernels.tiles import (
    HIDDEN,
    LOG2E,
    contrast,
    dot,
    finish_scores,
    join,
    keep_factors,
    load_rows,
    load_vector,
    skew,
    store_rows,
    unskew,
)


def backward(a: Arguments, grad: Tensor, out: Tensor, logsumexp: Tensor) -> list[Tensor]:
    """As `eager.backward`, from the forward pass's output and logsumexp."""
    batch, heads, qlen, d_head = a.q.shape
    arguments = [getattr(a, name) for name in DIFFERENTIABLE]
    if not a.q.numel():
        return [torch.zeros_like(x) for x in arguments if x is not None]
    x = operands(a)
    q, grad = with_rows(a.q), with_rows(grad)
    delta = (grad.float() * out.float()).sum(-1).contiguous()
    given = (*x.tensors, grad, logsumexp.contiguous(), delta)
    strides = (*x.strides, *grad.stride()[:3])
    dq, dk, dv = empty_rows(a.q), empty_rows(a.k), empty_rows(a.v)
    dr = None if a.r is None else torch.zeros(a.r.shape, dtype=torch.float32, device=q.device)

    config = x.configuration("queries")
    tiles = triton.cdiv(qlen, config.block)
    sums = torch.zeros(batch, heads, tiles, 4, d_head, dtype=torch.float32, device=q.device)
    small = (t if t is None else t.contiguous() for t in (a.segment_bias, a.segment_embedding))
    query_kernel[tiles, batch * heads](
        *given, q, *small, dq, dr, sums, *strides, *q.stride()[:3], *dq.stride()[:3], a.scale, *x.sizes,
        **x.constants, BLOCK=config.block, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    config = x.configuration("keys")
    key_kernel[triton.cdiv(a.k.shape[2], config.block), batch * heads](
        *given, dk, dv, *strides, *dk.stride()[:3], *dv.stride()[:3], *x.sizes,
        **x.constants, BLOCK=config.block, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    du, dw, db, embedding = sums.sum((0, 2)).unbind(1)
    found = (dq, dk, dv, dr, du, dw, db, torch.stack((-embedding, embedding)))
    return [laid_out_like(g, x) for g, x in zip(found, arguments, strict=True) if g is not None and x is not None]


@triton.jit
def probabilities_again(scores, lse, klen, MASKED: tl.constexpr):
    """The softmax from its logsumexp; a row without visible keys, whose logsumexp is −inf, has 1 / klen everywhere."""
    if not MASKED:
        return tl.exp2(scores - (lse * LOG2E)[:, None])
    blind = lse == float("-inf")
    probabilities = tl.exp2(scores - tl.where(blind, HIDDEN, lse * LOG2E)[:, None])
    return probabilities * tl.where(blind, 1.0 / klen, 1.0)[:, None]


@triton.jit
def add_rows(pointer, tile, first, length, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Add a tile to rows of a contiguous float32 matrix `[length, D]`, atomically."""
    row = first + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    inside = ((row >= 0) & (row < length))[:, None] & (column < D)[None, :]
    tl.atomic_add(pointer + row[:, None] * D + column[None, :], tile, mask=inside, sem="relaxed")


@triton.jit
def query_kernel(
    content, position, across, k, v, r, query_segments, key_segments, mask,
    grad, logsumexp, delta, q, segment_bias, segment_embedding, dq, dr, sums,
    k_item, k_head, k_row, v_item, v_head, v_row, r_group, r_head, r_row, mask_item,
    grad_item, grad_head, grad_row, q_item, q_head, q_row, dq_item, dq_head, dq_row,
    scale, heads, items, qlen, klen, dropout, seed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAIRS: tl.constexpr, SEE_SELF: tl.constexpr, DROPOUT: tl.constexpr,
    UPCAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program is one tile of queries of one head of one item; it walks over all keys.

    `sums` is `[batch, heads, tiles, 4, D]`: a tile's share of the gradients of u, w, b and g_different − g_same.
    """
    i0 = tl.program_id(0) * BLOCK
    stream = tl.program_id(1).to(tl.int64)
    item = stream // heads
    head = stream % heads
    k += item * k_item + head * k_head
    v += item * v_item + head * v_head
    row = i0 + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)

    queries = load_rows(content + stream * qlen * D, i0, qlen, D, D, BLOCK, BLOCK_D)
    upstream = load_rows(grad + item * grad_item + head * grad_head, i0, qlen, grad_row, D, BLOCK, BLOCK_D)
    lse = tl.load(logsumexp + stream * qlen + row, mask=row < qlen, other=float("inf"))
    weighted = tl.load(delta + stream * qlen + row, mask=row < qlen, other=0.0)
    if r is not None:
        r += (item // items) * r_group + head * r_head
        dr += ((item // items) * heads + head) * (qlen + klen) * D
        turned = load_rows(position + stream * qlen * D, i0, qlen, D, D, BLOCK, BLOCK_D)
        chunk = qlen - i0 - (BLOCK - 1)
        left = dot(turned, tl.trans(load_rows(r, chunk, qlen + klen, r_row, D, BLOCK, BLOCK_D)), UPCAST)
        carried = tl.zeros([BLOCK, BLOCK], tl.float32)
        d_position = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    apart = tl.zeros([BLOCK], tl.float32)
    query_ids = apart
    d_apart = apart
    if across is not None:
        apart = tl.load(across + stream * qlen + row, mask=row < qlen, other=0.0)
        query_ids = tl.load(query_segments + item * qlen + row, mask=row < qlen, other=0)
        key_segments += item * klen
    if mask is not None:
        mask += item * mask_item

    d_content = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for n0 in range(0, klen, BLOCK):
        key = n0 + tl.arange(0, BLOCK)
        keys = load_rows(k, n0, klen, k_row, D, BLOCK, BLOCK_D)
        scores = dot(queries, tl.trans(keys), UPCAST)
        if r is not None:
            rows_right = load_rows(r, chunk + n0 + BLOCK, qlen + klen, r_row, D, BLOCK, BLOCK_D)
            right = dot(turned, tl.trans(rows_right), UPCAST)
            scores += skew(left, right, BLOCK, BLOCK)
            left = right
        scores = finish_scores(scores, apart, query_ids, key_segments, mask, row, key, qlen, klen, PAIRS, SEE_SELF)
        d_scores = dot(upstream, tl.trans(load_rows(v, n0, klen, v_row, D, BLOCK, BLOCK_D)), UPCAST)
        if DROPOUT:
            d_scores *= keep_factors(seed, stream, row, key, klen, dropout)
        d_scores = probabilities_again(scores, lse, klen, mask is not None) * (d_scores - weighted[:, None])
        d_content += dot(d_scores.to(keys.dtype), keys, UPCAST)
        if across is not None:
            ids = tl.load(key_segments + key, mask=key < klen, other=0)
            d_apart += tl.sum(tl.where(query_ids[:, None] != ids[None, :], d_scores, 0.0), 1)
        if r is not None:
            # The ring backwards: a chunk is whole once it has the left part of the tile to its right.
            ring = unskew(d_scores, BLOCK)
            whole = join(ring, carried, BLOCK, BLOCK).to(turned.dtype)
            carried = ring
            rows_left = load_rows(r, chunk + n0, qlen + klen, r_row, D, BLOCK, BLOCK_D)
            d_position += dot(whole, rows_left, UPCAST)
            # `turned` holds scale · log₂ e already.
            add_rows(dr, dot(tl.trans(whole), turned, UPCAST) / LOG2E, chunk + n0, qlen + klen, D, BLOCK, BLOCK_D)

    sums += (stream * tl.num_programs(0) + tl.program_id(0)) * 4 * D + column
    d_content *= scale
    tl.store(sums, tl.sum(d_content, 0), mask=column < D)
    if r is not None:
        last = chunk + (klen + BLOCK - 1) // BLOCK * BLOCK
        whole = join(tl.zeros([BLOCK, BLOCK], tl.float32), carried, BLOCK, BLOCK).to(turned.dtype)
        d_position += dot(whole, load_rows(r, last, qlen + klen, r_row, D, BLOCK, BLOCK_D), UPCAST)
        add_rows(dr, dot(tl.trans(whole), turned, UPCAST) / LOG2E, last, qlen + klen, D, BLOCK, BLOCK_D)
        d_position *= scale
        tl.store(sums + D, tl.sum(d_position, 0), mask=column < D)
        d_content += d_position
    if across is not None:
        d_apart *= scale
        d_segment = d_apart[:, None] * contrast(segment_embedding, heads, head, D, BLOCK_D)
        tl.store(sums + 2 * D, tl.sum(d_segment, 0), mask=column < D)
        d_content += d_segment
        query = load_rows(q + item * q_item + head * q_head, i0, qlen, q_row, D, BLOCK, BLOCK_D).to(tl.float32)
        if segment_bias is not None:
            query += load_vector(segment_bias, head, D, BLOCK_D)
        tl.store(sums + 3 * D, tl.sum(d_apart[:, None] * query, 0), mask=column < D)
    store_rows(dq + item * dq_item + head * dq_head, d_content, i0, qlen, dq_row, D, BLOCK, BLOCK_D)


@triton.jit
def key_kernel(
    content, position, across, k, v, r, query_segments, key_segments, mask,
    grad, logsumexp, delta, dk, dv,
    k_item, k_head, k_row, v_item, v_head, v_row, r_group, r_head, r_row, mask_item,
    grad_item, grad_head, grad_row, dk_item, dk_head, dk_row, dv_item, dv_head, dv_row,
    heads, items, qlen, klen, dropout, seed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAIRS: tl.constexpr, SEE_SELF: tl.constexpr, DROPOUT: tl.constexpr,
    UPCAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program is one tile of keys of one head of one item; it walks over all queries.

    The queries change with every step, so nothing of the ring can be carried: both chunks are multiplied.
    """
    n0 = tl.program_id(0) * BLOCK
    key = n0 + tl.arange(0, BLOCK)
    stream = tl.program_id(1).to(tl.int64)
    item = stream // heads
    head = stream % heads
    content += stream * qlen * D
    grad += item * grad_item + head * grad_head
    logsumexp += stream * qlen
    delta += stream * qlen
    keys = load_rows(k + item * k_item + head * k_head, n0, klen, k_row, D, BLOCK, BLOCK_D)
    values = load_rows(v + item * v_item + head * v_head, n0, klen, v_row, D, BLOCK, BLOCK_D)
    if r is not None:
        r += (item // items) * r_group + head * r_head
        position += stream * qlen * D
    if across is not None:
        across += stream * qlen
        query_segments += item * qlen
        key_segments += item * klen
    if mask is not None:
        mask += item * mask_item

    d_keys = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    d_values = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for i0 in range(0, qlen, BLOCK):
        row = i0 + tl.arange(0, BLOCK)
        queries = load_rows(content, i0, qlen, D, D, BLOCK, BLOCK_D)
        scores = dot(queries, tl.trans(keys), UPCAST)
        if r is not None:
            chunk = qlen - i0 - (BLOCK - 1) + n0
            turned = load_rows(position, i0, qlen, D, D, BLOCK, BLOCK_D)
            left = dot(turned, tl.trans(load_rows(r, chunk, qlen + klen, r_row, D, BLOCK, BLOCK_D)), UPCAST)
            rows_right = load_rows(r, chunk + BLOCK, qlen + klen, r_row, D, BLOCK, BLOCK_D)
            scores += skew(left, dot(turned, tl.trans(rows_right), UPCAST), BLOCK, BLOCK)
        apart = tl.zeros([BLOCK], tl.float32)
        query_ids = tl.zeros([BLOCK], tl.int32)
        if across is not None:
            apart = tl.load(across + row, mask=row < qlen, other=0.0)
            query_ids = tl.load(query_segments + row, mask=row < qlen, other=0)
        scores = finish_scores(scores, apart, query_ids, key_segments, mask, row, key, qlen, klen, PAIRS, SEE_SELF)
        lse = tl.load(logsumexp + row, mask=row < qlen, other=float("inf"))
        weighted = tl.load(delta + row, mask=row < qlen, other=0.0)
        probabilities = probabilities_again(scores, lse, klen, mask is not None)
        upstream = load_rows(grad, i0, qlen, grad_row, D, BLOCK, BLOCK_D)
        d_scores = dot(upstream, tl.trans(values), UPCAST)
        kept = probabilities
        if DROPOUT:
            keep = keep_factors(seed, stream, row, key, klen, dropout)
            d_scores *= keep
            kept = probabilities * keep
        d_values += dot(tl.trans(kept.to(upstream.dtype)), upstream, UPCAST)
        d_scores = probabilities * (d_scores - weighted[:, None])
        d_keys += dot(tl.trans(d_scores.to(queries.dtype)), queries, UPCAST)
    # `queries` held scale · log₂ e already.
    store_rows(dk + item * dk_item + head * dk_head, d_keys / LOG2E, n0, klen, dk_row, D, BLOCK, BLOCK_D)
    store_rows(dv + item * dv_item + head * dv_head, d_values, n0, klen, dv_row, D, BLOCK, BLOCK_D)
