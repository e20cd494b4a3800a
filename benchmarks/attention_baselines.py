"""What `relative_attention` is measured against: other ways to compute the same function, and floors below it.

Every implementation is a function of one `Problem` to the attended values, `[batch, heads, length, d_head]`. Those
that project the positions do so inside the call: once for every item of the batch, as the common implementation does,
or once for all. The others are given the projected positions, so that the kernel's gain and the gain of projecting
once are told apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from kernels.relative_attention import relative_attention

FLOATS = (
    "q", "k", "v", "weight", "r", "content_bias", "position_bias", "segment_bias", "segment_embedding",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """The attention of one XLNet layer over items of two segments each, without padding.

    Attributes:
        q, k, v: `[batch, heads, length, d_head]`.
        sinusoids: the relative positions length … 1 − length before their projection, `[2 · length, d_model]`, where
            d_model is heads · d_head.
        weight: of that projection, `[d_model, heads, d_head]`.
        r: the projected positions, `[heads, 2 · length, d_head]`; takes its gradient apart from `weight`.
        content_bias, position_bias, segment_bias: `[heads, d_head]`.
        segment_embedding: of the same and of another segment, `[2, heads, d_head]`.
        segments: of each token, `[batch, length]`, int64.
        one_hot: whether query and key share a segment, `[length, length, batch, 2]` in the floats' dtype. The stock
            model makes it once for all layers, hence not in the call.
        upstream: a gradient of the output, shaped like it.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    sinusoids: Tensor
    weight: Tensor
    r: Tensor
    content_bias: Tensor
    position_bias: Tensor
    segment_bias: Tensor
    segment_embedding: Tensor
    segments: Tensor
    one_hot: Tensor
    upstream: Tensor

    @property
    def scale(self) -> float:
        return float(self.q.shape[-1] ** -0.5)

    def with_leaves(self) -> Problem:
        """The same numbers as leaves of a new graph: a captured CUDA graph may not meet an earlier stream's leaves."""
        return replace(self, **{name: getattr(self, name).detach().requires_grad_() for name in FLOATS})


def make_problem(
    batch: int,
    length: int,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    heads: int = 12,
    d_head: int = 64,
    seed: int = 0,
) -> Problem:
    """Random numbers of about the size that they have in a trained model; the same ones for the same seed."""
    generator = torch.Generator(device).manual_seed(seed)
    d_model = heads * d_head

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return std * torch.randn(shape, generator=generator, dtype=dtype, device=device)

    position = length - torch.arange(2 * length, device=device, dtype=torch.float32)
    angle = position[:, None] / 10000 ** (torch.arange(0, d_model, 2, device=device) / d_model)
    sinusoids = torch.cat([angle.sin(), angle.cos()], -1).to(dtype)
    weight = normal(d_model, heads, d_head, std=(2 / d_model) ** 0.5)
    # Where the second segment begins differs from item to item.
    start = torch.randint(1, length + 1, (batch, 1), generator=generator, device=device)
    segments = (torch.arange(length, device=device) >= start).long()
    differ = segments.T[:, None] != segments.T[None]
    return Problem(
        q=normal(batch, heads, length, d_head),
        k=normal(batch, heads, length, d_head),
        v=normal(batch, heads, length, d_head),
        sinusoids=sinusoids,
        weight=weight,
        r=project(sinusoids, weight).contiguous(),
        content_bias=normal(heads, d_head, std=0.5),
        position_bias=normal(heads, d_head, std=0.5),
        segment_bias=normal(heads, d_head, std=0.5),
        segment_embedding=normal(2, heads, d_head),
        segments=segments,
        one_hot=torch.stack([~differ, differ], -1).to(dtype),
        upstream=normal(batch, heads, length, d_head),
    )


def project(sinusoids: Tensor, weight: Tensor) -> Tensor:
    """Positions `[2 · length, d_model]` by `[d_model, heads, d_head]`: a view `[heads, 2 · length, d_head]`."""
    return (sinusoids @ weight.flatten(1)).unflatten(-1, weight.shape[1:]).transpose(0, 1)


def fused(p: Problem) -> Tensor:
    """`relative_attention` with the projected positions given: `[batch, heads, length, d_head]`, as all below."""
    return _relative_attention(p, p.r)


def fused_projecting(p: Problem) -> Tensor:
    """`relative_attention`, the positions projected once inside the call."""
    return _relative_attention(p, project(p.sinusoids, p.weight))


def eager_per_item(p: Problem) -> Tensor:
    """The common implementation, step by step transformers' XLNetRelativeAttention: positions projected per item."""
    batch = p.q.shape[0]
    r = torch.einsum("ibh,hnd->ibnd", p.sinusoids[:, None].expand(-1, batch, -1), p.weight)
    q = p.q.permute(2, 0, 1, 3)
    return _eager(p, torch.einsum("ibnd,jbnd->bnij", q + p.position_bias, r))


def eager(p: Problem) -> Tensor:
    """The common implementation with the positions projected once."""
    r = torch.einsum("ih,hnd->ind", p.sinusoids, p.weight)
    q = p.q.permute(2, 0, 1, 3)
    return _eager(p, torch.einsum("ibnd,jnd->bnij", q + p.position_bias, r))


def biased_sdpa(p: Problem) -> Tensor:
    """PyTorch's fused attention, position and segment scores as its additive mask `[batch, heads, length, length]`."""
    # The scale goes into the queries, where it costs a pass over [length, d_head] and not over [length, length].
    positions = shift(((p.q + p.position_bias[:, None]) * p.scale) @ p.r.mT)
    differ = (p.segments[:, None, :, None] != p.segments[:, None, None]).to(p.q.dtype)
    bias = torch.addcmul(positions, differ, (across(p) * p.scale)[..., None])
    return scaled_dot_product_attention(p.q + p.content_bias[:, None], p.k, p.v, attn_mask=bias, scale=p.scale)


def flex(p: Problem) -> Tensor:
    """FlexAttention that reads position scores `[batch, heads, length, 2 · length]` and segments; compiled on CUDA."""
    form = _compiled_flex() if p.q.is_cuda else _flex
    result: Tensor = form(
        p.q, p.k, p.v, p.r, p.content_bias, p.position_bias, p.segment_bias, p.segment_embedding, p.segments
    )
    return result


def flash_floor(p: Problem) -> Tensor:
    """PyTorch's flash attention of the content alone, neither positions nor segments nor biases: a lower bound."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(p.q, p.k, p.v)


def cudnn_floor(p: Problem) -> Tensor:
    """The same bound through cuDNN."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return scaled_dot_product_attention(p.q, p.k, p.v)


def shift(scores: Tensor) -> Tensor:
    """Scores of query i and position row p, `[…, length, 2 · length]`, as a view of query i and key j = p − length + i.

    Transformer-XL's shift by reshaping: rows read one element short start one further left each.
    """
    *lead, rows, width = scores.shape
    return scores.view(*lead, width, rows)[..., 1:, :].view(*lead, rows, width - 1)[..., : width - rows]


def across(p: Problem) -> Tensor:
    """What a key in the other segment adds to a query's score, unscaled: `[batch, heads, length]`.

    The softmax does not see what all keys share, so the difference of the two embeddings is enough.
    """
    return _across(p.q, p.segment_bias, p.segment_embedding)


class Implementation(NamedTuple):
    """One competitor.

    Attributes:
        name: as reports have it.
        call: the function.
        peer: the form of `relative_attention` with the same inputs, by which its answers are checked and its times
            divided.
        exact: whether it computes the same function; a floor does not.
    """

    name: str
    call: Callable[[Problem], Tensor]
    peer: str
    exact: bool = True


FUSED = "relative_attention"
FUSED_PROJECTING = "relative_attention, projecting"
COMMON = "eager, projecting per item"
EAGER = "eager, projecting once"
BIASED = "SDPA with bias"
FLEX = "FlexAttention"
FLASH = "SDPA flash without bias"
CUDNN = "SDPA cuDNN without bias"

IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (
        Implementation(FUSED, fused, FUSED),
        Implementation(FUSED_PROJECTING, fused_projecting, FUSED_PROJECTING),
        Implementation(FLASH, flash_floor, FUSED, exact=False),
        Implementation(CUDNN, cudnn_floor, FUSED, exact=False),
        Implementation(COMMON, eager_per_item, FUSED_PROJECTING),
        Implementation(EAGER, eager, FUSED_PROJECTING),
        Implementation(BIASED, biased_sdpa, FUSED),
        Implementation(FLEX, flex, FUSED),
    )
}


def _relative_attention(p: Problem, r: Tensor) -> Tensor:
    return relative_attention(
        p.q, p.k, p.v, r, content_bias=p.content_bias, position_bias=p.position_bias, segment_bias=p.segment_bias,
        segment_embedding=p.segment_embedding, query_segments=p.segments, key_segments=p.segments,
    )  # fmt: skip


def _eager(p: Problem, positions: Tensor) -> Tensor:
    """Everything after the position scores `[batch, heads, length, 2 · length]`."""
    q, k, v = (x.permute(2, 0, 1, 3) for x in (p.q, p.k, p.v))
    content = torch.einsum("ibnd,jbnd->bnij", q + p.content_bias, k)
    # The stock model picks by index, which copies, where a slice would do.
    batch, heads, length, width = positions.shape
    positions = positions.reshape(batch, heads, width, length)[:, :, 1:].reshape(batch, heads, length, width - 1)
    positions = positions.index_select(3, torch.arange(length, device=q.device))
    segments = torch.einsum("ibnd,snd->ibns", q + p.segment_bias, p.segment_embedding)
    segments = torch.einsum("ijbs,ibns->bnij", p.one_hot, segments)
    weights = torch.softmax((content + positions + segments) * p.scale, dim=3)
    return torch.einsum("bnij,jbnd->ibnd", weights, v).permute(1, 2, 0, 3)


def _across(q: Tensor, segment_bias: Tensor, segment_embedding: Tensor) -> Tensor:
    return ((q + segment_bias[:, None]) @ segment_embedding.diff(dim=0)[0][..., None])[..., 0]


def _flex(
    q: Tensor, k: Tensor, v: Tensor, r: Tensor, content_bias: Tensor, position_bias: Tensor, segment_bias: Tensor,
    segment_embedding: Tensor, segments: Tensor,
) -> Tensor:  # fmt: skip
    length, scale = q.shape[2], q.shape[3] ** -0.5
    positions = ((q + position_bias[:, None]) * scale) @ r.mT
    apart = _across(q, segment_bias, segment_embedding) * scale

    def score(content: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        differ = segments[b, i] != segments[b, j]
        return content + positions[b, h, i, length - i + j] + torch.where(differ, apart[b, h, i], 0.0)

    result: Tensor = flex_attention(q + content_bias[:, None], k, v, score_mod=score, scale=scale)
    return result


@functools.cache
def _compiled_flex() -> Any:
    """Compiled whole, so that the compiler may fuse what leads up to the attention; for fixed shapes, its best case."""
    return torch.compile(_flex, dynamic=False)
