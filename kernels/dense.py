"""Dense layers in float32 on CPUs with AVX-512: through oneDNN, where PyTorch's own choice takes half its speed.

PyTorch sends float32 products to MKL, which uses AVX-512 on Intel's processors and AVX2 on everybody else's. oneDNN,
which PyTorch ships beside it, uses what the processor has: on an AMD EPYC of the fifth generation 460–500 GFLOP/s on
two cores against MKL's 210–230. Everywhere else, and under autocast, tracing or function transforms, `linear` is
`torch.nn.functional.linear`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

# Below, setting up oneDNN's product takes longer than MKL's whole one.
MIN_PRODUCTS = 2_000_000
# Numbers of rows, and in the gradient of a weight of products to sum up, are rounded up to a multiple of this.
ROUNDED = 64


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias, differentiable; `[…, out]`.

    Args:
        x: `[…, in]`.
        weight: `[out, in]`.
        bias: `[out]`, or None.
    """
    if not _takes(x, weight, bias):
        return nn.functional.linear(x, weight, bias)
    given = (x, weight) if bias is None else (x, weight, bias)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        result: Tensor = _Linear.apply(x, weight, bias)
        return result
    return _product(x, weight, bias)


class Linear(nn.Linear):
    """`torch.nn.Linear` over `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """`[…, in]` to `[…, out]`."""
        return linear(input, self.weight, self.bias)


def use_dense(model: nn.Module) -> nn.Module:
    """Give every plain `torch.nn.Linear` inside `model` this module's class, in place; weights and names stay.

    What looks for layers of exactly PyTorch's class, as quantization does, does not find them until `use_stock`.

    Returns:
        The model itself.
    """
    return _exchange(model, nn.Linear, Linear)


def use_stock(model: nn.Module) -> nn.Module:
    """Undo `use_dense`, in place.

    Returns:
        The model itself.
    """
    return _exchange(model, Linear, nn.Linear)


def _exchange(model: nn.Module, old: type, new: type) -> nn.Module:
    for module in model.modules():
        if type(module) is old:  # a subclass has a forward pass of its own
            module.__class__ = new
    return model


class _Linear(torch.autograd.Function):
    """The differentiable product; its gradients are products of the same kind, so it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (grad,) = gradients
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            linear(grad, weight.T) if weight is not None else None,
            linear(rows.T, x.reshape(-1, x.shape[-1]).T) if x is not None else None,
            rows.sum(0) if ctx.needs_input_grad[2] else None,
        )


def _takes(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN's product is there for these, means the same, and is worth its call."""
    return (
        # What is traced or transformed shall be PyTorch's own operator; its sizes below would become conditions, too.
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and _get_current_dispatch_mode() is None
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
        and _has_onednn()
        and torch.backends.mkldnn.enabled
        and all(_is_plain(tensor) for tensor in (x, weight, bias) if tensor is not None)
        and x.ndim >= 2
        and weight.ndim == 2
        and x.shape[-1] == weight.shape[1]
        # oneDNN takes the numbers of a bias to lie one behind the other.
        and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))
        and math.prod(x.shape) * weight.shape[0] >= MIN_PRODUCTS
    )


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
    )


@functools.cache
def _has_onednn() -> bool:
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    count, width = rows.shape
    # oneDNN compiles code for each new size and keeps it, 0.4 MB a time: texts of all lengths would take gigabytes.
    more_rows, more_width = -count % ROUNDED, -width % ROUNDED
    if more_rows or more_width:
        rows = nn.functional.pad(rows, (0, more_width, 0, more_rows))
        weight = nn.functional.pad(weight, (0, more_width)) if more_width else weight
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product[:count].view(*x.shape[:-1], weight.shape[0])
