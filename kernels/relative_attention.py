"""`relative_attention`: attention with content, relative-position and segment terms, as one differentiable torch op.

The score of query i and key j, with one head's vectors of size d (Transformer-XL, Dai et al. 2019, eq. in §3.3;
XLNet, Yang et al. 2019, §2.4 and §2.5):

    s_ij = [ (q_i + u)·k_j + (q_i + w)·r_{i−j} + (q_i + b)·g_ij ] · scale

masked, through a softmax over j, times v. The op is `torch.ops.understudy.relative_attention`: it has a fake
implementation and a gradient, so that torch.compile and torch.export carry it whole.
"""

from typing import Any

import torch
from torch import Tensor

from kernels import dispatch
from kernels.arguments import DIFFERENTIABLE, Arguments, check

_PARAMETERS = (
    "Tensor q, Tensor k, Tensor v, Tensor? r, Tensor? content_bias, Tensor? position_bias, Tensor? segment_bias, "
    "Tensor? segment_embedding, Tensor? query_segments, Tensor? key_segments, Tensor? mask, Tensor? seed, "
    "bool see_self, float scale, float dropout"
)


def relative_attention(
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
    dropout: float = 0.0,
) -> Tensor:
    """Attention of `q` over `k` and `v` with relative positions and segments; plain attention where these are None.

    Query i stands at position i + klen − qlen of the keys, so that keys in front of the queries are memory.

    Args:
        q: `[batch, heads, qlen, d_head]`, float32, float16, bfloat16 or float64; every other float tensor likewise.
        k: `[batch, heads, klen, d_head]`.
        v: `[batch, heads, klen, d_head]`.
        r: projected positions, `[heads, qlen + klen, d_head]`: row p stands for the relative position (query's minus
            key's) klen − p, from klen down to 1 − qlen. Row 0 is never met. With two or more encodings in a batch,
            `[groups, heads, qlen + klen, d_head]`: the first batch / groups items use the first one, and so on.
        content_bias: u of the formula, `[heads, d_head]`; None counts as zero, here and below.
        position_bias: w of the formula, `[heads, d_head]`; needs `r`.
        segment_bias: b of the formula, `[heads, d_head]`; needs `segment_embedding`.
        segment_embedding: g for a pair in the same segment and g for a pair in different ones, `[2, heads, d_head]`.
        query_segments: segment ids, `[batch, qlen]`, int64 or int32; needed with `segment_embedding`.
        key_segments: segment ids, `[batch, klen]`, likewise.
        mask: bool, True hides: `[batch or 1, klen]` hides keys from all queries (padding), `[batch or 1, qlen, klen]`
            hides pairs. A query that sees no key gets the mean of all values, never NaN; backwards, it has the
            gradient of a softmax at equal probabilities. Both are what an additive mask of −1e30 gives.
        see_self: each query sees the key at its own position whatever `mask` says (XLNet's content stream).
        scale: factor of the whole score; 1 / √d_head by default.
        dropout: probability with which an attention weight is dropped; zero outside training. Seeded from torch's
            global generator.

    Returns:
        `[batch, heads, qlen, d_head]` in q's dtype.

    Raises:
        TypeError: an argument is no tensor, or has the wrong dtype; the message names it.
        ValueError: a shape, device or combination does not fit; the message names the argument.
    """
    if isinstance(r, Tensor):
        if r.ndim not in (3, 4):
            raise ValueError(f"r: expected [heads, qlen + klen, d_head] or groups of it, got {list(r.shape)}")
        r = r.unsqueeze(0) if r.ndim == 3 else r
    arguments = Arguments(
        q, k, v, r, content_bias, position_bias, segment_bias, segment_embedding, query_segments, key_segments, mask,
        None, bool(see_self), 0.0, float(dropout),
    )  # fmt: skip
    check(arguments)
    seed = torch.randint(2**31 - 1, (), dtype=torch.int64) if dropout > 0 else None
    arguments = arguments._replace(seed=seed, scale=q.shape[3] ** -0.5 if scale is None else float(scale))
    return _op(*arguments)[0]


@torch.library.custom_op(
    "understudy::relative_attention", mutates_args=(), schema=f"({_PARAMETERS}) -> (Tensor, Tensor)"
)
def _op(*arguments: Any) -> tuple[Tensor, Tensor]:
    return dispatch.forward(Arguments(*arguments))


@_op.register_fake
def _op_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    q = arguments[0]
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=_logsumexp_dtype(q))


@torch.library.custom_op(
    "understudy::relative_attention_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor out, Tensor logsumexp, {_PARAMETERS}) -> Tensor[]",
)
def _op_backward(grad: Tensor, out: Tensor, logsumexp: Tensor, *arguments: Any) -> list[Tensor]:
    return dispatch.backward(Arguments(*arguments), grad, out, logsumexp)


@_op_backward.register_fake
def _op_backward_fake(grad: Tensor, out: Tensor, logsumexp: Tensor, *arguments: Any) -> list[Tensor]:  # noqa: ARG001
    a = Arguments(*arguments)
    present = (getattr(a, name) for name in DIFFERENTIABLE)
    return [torch.empty_like(x) for x in present if x is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    a = Arguments(*inputs)
    ctx.save_for_backward(*output, *a[:12])
    ctx.options = a[12:]
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    out, logsumexp, *tensors = ctx.saved_tensors
    gradients = iter(_op_backward(grad, out, logsumexp, *tensors, *ctx.options))
    named = zip(Arguments._fields, tensors, strict=False)
    found = [next(gradients) if name in DIFFERENTIABLE and x is not None else None for name, x in named]
    return (*found, *(None for _ in ctx.options))


_op.register_autograd(_differentiate, setup_context=_save)


def _logsumexp_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32
