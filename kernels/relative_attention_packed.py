"""`relative_attention_packed`: the op over texts that lie one behind the other, without padding; forward only.

The layout is that of variable-length attention elsewhere: all tokens of all texts in one axis, and `cu_seqlens`, the
cumulative lengths, which say where each text begins and ends. A text's rows are those of `relative_attention` over
that text alone.
"""

from typing import Any

import torch
from torch import Tensor

from kernels import dispatch
from kernels.arguments import DIFFERENTIABLE, Arguments, check


def relative_attention_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    r: Tensor | None = None,
    *,
    content_bias: Tensor | None = None,
    position_bias: Tensor | None = None,
    segment_bias: Tensor | None = None,
    segment_embedding: Tensor | None = None,
    segments: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention within each text, with relative positions and segments; plain attention where these are None.

    Args:
        q: `[tokens, heads, d_head]`, float32, float16, bfloat16 or float64; every other float tensor likewise.
        k: `[tokens, heads, d_head]`.
        v: `[tokens, heads, d_head]`.
        cu_seqlens: int32 or int64 `[texts + 1]`, from 0 on: text n is the rows cu_seqlens[n] to cu_seqlens[n + 1] − 1.
            A text may be empty, and rows may be left over behind the last one. On CUDA its values are not looked at,
            since that would wait for the GPU: there a text beyond the last token reads foreign memory, and a longer
            one than `max_length` ends at it.
        max_length: of the longest text, or more.
        r: projected positions, `[heads, 2 · max_length, d_head]`: row p stands for the relative position (query's minus
            key's) max_length − p.
        content_bias: u of the formula in `relative_attention`, `[heads, d_head]`; None counts as zero.
        position_bias: w, `[heads, d_head]`; needs `r`.
        segment_bias: b, `[heads, d_head]`; needs `segment_embedding`.
        segment_embedding: g for a pair in the same segment and for a pair in different ones, `[2, heads, d_head]`.
        segments: segment ids, int64 or int32 `[tokens]`; needed with `segment_embedding`.
        scale: factor of the whole score; 1 / √d_head by default.

    Returns:
        `[tokens, heads, d_head]` in q's dtype; zeros in rows of no text.

    Raises:
        TypeError: an argument is no tensor, or has the wrong dtype; the message names it.
        ValueError: a shape, device, length or combination does not fit, or a gradient is asked for.
    """
    for name, value in (("q", q), ("k", k), ("v", v)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        if value.ndim != 3:
            raise ValueError(f"{name}: expected [tokens, heads, d_head], got {list(value.shape)}")
        if value.shape != q.shape:
            raise ValueError(f"{name}: expected {list(q.shape)} to fit q, got {list(value.shape)}")
    if isinstance(segments, Tensor) and segments.shape != q.shape[:1]:
        raise ValueError(f"segments: expected {list(q.shape[:1])}, got {list(segments.shape)}")
    arguments = _as_one_item(
        q, k, v, None, content_bias, None, segment_bias, segment_embedding, segments,
        q.shape[-1] ** -0.5 if scale is None else float(scale),
    )  # fmt: skip
    check(arguments, names={"query_segments": "segments", "key_segments": "segments"})
    _check_positions(q, r, position_bias, max_length)
    _check_lengths(cu_seqlens, max_length, q)
    given = [(name, getattr(arguments, name)) for name in DIFFERENTIABLE] + [("r", r), ("position_bias", position_bias)]
    for name, value in given:
        if torch.is_grad_enabled() and value is not None and value.requires_grad:
            raise ValueError(f"{name}: requires a gradient, which only relative_attention has; use torch.no_grad()")
    return _op(
        q, k, v, cu_seqlens, max_length, r, content_bias, position_bias, segment_bias, segment_embedding, segments,
        arguments.scale,
    )  # fmt: skip


@torch.library.custom_op(
    "understudy::relative_attention_packed",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, SymInt max_length, Tensor? r, Tensor? content_bias, "
    "Tensor? position_bias, Tensor? segment_bias, Tensor? segment_embedding, Tensor? segments, float scale) -> Tensor",
)
def _op(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_length: int, r: Tensor | None, *rest: Any) -> Tensor:
    content_bias, position_bias, segment_bias, segment_embedding, segments, scale = rest
    arguments = _as_one_item(q, k, v, r, content_bias, position_bias, segment_bias, segment_embedding, segments, scale)
    out = dispatch.forward_packed(arguments, cu_seqlens, max_length)
    return out[0].transpose(0, 1)


@_op.register_fake
def _op_fake(q: Tensor, *_: Any) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _as_one_item(
    q: Tensor, k: Tensor, v: Tensor, r: Tensor | None, content_bias: Tensor | None, position_bias: Tensor | None,
    segment_bias: Tensor | None, segment_embedding: Tensor | None, segments: Tensor | None, scale: float,
) -> Arguments:  # fmt: skip
    """The arguments in the form of `relative_attention`, all tokens as one item: views, nothing is copied."""
    query, key, value = (x.transpose(0, 1)[None] for x in (q, k, v))
    ids = segments[None] if isinstance(segments, Tensor) else segments
    return Arguments(
        query, key, value, r[None] if r is not None else None, content_bias, position_bias, segment_bias,
        segment_embedding, ids, ids, None, None, False, scale, 0.0,
    )  # fmt: skip


def _check_positions(q: Tensor, r: Tensor | None, position_bias: Tensor | None, max_length: int) -> None:
    _, heads, d_head = q.shape
    expected = {"r": (r, [heads, 2 * max_length, d_head]), "position_bias": (position_bias, [heads, d_head])}
    for name, (value, shape) in expected.items():
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        if list(value.shape) != shape:
            raise ValueError(f"{name}: expected {shape}, got {list(value.shape)}")
        if value.dtype != q.dtype:
            raise TypeError(f"{name}: its dtype {value.dtype} differs from q's {q.dtype}")
        if value.device != q.device:
            raise ValueError(f"{name}: on {value.device}, but q is on {q.device}")
    if r is None and position_bias is not None:
        raise ValueError("position_bias: given without r, which it is multiplied with")


def _check_lengths(cu_seqlens: Tensor, max_length: int, q: Tensor) -> None:
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(f"cu_seqlens: expected a tensor, got {type(cu_seqlens).__name__}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens: expected int32 or int64, got {cu_seqlens.dtype}")
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(f"cu_seqlens: expected [texts + 1], got {list(cu_seqlens.shape)}")
    if cu_seqlens.device != q.device:
        raise ValueError(f"cu_seqlens: on {cu_seqlens.device}, but q is on {q.device}")
    if isinstance(max_length, bool) or not isinstance(max_length, int | torch.SymInt) or max_length < 1:
        raise ValueError(f"max_length: expected a whole number above 0, got {max_length!r}")
    if cu_seqlens.device.type != "cpu" or type(cu_seqlens) is not Tensor or torch.compiler.is_compiling():
        return
    lengths = cu_seqlens.diff()
    if bool((lengths < 0).any()) or int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) > q.shape[0]:
        raise ValueError(f"cu_seqlens: expected rising positions from 0 to at most {q.shape[0]} tokens")
    if lengths.numel() and int(lengths.max()) > max_length:
        raise ValueError(f"max_length: {max_length} is below the longest text, {int(lengths.max())}")
