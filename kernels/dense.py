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

# Below, setting up oneDNN's product takes longer than MKL's whole one.
MIN_PRODUCTS = 2_000_000


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias, differentiable; `[…, out]`.

    Args:
        x: `[…, in]`.
        weight: `[out, in]`.
        bias: `[out]`, or None.
    """
    if not _takes(x, weight):
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


# `repr` and whoever looks a layer up by its class's name see the layer that it stands for.
Linear.__name__ = nn.Linear.__name__


def use_dense(model: nn.Module) -> nn.Module:
    """Give every plain `torch.nn.Linear` inside `model` this module's class, in place; weights and names stay.

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
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (grad,) = gradients
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            linear(grad, weight.T) if needs_x else None,
            linear(rows.T, x.reshape(-1, x.shape[-1]).T) if needs_weight else None,
            rows.sum(0) if ctx.biased and needs_bias else None,
        )


def _takes(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product is there for these, and worth its call."""
    return (
        not torch.compiler.is_compiling()  # first: the sizes below would become conditions of what is traced
        and _has_onednn()
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.ndim >= 2
        and math.prod(x.shape) * weight.shape[0] >= MIN_PRODUCTS
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


@functools.cache
def _has_onednn() -> bool:
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return wide and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
