"""A classifier's graph that computes nothing for padding.

Every layer but attention works on single tokens, so between the attentions the tokens of a batch lie one behind the
other, `[tokens, width]`, and only attention gets them as `[batch, length, width]`. From outside the graph is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.graph_passes import by_position, constant, insert, rank, replace

_MASK = "attention_mask"
_END = 2**62
_PREFIX = "packing."


@dataclass(frozen=True)
class _Tokens:
    """Where the tokens of a batch stand.

    Attributes:
        places: `[tokens]`, each one's place in `[batch * length]`.
        numbers: `[batch, length]`, the token at each place, at padding the one before it in the text.
        shape: batch and length.
        row: the shape of a row as long as need be.
    """

    places: ir.Value
    numbers: ir.Value
    shape: ir.Value
    row: ir.Value


def pack(graph: ir.Graph) -> None:
    """Leaves padding out, in place.

    A graph stays as it is unless its embeddings are tables, its attention is `com.microsoft::MultiHeadAttention` with
    `attention_mask` over the keys, its head reads the first position, and all else works by position.
    """
    mask = next((value for value in graph.inputs if value.name == _MASK), None)
    if mask is None:
        return
    attentions = [node for node in graph if _attends(node, mask)]
    heads = [node for node in graph if _reads_first(node, mask)]
    spread = [(node, place) for node in attentions for place in range(3) if _everywhere(node.inputs[place], mask)]
    layers = _layers(graph, [*spread, *((head, 0) for head in heads)], attentions)
    if not layers:
        return
    tokens = _find_tokens(graph, mask)
    for node in layers:
        result = node.outputs[0]
        if node in attentions:
            _pack_result(graph, node, tokens)
        else:
            if _embeds(node):
                _pack_ids(graph, node, mask, tokens)
            result.shape = _packed_shape(result)
    for node in layers:
        _join_bias(graph, node)
    for node, place in spread:
        packed = node.inputs[place]
        assert packed is not None
        node.replace_input_with(place, insert(graph, node, "", "Gather", (packed, tokens.numbers)))
    for head in heads:
        first = head.inputs[1]
        assert first is not None
        head.replace_input_with(1, insert(graph, head, "", "Gather", (tokens.numbers, first), {"axis": 1}))
        head.attributes["axis"] = ir.AttrInt64("axis", 0)


def is_packed(graph: ir.Graph) -> bool:
    """Whether `pack` has been there."""
    return any(name.startswith(_PREFIX) for name in graph.initializers)


def _layers(graph: ir.Graph, uses: Iterable[tuple[ir.Node, int]], attentions: list[ir.Node]) -> list[ir.Node]:
    """What computes the values that `uses` (inputs of nodes, by number) read, from the embeddings on, attentions among
    it; nothing if a part of it cannot be packed, or if others read it too."""
    known, found = set(uses), set[ir.Node]()
    waiting = [node.inputs[place] for node, place in known]
    while waiting:
        value = waiting.pop()
        node = value.producer() if value is not None else None
        if node is None or rank(value) != 3:
            return []
        if node in found:
            continue
        found.add(node)
        if node in attentions or _embeds(node):
            continue
        places = by_position(node)
        if not places or node.op_type == "MultiHeadAttention" or not _within_width(node):
            return []
        known |= {(node, place) for place in places}
        waiting += [node.inputs[place] for place in places]
    results = [node.outputs[0] for node in found]
    if any(result.is_graph_output() or not known.issuperset(result.uses()) for result in results):
        return []
    return [node for node in graph if node in found]


def _find_tokens(graph: ir.Graph, mask: ir.Value) -> _Tokens:
    start = graph[0]

    def add(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        return insert(graph, start, "", op, inputs, attributes)

    def whole(name: str, *content: int) -> ir.Value:
        return constant(graph, f"{_PREFIX}{name}", np.array(content, np.int64))

    one, row, shape = whole("one", 1), whole("row", -1), add("Shape", mask)
    # The first position is the head's and stays, token or not.
    rest = add("Slice", add("Cast", mask, to=ir.DataType.BOOL), one, whole("end", _END), one)
    kept = add("Pad", rest, whole("before", 0, 1, 0, 0), constant(graph, f"{_PREFIX}kept", np.array(True)))
    flat = add("Reshape", kept, row)
    count = add("CumSum", add("Cast", flat, to=ir.DataType.INT32), constant(graph, f"{_PREFIX}axis", np.array(0)))
    number = add("Sub", count, constant(graph, f"{_PREFIX}itself", np.array(1, np.int32)))
    return _Tokens(add("Reshape", add("NonZero", flat), row), add("Reshape", number, shape), shape, row)


def _pack_ids(graph: ir.Graph, embedding: ir.Node, mask: ir.Value, tokens: _Tokens) -> None:
    """Has an embedding look up the ids of the tokens alone."""
    ids = embedding.inputs[1]
    assert ids is not None
    if not _everywhere(ids, mask):
        ids = insert(graph, embedding, "", "Expand", (ids, tokens.shape))
    flat = insert(graph, embedding, "", "Reshape", (ids, tokens.row))
    embedding.replace_input_with(1, insert(graph, embedding, "", "Gather", (flat, tokens.places)))


def _pack_result(graph: ir.Graph, attention: ir.Node, tokens: _Tokens) -> None:
    """Has the tokens alone read from an attention's result."""
    result = attention.outputs[0]
    flat = ir.Node("", "Flatten", [result], attributes=[ir.AttrInt64("axis", 2)])
    gather = ir.Node("", "Gather", [flat.outputs[0], tokens.places])
    packed = gather.outputs[0]
    packed.type, packed.shape = result.type, _packed_shape(result)
    for user, place in result.uses():
        if user is not flat:
            user.replace_input_with(place, packed)
    graph.insert_after(attention, (flat, gather))


def _join_bias(graph: ir.Graph, product: ir.Node) -> None:
    """Makes one Gemm of a product and its bias.

    ONNX Runtime would do so itself, but too early: between the dequantizations of a static int8 graph it then finds no
    integer product any more.
    """
    uses = list(product.outputs[0].uses())
    if product.op_type != "MatMul" or len(uses) != 1 or uses[0].node.op_type != "Add":
        return
    add, place = uses[0]
    states, weight, bias = *product.inputs, add.inputs[1 - place]
    if weight is None or weight.shape is None or bias is None or bias.shape != weight.shape[1:]:
        return
    gemm = ir.Node("", "Gemm", [states, weight, bias], metadata_props=dict(product.metadata_props), name=product.name)
    graph.insert_before(add, gemm)
    replace(add.outputs[0], gemm.outputs[0])
    graph.remove([add, product], safe=True)


def _packed_shape(value: ir.Value) -> ir.Shape:
    assert value.shape is not None
    return ir.Shape(["tokens", *value.shape[2:]])


def _attends(node: ir.Node, mask: ir.Value) -> bool:
    """Whether it is an attention that the mask hides padding from."""
    if node.op_type != "MultiHeadAttention" or len(node.inputs) < 5:
        return False
    value = node.inputs[4]
    while value is not None and (before := value.producer()) is not None and before.op_type == "Cast":
        value = before.inputs[0]
    return value is mask


def _reads_first(node: ir.Node, mask: ir.Value) -> bool:
    """Whether it takes each text's first position, as `[batch, 1, width]`."""
    if node.op_type != "Gather" or "axis" not in node.attributes or node.attributes["axis"].as_int() != 1:
        return False
    states, place = node.inputs
    if place is None or place.const_value is None or place.const_value.numpy().tolist() != [0]:
        return False
    return rank(states) == 3 and _everywhere(states, mask)


def _embeds(node: ir.Node) -> bool:
    """Whether it takes rows from a table, by ids `[batch, length]` or `[1, length]`."""
    if node.op_type != "Gather" or ("axis" in node.attributes and node.attributes["axis"].as_int() != 0):
        return False
    table = node.inputs[0]
    return table is not None and table.const_value is not None and [rank(x) for x in node.inputs] == [2, 2]


def _within_width(node: ir.Node) -> bool:
    """Whether a normalization is along the last axis, wherever that is."""
    return "axis" not in node.attributes or node.attributes["axis"].as_int() == -1


def _everywhere(value: ir.Value | None, mask: ir.Value) -> bool:
    """Whether it has a value for each position."""
    if value is None or value.shape is None or mask.shape is None:
        return False
    return tuple(value.shape[:2]) == tuple(mask.shape)
