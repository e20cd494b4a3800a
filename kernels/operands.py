"""A problem in the form the CUDA kernels take: its prepared queries, its strides and its sizes."""

# Triton writes compile-time constants in capitals and types no pointer:
# ruff: noqa: N803
# mypy: allow-untyped-defs

import functools
import os
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arguments import Arguments
from kernels.configurations import Configuration, configuration
from kernels.tiles import LOG2E, contrast, load_rows, load_vector, store_rows


class Operands(NamedTuple):
    """Tensors, strides and sizes in the order in which every kernel takes them.

    The queries are prepared: `content` is (q + u) and `position` (q + w), `across` is (q + b)·(g_different − g_same),
    `[batch, heads, qlen]` in float32, all times scale · log₂ e, so that the kernels' scores are in base 2.
    """

    content: Tensor
    position: Tensor | None
    across: Tensor | None
    k: Tensor
    v: Tensor
    r: Tensor | None
    query_segments: Tensor | None
    key_segments: Tensor | None
    mask: Tensor | None
    strides: tuple[int, ...]
    sizes: tuple[Any, ...]
    constants: dict[str, Any]

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The first parameters of every kernel but the preparing one."""
        return self[:9]

    def configuration(self, kernel: str, length: int | None = None) -> Configuration:
        """Tile sizes of `kernel`: 'forward', 'queries' or 'keys'.

        Args:
            length: of the keys; by default that of `k`, in which packed texts lie one behind the other.
        """
        lean = self.constants["DROPOUT"] or self.constants["PAIRS"] or not _is_hopper(self.k.device)
        length = length or self.k.shape[2]
        return configuration(kernel, self.k.dtype, self.constants["BLOCK_D"], length, roomy=not lean)


def operands(a: Arguments) -> Operands:
    """Prepare a checked problem: rows made contiguous, absent tensors None, strides counted in elements."""
    batch, heads, qlen, d_head = a.q.shape
    block_d = max(16, 1 << (d_head - 1).bit_length())
    content, position, across = prepare(a, block_d)
    k, v = with_rows(a.k), with_rows(a.v)
    r = None if a.r is None else with_rows(a.r)
    groups = 1 if r is None else r.shape[0]
    mask = None if a.mask is None else a.mask.contiguous().view(torch.uint8)
    mask_item = 0 if mask is None or mask.shape[0] == 1 else mask.stride(0)
    query_segments, key_segments = (x if x is None else x.contiguous() for x in (a.query_segments, a.key_segments))
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return Operands(
        content=content,
        position=position,
        across=across,
        k=k,
        v=v,
        r=r,
        query_segments=query_segments,
        key_segments=key_segments,
        mask=mask,
        strides=(*k.stride()[:3], *v.stride()[:3], *((0, 0, 0) if r is None else r.stride()[:3]), mask_item),
        sizes=(heads, batch // groups, qlen, a.k.shape[2], a.dropout, 0 if a.seed is None else int(a.seed)),
        constants={
            "D": d_head,
            "BLOCK_D": block_d,
            "PAIRS": mask is not None and mask.ndim == 3,
            "SEE_SELF": a.see_self,
            "DROPOUT": a.dropout > 0,
            "UPCAST": interpreted and a.q.dtype == torch.bfloat16,
        },
    )


@functools.cache
def _is_hopper(device: torch.device) -> bool:
    """Whether it is a GPU of compute capability 9.0 or later, with the registers that larger tiles need."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def with_rows(x: Tensor) -> Tensor:
    """The tensor itself, or a copy of it where its rows are not contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


def prepare(a: Arguments, block_d: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The three prepared queries of `Operands`, in one pass over q."""
    q = with_rows(a.q)
    batch, heads, qlen, d_head = q.shape
    content = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    position = None if a.r is None else torch.empty_like(content)
    across = None if a.segment_embedding is None else torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    biases = (x if x is None else x.contiguous() for x in a[4:8])
    if q.numel():
        prepare_kernel[triton.cdiv(qlen, 32), batch * heads](
            q, *biases, content, position, across, *q.stride()[:3], heads, qlen, a.scale,
            D=d_head, BLOCK_D=block_d, BLOCK=32,
        )  # fmt: skip
    return content, position, across


@triton.jit
def prepare_kernel(
    q, content_bias, position_bias, segment_bias, segment_embedding, content, position, across,
    q_item, q_head, q_row, heads, qlen, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program is one tile of queries of one head of one item."""
    i0 = tl.program_id(0) * BLOCK
    stream = tl.program_id(1).to(tl.int64)
    head = stream % heads
    q += (stream // heads) * q_item + head * q_head
    query = load_rows(q, i0, qlen, q_row, D, BLOCK, BLOCK_D).to(tl.float32)
    factor = scale * LOG2E
    here = stream * qlen * D
    biased = query
    if content_bias is not None:
        biased = query + load_vector(content_bias, head, D, BLOCK_D)
    store_rows(content + here, biased * factor, i0, qlen, D, D, BLOCK, BLOCK_D)
    if position is not None:
        biased = query
        if position_bias is not None:
            biased = query + load_vector(position_bias, head, D, BLOCK_D)
        store_rows(position + here, biased * factor, i0, qlen, D, D, BLOCK, BLOCK_D)
    if across is not None:
        biased = query
        if segment_bias is not None:
            biased = query + load_vector(segment_bias, head, D, BLOCK_D)
        row = i0 + tl.arange(0, BLOCK)
        products = tl.sum(biased * contrast(segment_embedding, heads, head, D, BLOCK_D), 1)
        tl.store(across + stream * qlen + row, products * factor, mask=row < qlen)
