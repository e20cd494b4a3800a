"""The fused forward pass on CUDA: no score leaves the chip, memory grows with the length."""

# Triton writes compile-time constants in capitals and types no pointer:
# ruff: noqa: N803
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arguments import Arguments, empty_rows, laid_out_like
from kernels.operands import operands
from kernels.tiles import (
    HIDDEN,
    LOG2E,
    dot,
    finish_scores,
    keep_factors,
    load_rows,
    skew,
    skew_of_three,
    store_rows,
)


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    """As `eager.forward`: the output in q's shape and layout, and each row's logsumexp in float32."""
    out = empty_rows(a.q)
    logsumexp = torch.empty(a.q.shape[:3], dtype=torch.float32, device=a.q.device)
    if a.q.numel():
        x = operands(a)
        config = x.configuration("forward")
        grid = (triton.cdiv(a.q.shape[2], config.rows), a.q.shape[0] * a.q.shape[1])
        forward_kernel[grid](
            *x.tensors, out, logsumexp, None, *x.strides, *out.stride()[:3], *x.sizes, 0,
            **x.constants, ROWS=config.rows, BLOCK=config.block, num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return laid_out_like(out, a.q), logsumexp


def forward_packed(a: Arguments, cu_seqlens: Tensor, max_length: int) -> Tensor:
    """As `eager.forward_packed`."""
    tokens, heads, d_head = a.q.shape[2], a.q.shape[1], a.q.shape[3]
    out = a.q.new_zeros(tokens, heads, d_head).transpose(0, 1)[None]
    count = cu_seqlens.shape[0] - 1
    if count and a.q.numel():
        x = operands(a)
        config = x.configuration("forward", max_length)
        grid = (triton.cdiv(max_length, config.rows), count * heads)
        forward_kernel[grid](
            *x.tensors, out, None, cu_seqlens.contiguous(), *x.strides, *out.stride()[:3], *x.sizes, max_length,
            **x.constants, ROWS=config.rows, BLOCK=config.block, num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return out


@triton.jit
def forward_kernel(
    content, position, across, k, v, r, query_segments, key_segments, mask,
    out, logsumexp, cu_seqlens,
    k_item, k_head, k_row, v_item, v_head, v_row, r_group, r_head, r_row, mask_item,
    out_item, out_head, out_row,
    heads, items, qlen, klen, dropout, seed, max_length,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAIRS: tl.constexpr, SEE_SELF: tl.constexpr, DROPOUT: tl.constexpr,
    UPCAST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program is one tile of queries of one head of one item; it walks over all keys.

    With `cu_seqlens` the items lie one behind the other in a batch of one: item n is its rows cu_seqlens[n] to
    cu_seqlens[n + 1], and `r` holds the positions of a text of `max_length`.
    """
    i0 = tl.program_id(0) * ROWS
    stream = tl.program_id(1).to(tl.int64)
    item = stream // heads
    head = stream % heads
    reach = qlen  # the row of r that query 0 and key 0 meet at, whose distance is klen − qlen
    positions = qlen + klen
    prepared = stream * qlen  # this item's and head's first row in the prepared queries
    if cu_seqlens is not None:
        start = tl.load(cu_seqlens + item).to(tl.int64)
        prepared = head * qlen + start
        qlen = tl.minimum((tl.load(cu_seqlens + item + 1) - start).to(tl.int32), max_length)
        klen = tl.where(i0 < qlen, qlen, 0)  # a tile below the text's end has nothing to walk over
        reach = max_length
        positions = 2 * max_length
        k += head * k_head + start * k_row
        v += head * v_head + start * v_row
        out += head * out_head + start * out_row
        if across is not None:
            query_segments += start
            key_segments += start
    else:
        k += item * k_item + head * k_head
        v += item * v_item + head * v_head
        out += item * out_item + head * out_head
        if across is not None:
            query_segments += item * qlen
            key_segments += item * klen
        if mask is not None:
            mask += item * mask_item
        if r is not None:
            r += (item // items) * r_group
    row = i0 + tl.arange(0, ROWS)

    queries = load_rows(content + prepared * D, i0, qlen, D, D, ROWS, BLOCK_D)
    if r is not None:
        r += head * r_head
        turned = load_rows(position + prepared * D, i0, qlen, D, D, ROWS, BLOCK_D)
        chunk = reach - i0 - (ROWS - 1)  # the row of r where the first key tile's first chunk begins
        if ROWS > BLOCK:
            oldest = dot(turned, tl.trans(load_rows(r, chunk, positions, r_row, D, BLOCK, BLOCK_D)), UPCAST)
            chunk += BLOCK
        left = dot(turned, tl.trans(load_rows(r, chunk, positions, r_row, D, BLOCK, BLOCK_D)), UPCAST)
    apart = tl.zeros([ROWS], tl.float32)
    query_ids = apart
    if across is not None:
        apart = tl.load(across + prepared + row, mask=row < qlen, other=0.0)
        query_ids = tl.load(query_segments + row, mask=row < qlen, other=0)

    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for n0 in range(0, klen, BLOCK):
        key = n0 + tl.arange(0, BLOCK)
        scores = dot(queries, tl.trans(load_rows(k, n0, klen, k_row, D, BLOCK, BLOCK_D)), UPCAST)
        if r is not None:
            rows_right = load_rows(r, chunk + n0 + BLOCK, positions, r_row, D, BLOCK, BLOCK_D)
            right = dot(turned, tl.trans(rows_right), UPCAST)
            if ROWS > BLOCK:
                scores += skew_of_three(oldest, left, right, ROWS, BLOCK)
                oldest = left
            else:
                scores += skew(left, right, ROWS, BLOCK)
            left = right
        scores = finish_scores(scores, apart, query_ids, key_segments, mask, row, key, qlen, klen, PAIRS, SEE_SELF)
        higher = tl.maximum(top, tl.max(scores, 1))
        probabilities = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(probabilities, 1)
        top = higher
        if DROPOUT:
            probabilities *= keep_factors(seed, stream, row, key, klen, dropout)
        values = load_rows(v, n0, klen, v_row, D, BLOCK, BLOCK_D)
        acc = acc * shrink[:, None] + dot(probabilities.to(values.dtype), values, UPCAST)

    store_rows(out, acc / total[:, None], i0, qlen, out_row, D, ROWS, BLOCK_D)
    if logsumexp is not None:
        natural = tl.where(top > HIDDEN / 2, (top + tl.log2(total)) / LOG2E, float("-inf"))
        tl.store(logsumexp + prepared + row, natural, mask=row < qlen)
