"""A classifier's graph in 8 bits: linear layers with integer products, embedding tables with a scale for each row.

Usual dynamic quantization takes an activation's range over the whole batch, so that a text's answer depends on its
neighbours. Here each position has a range of its own (`dynamic`), or all share one that was measured beforehand
(`static`); either way the answer is the text's alone. Weights have a scale for each output column.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from export.graph_passes import SCOPES, constant, insert, replace

EMBEDDINGS = "embeddings"
# Tables smaller than this many numbers, such as that of the segments, are not worth two more operators.
_SMALL_TABLE = 2**14
# The range of a row of zeros, so that nothing is divided by nothing.
_LEAST = 1e-12
_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class LinearLayer:
    """A product with a constant weight.

    Attributes:
        name: of the module that it came from.
        node: MatMul, or Gemm as a classifier's last layers have it.
        weight: float32 `[inputs, outputs]`.
        bias: float32 `[outputs]`, of a Gemm.
    """

    name: str
    node: ir.Node
    weight: NDArray[np.float32]
    bias: ir.Value | None = None

    @property
    def input(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value


def linear_layers(model: ir.Model) -> list[LinearLayer]:
    """The layers that can be quantized, in the order of the graph."""
    found = [(node, parts) for node in model.graph if (parts := _weight_of(node)) is not None]
    names = layer_names([node for node, _ in found])
    return [LinearLayer(name, node, *parts) for name, (node, parts) in zip(names, found, strict=True)]


def layer_names(nodes: Sequence[ir.Node]) -> list[str]:
    """Names of a graph's products: the dotted name of the module that each came from, numbered where it holds several,
    as XLNet's attention does."""
    scopes = [_scope(node) for node in nodes]
    totals, seen = Counter(scopes), Counter[str]()
    names = []
    for scope in scopes:
        seen[scope] += 1
        names.append(f"{scope}#{seen[scope]}" if totals[scope] > 1 else scope)
    return names


def layer_sizes(model: ir.Model) -> dict[str, int]:
    """How many numbers each layer's weight has, and the tables together under `EMBEDDINGS`."""
    sizes = {layer.name: layer.weight.size for layer in linear_layers(model)}
    tables = [node.inputs[0] for node in model.graph if _reads_table(node)]
    sizes[EMBEDDINGS] = sum(values.size for table in tables if (values := _constant(table)) is not None)
    return sizes


def quantize(
    model: ir.Model, *, weight_bits: int, kept: Collection[str] = (), ranges: Mapping[str, tuple[float, float]] = {}
) -> None:
    """Quantizes a float32 graph in place.

    Args:
        weight_bits: 8, or 7 for processors whose 8-bit products saturate.
        kept: names of layers that stay in float32; `EMBEDDINGS` for the tables.
        ranges: for static quantization, least and greatest input of each layer by its name; dynamic without.
    """
    graph = model.graph
    most = 2 ** (weight_bits - 1) - 1
    layers = [layer for layer in linear_layers(model) if layer.name not in kept]
    inputs: dict[tuple[ir.Value, tuple[float, float] | None], _Input] = {}
    weights: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for layer in layers:
        key = (layer.input, ranges[layer.name] if ranges else None)
        if key not in inputs:
            inputs[key] = _static_input(graph, layer, key[1]) if key[1] else _dynamic_input(graph, layer)
        # ALBERT's layers share their weights.
        source = layer.node.inputs[1]
        assert source is not None
        if source not in weights:
            weights[source] = _quantized_weight(graph, layer, most)
        _replace_layer(graph, layer, inputs[key], *weights[source])
    if EMBEDDINGS not in kept:
        tables: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        for node in list(graph):
            if _reads_table(node):
                _quantize_table(graph, node, tables)
    RemoveUnusedNodesPass()(model)
    model.opset_imports[_MICROSOFT] = 1


@dataclass(frozen=True)
class _Input:
    """A layer's quantized input: uint8 `[…, inputs]`, its constant scale and zero point, and a scale `[…, 1]` by which
    the product is to be multiplied yet."""

    quantized: ir.Value
    scale: ir.Value
    zero: ir.Value
    row_scale: ir.Value | None


def _dynamic_input(graph: ir.Graph, layer: LinearLayer) -> _Input:
    """Each row divided by its own greatest magnitude."""
    name = layer.name

    def add(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        return insert(graph, layer.node, "", op, inputs, attributes)

    last = constant(graph, f"{name}.last_axis", np.array([-1], np.int64))
    greatest = add("ReduceMax", add("Abs", layer.input), last, keepdims=1)
    scale = add(
        "Mul",
        add("Max", greatest, constant(graph, f"{name}.least", np.array(_LEAST, np.float32))),
        constant(graph, f"{name}.per_step", np.array(1 / 127, np.float32)),
    )
    one = constant(graph, f"{name}.input_scale", np.array(1, np.float32))
    zero = constant(graph, f"{name}.input_zero", np.array(128, np.uint8))
    return _Input(add("QuantizeLinear", add("Div", layer.input, scale), one, zero), one, zero, scale)


def _static_input(graph: ir.Graph, layer: LinearLayer, limits: tuple[float, float]) -> _Input:
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)  # zero must be a step of its own
    step = max(high - low, _LEAST) / 255
    scale = constant(graph, f"{layer.name}.input_scale", np.array(step, np.float32))
    zero = constant(graph, f"{layer.name}.input_zero", np.array(round(-low / step), np.uint8))
    return _Input(insert(graph, layer.node, "", "QuantizeLinear", (layer.input, scale, zero)), scale, zero, None)


def _quantized_weight(graph: ir.Graph, layer: LinearLayer, most: int) -> tuple[ir.Value, ir.Value]:
    """The weight in whole steps, and the size of a step in each column."""
    scales = np.maximum(np.abs(layer.weight).max(axis=0), _LEAST).astype(np.float32) / most
    weight = constant(graph, f"{layer.name}.weight_int8", np.rint(layer.weight / scales).astype(np.int8))
    return weight, constant(graph, f"{layer.name}.weight_scale", scales)


def _replace_layer(graph: ir.Graph, layer: LinearLayer, given: _Input, weight: ir.Value, scale: ir.Value) -> None:
    node = layer.node
    if given.row_scale is None:
        product = result = _static_product(graph, layer, given, weight, scale)
    else:
        inputs = (given.quantized, weight, given.scale, scale, given.zero)
        product = insert(graph, node, _MICROSOFT, "MatMulIntegerToFloat", inputs)
        result = insert(graph, node, "", "Mul", (product, given.row_scale))
        if layer.bias is not None:
            result = insert(graph, node, "", "Add", (result, layer.bias))
    made = product.producer()
    assert made is not None
    made.metadata_props.update(node.metadata_props)  # the layer's name
    replace(node.outputs[0], result)
    graph.remove(node, safe=True)


def _static_product(graph: ir.Graph, layer: LinearLayer, given: _Input, weight: ir.Value, scale: ir.Value) -> ir.Value:
    """The standard form, a float product between dequantizations, of which ONNX Runtime makes an integer product."""
    scales = scale.const_value.numpy()  # type: ignore[union-attr]

    def dequantized(value: ir.Value, by: ir.Value, zero: ir.Value, **axis: int) -> ir.Value:
        return insert(graph, layer.node, "", "DequantizeLinear", (value, by, zero), axis)

    left = dequantized(given.quantized, given.scale, given.zero)
    zeros = constant(graph, f"{layer.name}.weight_zero", np.zeros(scales.shape, np.int8))
    right = dequantized(weight, scale, zeros, axis=1)
    if layer.bias is None:
        return insert(graph, layer.node, "", "MatMul", (left, right))
    # The integer form of Gemm takes its bias in the product's own steps.
    steps = scales * given.scale.const_value.numpy()  # type: ignore[union-attr]
    bias = layer.bias.const_value.numpy()  # type: ignore[union-attr]
    limit = np.iinfo(np.int32).max
    whole = np.clip(np.rint(bias.astype(np.float64) / steps), -limit, limit).astype(np.int32)
    bias_zero = constant(graph, f"{layer.name}.bias_zero", np.zeros(whole.shape, np.int32))
    small = constant(graph, f"{layer.name}.bias_int32", whole)
    bias_scale = constant(graph, f"{layer.name}.bias_scale", steps.astype(np.float32))
    return insert(graph, layer.node, "", "Gemm", (left, right, dequantized(small, bias_scale, bias_zero, axis=0)))


def _quantize_table(graph: ir.Graph, node: ir.Node, tables: dict[ir.Value, tuple[ir.Value, ir.Value]]) -> None:
    table, rows = node.inputs
    assert table is not None
    assert rows is not None
    if table not in tables:
        values = _constant(table)
        assert values is not None
        scales = np.maximum(np.abs(values).max(axis=1, keepdims=True), _LEAST).astype(np.float32) / 127
        whole = constant(graph, f"{table.name}_int8", np.rint(values / scales).astype(np.int8))
        tables[table] = whole, constant(graph, f"{table.name}_scale", scales)
    small, scale = tables[table]
    chosen = insert(graph, node, "", "Cast", (insert(graph, node, "", "Gather", (small, rows)),), {"to": 1})
    replace(
        node.outputs[0],
        insert(graph, node, "", "Mul", (chosen, insert(graph, node, "", "Gather", (scale, rows)))),
    )
    graph.remove(node, safe=True)


def _weight_of(node: ir.Node) -> tuple[NDArray[np.float32], ir.Value | None] | None:
    """The weight `[inputs, outputs]` and the bias of a layer; None for any other node."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain != "":
        return None
    weight = _constant(node.inputs[1])
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
        return None
    if node.op_type == "MatMul":
        return weight, None
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if any(node.attributes[key].value != value for key, value in plain.items() if key in node.attributes):
        return None
    transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    weight = weight.T if transposed else weight
    if bias is not None and ((values := _constant(bias)) is None or values.shape != weight.shape[1:]):
        return None
    return weight, bias


def _reads_table(node: ir.Node) -> bool:
    """Whether it takes rows from a large constant table of float32."""
    if node.op_type != "Gather" or ("axis" in node.attributes and node.attributes["axis"].as_int() != 0):
        return False
    table = _constant(node.inputs[0])
    return table is not None and table.ndim == 2 and table.dtype == np.float32 and table.size >= _SMALL_TABLE


def _constant(value: ir.Value | None) -> NDArray[np.float32] | None:
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def _scope(node: ir.Node) -> str:
    """The dotted name of the module that the node came from; its own name where the exporter left none."""
    scopes = node.metadata_props.get(SCOPES)
    modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope] if scopes else []
    return modules[-1].removeprefix("model.") if modules else str(node.name)
