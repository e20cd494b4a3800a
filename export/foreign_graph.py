"""What another tool's graph must look like to be a text classifier's."""

from __future__ import annotations

import math
from pathlib import Path

import onnx_ir as ir

from common.errors import InputError

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OUTPUT = "logits"
# A product with a weight of few bits, which is put together anew in floats for each product.
NBITS = "MatMulNBits"
_WHOLE_NUMBERS = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})


def check_signature(model: ir.Model, path: Path, labels: int) -> list[str]:
    """The names of the graph's inputs; its one output is called `logits` from here on.

    Args:
        path: for the messages.
        labels: how many the config has.

    Raises:
        InputError: the inputs and outputs are no text classifier's.
    """
    graph = model.graph
    # Older exporters list every weight as an input that has a default.
    inputs = [value for value in graph.inputs if str(value.name) not in graph.initializers]
    graph.inputs[:] = inputs
    names = [str(value.name) for value in inputs]
    if not {"input_ids", "attention_mask"} <= set(names) or not set(names) <= set(_INPUTS):
        raise InputError(f"{path} reads {', '.join(names)}; a text classifier reads {', '.join(_INPUTS)} (or no types)")
    for value in inputs:
        if value.dtype != ir.DataType.INT64 or value.shape is None or len(value.shape) != 2:
            raise InputError(f"{path}: the input {value.name} must be int64 [batch, length]")
        if any(isinstance(size, int) for size in value.shape):
            sizes = ", ".join(map(str, value.shape))
            raise InputError(f"{path}: the input {value.name} has a fixed size [{sizes}]: export it with dynamic axes")
    logits = _logits(graph, path)
    width = None if logits.shape is None or len(logits.shape) != 2 else logits.shape[1]
    if isinstance(width, int) and width != labels:
        raise InputError(f"{path} gives {width} logits; its config has {labels} labels")
    return names


def _logits(graph: ir.Graph, path: Path) -> ir.Value:
    by_name = [value for value in graph.outputs if value.name == _OUTPUT]
    if by_name:
        return by_name[0]
    if len(graph.outputs) != 1:
        raise InputError(
            f"{path} has no output '{_OUTPUT}' but {', '.join(str(value.name) for value in graph.outputs)}"
        )
    for node in graph:
        for value in node.outputs:
            if value.name == _OUTPUT:
                value.name = f"{_OUTPUT}_inside"
    graph.outputs[0].name = _OUTPUT
    return graph.outputs[0]


def opset_of(model: ir.Model) -> int:
    """Of the standard operators, whose domain has two spellings."""
    return next(model.opset_imports[domain] for domain in ("", "ai.onnx") if domain in model.opset_imports)


def bits_of(node: ir.Node) -> int:
    """Of each number in the weight of a node of the kind `NBITS`."""
    return _attribute(node, "bits", 4)


def count_parameters(model: ir.Model) -> int:
    """Numbers in the graph's tensors, without shapes, indices, and what quantization adds to a weight."""
    in_blocks = [node for node in model.graph if node.op_type == NBITS]
    # The weight in bytes of several numbers each; scales, zero points and order.
    coded = {value.name for node in in_blocks for value in node.inputs[1:5] if value is not None}
    scales = [node.inputs[1:] for node in model.graph if node.op_type == "DequantizeLinear"]
    coded |= {value.name for values in scales for value in values if value is not None}
    sizes = {
        node.inputs[1].name: _attribute(node, "K") * _attribute(node, "N")
        for node in in_blocks
        if node.inputs[1] is not None and node.inputs[1].const_value is not None
    }
    tensors = [
        value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and name not in coded
    ]
    counted = [
        x for x in tensors if x.dtype not in _WHOLE_NUMBERS and not (x.name or "").endswith(("_scale", "_zero_point"))
    ]
    return sum(sizes.values()) + sum(math.prod(tensor.shape.numpy()) for tensor in counted)


def _attribute(node: ir.Node, name: str, usual: int = 0) -> int:
    found = node.attributes.get(name)
    return usual if found is None else found.as_int()
