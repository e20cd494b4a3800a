"""A classifier in the form that exports best: attention as one operator; XLNet's last layer for the last token only.

Transformers' own attention comes out of the exporter as a dozen operators that no optimizer recognises. Here each call
becomes `com.microsoft::MultiHeadAttention`, which splits the heads itself and knows padding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from kernels.xlnet import is_fused

ATTENTION = "understudy_onnx"
# What the operator puts in a padded key's place. It swallows every true score.
_HIDDEN = -1e30
_CHUNK = "chunk_size_feed_forward"


@contextlib.contextmanager
def exported_form(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model is in that form, as far as its family can be."""
    with _whole_feed_forwards(model), _attending_by_operator(model):
        yield


@contextlib.contextmanager
def _whole_feed_forwards(model: PreTrainedModel) -> Iterator[None]:
    """Cut into chunks to save memory, they give the same numbers, and a graph that has their count baked in."""
    chunked = [module for module in model.modules() if getattr(module, _CHUNK, 0)]
    sizes = [getattr(module, _CHUNK) for module in chunked]
    for module in chunked:
        setattr(module, _CHUNK, 0)
    try:
        yield
    finally:
        for module, size in zip(chunked, sizes, strict=True):
            setattr(module, _CHUNK, size)


@contextlib.contextmanager
def _attending_by_operator(model: PreTrainedModel) -> Iterator[None]:
    if is_fused(model):
        model.base_model.last_only = True
        try:
            yield
        finally:
            model.base_model.last_only = False
        return
    # The operator knows padding and nothing else, so that a decoder's order would be lost.
    if not getattr(model, "_supports_attention_backend", False) or getattr(model.config, "is_decoder", False):
        yield
        return
    usual = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def _attention(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scaling: float | None = None,
    **_options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention as transformers calls it: `[batch, heads, length, d_head]` each and a mask `[batch, length]`, True
    where a key is visible, to `[batch, length, heads, d_head]`."""
    heads, d_head = query.shape[1], query.shape[3]
    q, k, v = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
    out: Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (q, k, v, None, mask.to(torch.int32)),
        {"num_heads": heads, "scale": d_head**-0.5 if scaling is None else scaling, "mask_filter_value": _HIDDEN},
        dtype=query.dtype,
        shape=q.shape,
        version=1,
    )
    return out.unflatten(2, (heads, value.shape[3])), None


def _mask(*_arguments: Any, attention_mask: Tensor, **_options: Any) -> Tensor:
    return attention_mask


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
