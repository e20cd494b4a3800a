"""An independent float64 reference of the op, and a maker of its inputs; shared by this room's tests."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Inputs = dict[str, Any]
FLOATS = (
    "q",
    "k",
    "v",
    "r",
    "content_bias",
    "position_bias",
    "segment_bias",
    "segment_embedding",
)


def formula(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None = None,
    *,
    content_bias: Tensor | None = None,
    position_bias: Tensor | None = None,
    segment_bias: Tensor | None = None,
    segment_embedding: Tensor | None = None,
    query_segments: Tensor | None = None,
    key_segments: Tensor | None = None,
    mask: Tensor | None = None,
    see_self: bool = False,
    scale: float | None = None,
) -> Tensor:
    """The score written out pair by pair, then a softmax over the visible keys of each row."""
    batch, heads, qlen, d_head = q.shape
    klen = k.shape[2]
    zero = q.new_zeros(heads, d_head)
    u, w, b = (zero if x is None else x for x in (content_bias, position_bias, segment_bias))
    items = []
    for item in range(batch):
        rows = []
        for i in range(qlen):
            scores, visible = [], []
            for j in range(klen):
                score = ((q[item, :, i] + u) * k[item, :, j]).sum(-1)
                if r is not None:
                    table = r if r.ndim == 3 else r[item * r.shape[0] // batch]
                    distance = (i + klen - qlen) - j
                    score = score + ((q[item, :, i] + w) * table[:, klen - distance]).sum(-1)
                if segment_embedding is not None:
                    assert query_segments is not None
                    assert key_segments is not None
                    g = segment_embedding[int(query_segments[item, i] != key_segments[item, j])]
                    score = score + ((q[item, :, i] + b) * g).sum(-1)
                scores.append(score)
                hidden = False
                if mask is not None:
                    of_item = mask[item if mask.shape[0] > 1 else 0]
                    hidden = bool(of_item[j] if mask.ndim == 2 else of_item[i, j])
                visible.append(not hidden or (see_self and j == i + klen - qlen))
            if not any(visible):
                rows.append(v[item].mean(1))
                continue
            seen = [j for j in range(klen) if visible[j]]
            chosen = torch.stack([scores[j] for j in seen], -1) * (d_head**-0.5 if scale is None else scale)
            rows.append(torch.einsum("hj,hjd->hd", chosen.softmax(-1), v[item][:, seen]))
        items.append(torch.stack(rows, 1))
    return torch.stack(items)


def make_inputs(
    batch: int = 2,
    heads: int = 2,
    qlen: int = 5,
    klen: int | None = None,
    d_head: int = 4,
    groups: int = 1,
    positions: bool = True,
    segments: bool = True,
    biases: bool = True,
    mask: str | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Inputs:
    """Random arguments of the op; `mask` is None, 'keys', 'left' (padding on the left) or 'pairs'."""
    rng = torch.Generator().manual_seed(seed)
    klen = qlen if klen is None else klen

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)

    inputs: Inputs = {name: normal(batch, heads, n, d_head) for name, n in (("q", qlen), ("k", klen), ("v", klen))}
    if positions:
        shape = (heads, qlen + klen, d_head)
        inputs["r"] = normal(*shape) if groups == 1 else normal(groups, *shape)
    if segments:
        inputs["segment_embedding"] = normal(2, heads, d_head)
        inputs["query_segments"] = torch.randint(3, (batch, qlen), generator=rng)
        inputs["key_segments"] = torch.randint(3, (batch, klen), generator=rng)
    if biases:
        inputs["content_bias"] = normal(heads, d_head)
        if positions:
            inputs["position_bias"] = normal(heads, d_head)
        if segments:
            inputs["segment_bias"] = normal(heads, d_head)
    if mask == "keys":
        inputs["mask"] = torch.rand(batch, klen, generator=rng) < 0.4
    elif mask == "left":
        inputs["mask"] = torch.arange(klen)[None] < torch.randint(1, klen + 1, (batch, 1), generator=rng)
    elif mask == "pairs":
        inputs["mask"] = torch.rand(batch, qlen, klen, generator=rng) < 0.4
    return inputs


def with_gradients(function: Callable[..., Tensor], inputs: Inputs, **changes: Any) -> dict[str, Tensor]:
    """The function's output and the gradients of a fixed weighting of it, by argument name, in float64."""
    leaves = {
        n: x.detach().clone().requires_grad_(n in FLOATS) if isinstance(x, Tensor) else x for n, x in inputs.items()
    }
    out = function(**(leaves | changes))
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    names = [name for name in FLOATS if name in leaves]
    gradients = torch.autograd.grad((out.double() * weight).sum(), [leaves[n] for n in names])
    return {"output": out.detach().double()} | {n: g.double() for n, g in zip(names, gradients, strict=True)}


@pytest.fixture(scope="session")
def reference() -> Callable[..., Tensor]:
    return formula


@pytest.fixture(scope="session")
def inputs_of() -> Callable[..., Inputs]:
    return make_inputs


@pytest.fixture(scope="session")
def gradients_of() -> Callable[..., dict[str, Tensor]]:
    return with_gradients
