"""What is in an exported graph: its operators, the bytes of its tensors by group, and the precision of each layer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from export.foreign_graph import NBITS, bits_of
from export.packing import is_packed
from export.quantization import layer_names

_PRECISIONS = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
    ir.DataType.INT4: "int4",
    ir.DataType.UINT4: "int4",
}
_PRODUCTS = frozenset(
    {
        *("MatMul", "Gemm", "MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul"),
        *("QGemm", "GemmFloat8", "Attention"),
    }
)
# Their weights lie in bytes of several numbers each, in blocks with a scale of their own.
_IN_BLOCKS = frozenset({NBITS, "MatMulBnb4"})


def describe_graph(path: Path) -> dict[str, Any]:
    """
    Returns:
        `operators`: how many nodes of each. `tensors`: bytes of embeddings and of layers, by precision, and of the rest
        (biases, norms, scales). `layers`: the precision of each product with a constant weight, by its module's name.
        `weight_bits`: 8 or, where that holds all of them, 7 for the integers among those weights; None without any.
        `packed`: whether nothing is computed for padding but attention.
    """
    model = ir.load(path)
    groups: dict[str, str] = {}
    for node in model.graph:
        table = node.inputs[0] if node.op_type == "Gather" else None
        # A table of one column holds the scales of another.
        if table is not None and table.const_value is not None and table.shape is not None and table.shape[-1] != 1:
            groups[str(table.name)] = "embeddings"
    products = [(node, weight) for node in model.graph if (weight := _weight(node)) is not None]
    precisions = {str(weight.name): _precision_of_product(node, weight) for node, weight in products}
    groups.update(dict.fromkeys(precisions, "layers"))
    sizes: Counter[str] = Counter()
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        group = f"{groups[name]}, {precisions.get(name) or _precision(value)}" if name in groups else "other"
        sizes[group] += value.const_value.nbytes
    return {
        "operators": dict(Counter(node.op_type for node in model.graph).most_common()),
        "tensors": dict(sizes.most_common()),
        "layers": {
            name: precisions[str(weight.name)]
            for name, (_, weight) in zip(layer_names([node for node, _ in products]), products, strict=True)
        },
        "packed": is_packed(model.graph),
        "weight_bits": _bits(
            [weight for node, weight in products if node.op_type not in _IN_BLOCKS and _precision(weight) == "int8"]
        ),
    }


def _bits(weights: list[ir.Value]) -> int | None:
    # A 7-bit weight of an unsigned graph would be centred elsewhere; it counts as 8.
    greatest = [
        int(np.abs(weight.const_value.numpy().astype(np.int16)).max()) for weight in weights if weight.const_value
    ]
    return None if not greatest else 7 if max(greatest) < 64 else 8


def _weight(node: ir.Node) -> ir.Value | None:
    """A product's constant matrix, seen through its dequantization."""
    if node.op_type in _IN_BLOCKS:
        coded = node.inputs[1]
        return None if coded is None or coded.const_value is None else coded
    place = 3 if node.op_type in ("QLinearMatMul", "QGemm") else 1
    value = node.inputs[place] if node.op_type in _PRODUCTS else None
    before = None if value is None else value.producer()
    if before is not None and before.op_type == "DequantizeLinear":
        value = before.inputs[0]
    if value is None or value.const_value is None or value.shape is None or len(value.shape) != 2:
        return None
    return value


def _precision_of_product(node: ir.Node, weight: ir.Value) -> str:
    if node.op_type == NBITS:
        return f"int{bits_of(node)}"
    return "unknown" if node.op_type in _IN_BLOCKS else _precision(weight)


def _precision(value: ir.Value) -> str:
    assert value.const_value is not None
    return _PRECISIONS.get(value.const_value.dtype, str(value.const_value.dtype).lower())
