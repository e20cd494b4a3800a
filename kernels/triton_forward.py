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
from kernels.tiles import HIDDEN, LOG2E, dot, finish_scores, keep_factors, load_rows, skew, store_rows


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    """As `eager.forward`: the output in q's shape and layout, and each row's logsumexp in float32."""
    out = empty_rows(a.q)
    logsumexp = torch.empty(a.q.shape[:3], dtype=torch.float32, device=a.q.device)
    if a.q.numel():
        x = operands(a)
        config = x.configuration("forward")
        grid = (triton.cdiv(a.q.shape[2], config.block), a.q.shape[0] * a.q.shape[1])
        forward_kernel[grid](
            *x.tensors, out, logsumexp, *x.strides, *out.stride()[:3], *x.sizes,
            **x.constants, BLOCK=config.block, num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return laid_out_like(out, a.q), logsumexp


@triton.jit
def forward_kernel(
    content, position, across, k, v, r, query_segments, key_segments, mask,
    out, logsumexp,
    k_item, k_head, k_row, v_item, v_head, v_row, r_group, r_head, r_row, mask_item,
    out_item, out_head, out_row,
    heads, items, qlen, klen, dropout, seed,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAIRS: tl.constexpr, SEE_SELF: tl.constexpr, DROPOUT: tl.constexpr,
    UPCAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program is one tile of queries of one head of one item; it walks over all keys."""
    i0 = tl.program_id(0) * BLOCK
    stream = tl.program_id(1).to(tl.int64)
    item = stream // heads
    head = stream % heads
    k += item * k_item + head * k_head
    v += item * v_item + head * v_head
    row = i0 + tl.arange(0, BLOCK)

    queries = load_rows(content + stream * qlen * D, i0, qlen, D, D, BLOCK, BLOCK_D)
    if r is not None:
        r += (item // items) * r_group + head * r_head
        turned = load_rows(position + stream * qlen * D, i0, qlen, D, D, BLOCK, BLOCK_D)
        chunk = qlen - i0 - (BLOCK - 1)  # the row of r where the first key tile's left chunk begins
        left = dot(turned, tl.trans(load_rows(r, chunk, qlen + klen, r_row, D, BLOCK, BLOCK_D)), UPCAST)
    apart = tl.zeros([BLOCK], tl.float32)
    query_ids = apart
    if across is not None:
        apart = tl.load(across + stream * qlen + row, mask=row < qlen, other=0.0)
        query_ids = tl.load(query_segments + item * qlen + row, mask=row < qlen, other=0)
        key_segments += item * klen
    if mask is not None:
        mask += item * mask_item

    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for n0 in range(0, klen, BLOCK):
        scores = dot(queries, tl.trans(load_rows(k, n0, klen, k_row, D, BLOCK, BLOCK_D)), UPCAST)
        if r is not None:
            rows_right = load_rows(r, chunk + n0 + BLOCK, qlen + klen, r_row, D, BLOCK, BLOCK_D)
            right = dot(turned, tl.trans(rows_right), UPCAST)
            scores += skew(left, right, BLOCK)
            left = right
        scores = finish_scores(scores, apart, query_ids, key_segments, mask, i0, n0, qlen, klen, PAIRS, SEE_SELF, BLOCK)
        higher = tl.maximum(top, tl.max(scores, 1))
        probabilities = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(probabilities, 1)
        top = higher
        if DROPOUT:
            probabilities *= keep_factors(seed, stream, i0, n0, klen, dropout, BLOCK)
        values = load_rows(v, n0, klen, v_row, D, BLOCK, BLOCK_D)
        acc = acc * shrink[:, None] + dot(probabilities.to(values.dtype), values, UPCAST)

    out += item * out_item + head * out_head
    store_rows(out, acc / total[:, None], i0, qlen, out_row, D, BLOCK, BLOCK_D)
    natural = tl.where(top > HIDDEN / 2, (top + tl.log2(total)) / LOG2E, float("-inf"))
    tl.store(logsumexp + stream * qlen + row, natural, mask=row < qlen)
