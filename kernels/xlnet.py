"""A transformers XLNet on `relative_attention`, and back: the same weights, the same outputs and gradients.

`fuse` and `unfuse` exchange the classes of the XLNetModel inside any XLNet head and of its attention layers, in place.
Parameters, state dict, configuration and saved files stay those of the stock model.
`kernels.xlnet_attention` says what little differs. Dense layers go through `kernels.dense`.
"""

from torch import nn
from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetRelativeAttention

from kernels.dense import use_dense, use_stock
from kernels.xlnet_attention import FusedRelativeAttention
from kernels.xlnet_model import FusedXLNetModel


def fuse(model: nn.Module) -> nn.Module:
    """Make an XLNet use `relative_attention`, in place; a model already fused stays as it is.

    `output_attentions=True` still works, through the stock layers, since the op never holds the probabilities. Quantize
    a model that is not fused: its dense layers have a class of their own meanwhile (`kernels.dense`).

    Args:
        model: transformers' XLNetModel or any model with one inside (XLNetForSequenceClassification,
            XLNetLMHeadModel, …).

    Returns:
        The model itself.

    Raises:
        TypeError: there is no XLNetModel in `model`, or one of a subclass whose forward this one would replace.
    """
    return use_dense(_exchange(model, {XLNetModel: FusedXLNetModel, XLNetRelativeAttention: FusedRelativeAttention}))


def unfuse(model: nn.Module) -> nn.Module:
    """Give a fused XLNet its stock classes back, in place, and drop frozen positions; a stock model stays as it is.

    Returns:
        The model itself.

    Raises:
        TypeError: there is no XLNetModel in `model`.
    """
    _exchange(model, {FusedXLNetModel: XLNetModel, FusedRelativeAttention: XLNetRelativeAttention})
    for module in model.modules():
        if type(module) is XLNetRelativeAttention:
            module.__dict__.pop("frozen", None)
    return use_stock(model)


def is_fused(model: nn.Module) -> bool:
    """Whether `model` holds an XLNetModel that uses `relative_attention`."""
    return any(isinstance(module, FusedXLNetModel) for module in model.modules())


def freeze_positions(model: nn.Module, length: int) -> nn.Module:
    """Project the relative positions of a fused XLNet once, for inference: they depend on its weights and clamp_len.

    What is kept serves every text up to `length` tokens, memory included, without gradients and until the model is
    trained, or its weights changed as PyTorch's version counters see it. Not with `bi_data`, nor for weights made in
    inference mode.

    Args:
        model: fused, on the device and in the dtype that it will run in.
        length: tokens; longer texts have their positions projected as they come.

    Returns:
        The model itself.

    Raises:
        TypeError: there is no fused XLNet in `model`.
        ValueError: a length below 1.
    """
    fused = [module for module in model.modules() if isinstance(module, FusedXLNetModel)]
    if not fused:
        raise TypeError(f"model: expected a fused XLNet, got {type(model).__name__}; call fuse first")
    if length < 1:
        raise ValueError(f"length: expected at least 1, got {length}")
    for module in fused:
        if not module.bi_data:
            sinusoids = module.relative_positions(length, length, 1)
            for layer in module.layer:
                layer.rel_attn.freeze_positions(sinusoids)
    return model


def _exchange(model: nn.Module, classes: dict[type, type]) -> nn.Module:
    known = {*classes, *classes.values()}
    modules = [m for m in model.modules() if isinstance(m, XLNetModel | XLNetRelativeAttention)]
    if not modules:
        raise TypeError(f"model: expected a transformers XLNet model, got {type(model).__name__}")
    for module in modules:
        if type(module) not in known:
            raise TypeError(
                f"model: {type(module).__name__} is a subclass of its own; only the stock class is exchanged"
            )
    for module in modules:
        module.__class__ = classes.get(type(module), type(module))
    return model
