"""What `relative_attention` takes, and the checks that turn a misfit into one error naming the argument."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# The arguments with a gradient, in the order in which the backward pass returns those that are present.
DIFFERENTIABLE = (
    "q",
    "k",
    "v",
    "r",
    "content_bias",
    "position_bias",
    "segment_bias",
    "segment_embedding",
)


class Arguments(NamedTuple):
    """The op's arguments in the order of its schema; shapes are those of `relative_attention`, checked by `check`.

    `r` is always `[groups, heads, qlen + klen, d_head]` here.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    r: Tensor | None
    content_bias: Tensor | None
    position_bias: Tensor | None
    segment_bias: Tensor | None
    segment_embedding: Tensor | None
    query_segments: Tensor | None
    key_segments: Tensor | None
    mask: Tensor | None
    seed: Tensor | None
    see_self: bool
    scale: float
    dropout: float


def check(a: Arguments, names: Mapping[str, str] | None = None) -> None:
    """Raise for the first argument that does not fit the others.

    Args:
        names: what the caller calls an argument, where that is not its name here.

    Raises:
        TypeError: an argument is no tensor, or of the wrong dtype.
        ValueError: a shape, device, range or combination that does not fit.
    """
    try:
        _check(a)
    except (TypeError, ValueError) as error:
        name, separator, rest = str(error).partition(":")
        if names is None or name not in names:
            raise
        raise type(error)(names[name] + separator + rest) from None


def _check(a: Arguments) -> None:
    _check_tensors(a)
    if a.q.ndim != 4:
        raise ValueError(f"q: expected [batch, heads, length, d_head], got {_shape(a.q)}")
    batch, heads, qlen, d_head = a.q.shape
    if a.k.ndim != 4 or a.k.shape[:2] != a.q.shape[:2] or a.k.shape[3] != d_head:
        raise ValueError(f"k: expected [{batch}, {heads}, length, {d_head}] to fit q, got {_shape(a.k)}")
    _expect("v", a.v, a.k.shape)
    if d_head == 0:
        raise ValueError("q: heads of size 0 hold nothing to compare")
    klen = a.k.shape[2]
    if qlen == 0 or klen == 0:
        raise ValueError(f"{'q' if qlen == 0 else 'k'}: length 0 leaves nothing to attend")

    if a.r is not None:
        groups = a.r.shape[0]
        _expect("r", a.r, (groups, heads, qlen + klen, d_head))
        if groups == 0 or batch % groups != 0:
            raise ValueError(f"r: its {groups} groups do not divide q's batch of {batch}")
    elif a.position_bias is not None:
        raise ValueError("position_bias: given without r, which it is multiplied with")

    given = [name for name in ("query_segments", "key_segments") if getattr(a, name) is not None]
    if a.segment_embedding is not None:
        _expect("segment_embedding", a.segment_embedding, (2, heads, d_head))
        for name, length in (("query_segments", qlen), ("key_segments", klen)):
            if name not in given:
                raise ValueError(f"{name}: needed with segment_embedding, [{batch}, {length}]")
            _expect(name, getattr(a, name), (batch, length))
    elif given or a.segment_bias is not None:
        raise ValueError(f"{given[0] if given else 'segment_bias'}: given without segment_embedding")

    for name in ("content_bias", "position_bias", "segment_bias"):
        if getattr(a, name) is not None:
            _expect(name, getattr(a, name), (heads, d_head))
    if a.mask is not None:
        fits = a.mask.shape[1:] == (klen,) if a.mask.ndim == 2 else a.mask.shape[1:] == (qlen, klen)
        if not fits or (a.mask.shape[0] != batch and a.mask.shape[0] != 1):
            raise ValueError(
                f"mask: expected [{batch} or 1, {klen}] or [{batch} or 1, {qlen}, {klen}], got {_shape(a.mask)}"
            )
    if not 0.0 <= a.dropout < 1.0:
        raise ValueError(f"dropout: expected a probability in [0, 1), got {a.dropout}")


def _check_tensors(a: Arguments) -> None:
    """Kind, dtype and device of every tensor argument."""
    for name, value in zip(Arguments._fields, a, strict=True):
        if name in ("seed", "see_self", "scale", "dropout") or (value is None and name not in "qkv"):
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
        if name in DIFFERENTIABLE:
            if value.dtype not in DTYPES:
                raise TypeError(f"{name}: expected float32, float16, bfloat16 or float64, got {value.dtype}")
            if value.dtype != a.q.dtype:
                raise TypeError(f"{name}: its dtype {value.dtype} differs from q's {a.q.dtype}")
        elif name == "mask" and value.dtype != torch.bool:
            raise TypeError(f"mask: expected bool (True hides a key), got {value.dtype}")
        elif name.endswith("_segments") and value.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name}: expected int64 or int32 segment ids, got {value.dtype}")
        if value.device != a.q.device:
            raise ValueError(f"{name}: on {value.device}, but q is on {a.q.device}")


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...] | torch.Size) -> None:
    if tensor.ndim != len(shape) or any(have != want for have, want in zip(tensor.shape, shape, strict=True)):
        raise ValueError(f"{name}: expected {list(shape)}, got {_shape(tensor)}")


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def empty_rows(like: Tensor) -> Tensor:
    """An empty tensor shaped like another, rows contiguous as the kernels write them."""
    empty = torch.empty_like(like)
    return empty if empty.stride(-1) == 1 else torch.empty(like.shape, dtype=like.dtype, device=like.device)


def laid_out_like(x: Tensor, like: Tensor) -> Tensor:
    """`x` in the dtype and strides that `torch.empty_like(like)` has, as the op's fake implementation promises."""
    promised = torch.empty_like(like)
    return x if x.dtype == promised.dtype and x.stride() == promised.stride() else promised.copy_(x)
