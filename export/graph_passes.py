"""What the exporter leaves undone: constants to be computed, reshapes that change nothing, and a last layer computed
where nobody looks.

A classifier's head reads one position of the last layer. Everything in that layer but keys and values works on one
position at a time, so the choice of the position can be made before the work instead of after it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants

# Operators that treat positions one at a time, whatever they compute.
_ELEMENTWISE = frozenset({"Gelu", "Tanh", "Relu", "Erf", "Sigmoid", "Sqrt", "Cast", "LayerNormalization"})
_ANY_SIZE = 2**40
# Where the exporter notes the modules, outermost first, that a node came from.
SCOPES = "pkg.torch.onnx.name_scopes"
_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Pow"})


def improve(model: ir.Model) -> None:
    """Runs the passes on a classifier's graph, in place."""
    # The exporter folds small tensors alone; XLNet's weights are large ones, reshaped.
    fold_constants(model, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
    drop_reshapes(model.graph)
    RemoveUnusedNodesPass()(model)
    choose_position_early(model.graph)
    RemoveUnusedNodesPass()(model)
    forget_origins(model)


def forget_origins(model: ir.Model) -> None:
    """Removes what the exporter noted of each node, down to the paths of the exporting machine, but for the module that
    it came from."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        scopes = node.metadata_props.get(SCOPES)
        node.metadata_props.clear()
        node.doc_string = None
        if scopes is not None:
            node.metadata_props[SCOPES] = scopes
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def drop_reshapes(graph: ir.Graph) -> None:
    """Removes a Reshape that undoes the one before it."""
    for node in list(graph):
        before = node.inputs[0].producer() if node.op_type == "Reshape" and node.inputs[0] is not None else None
        if before is None or before.op_type != "Reshape":
            continue
        source, result = before.inputs[0], node.outputs[0]
        if source is not None and source.shape is not None and source.shape == result.shape:
            replace(result, source)


def choose_position_early(graph: ir.Graph) -> None:
    """Moves the head's Gather of one position up to where the last layer still needs all of them.

    Graphs whose head reads its position by another operator stay as they are.
    """
    chosen = [node for node in graph if _chooses_a_position(node)]
    if len(chosen) != 1:
        return
    (head,) = chosen
    states = head.inputs[0]
    assert states is not None
    movable = _movable(states, head)
    if not movable:
        return
    place = constant(graph, "head_position", np.array([_index_of(head)], np.int64))
    axis = constant(graph, "head_axis", np.array([1], np.int64))
    narrow: dict[ir.Value, ir.Value] = {}

    def narrowed(value: ir.Value) -> ir.Value:
        """The value at the head's position alone, `[batch, 1, …]`."""
        if value not in narrow:
            node = value.producer()
            if node is not None and node in movable:
                inputs = [
                    narrowed(x) if position in by_position(node) and x is not None else x
                    for position, x in enumerate(node.inputs)
                ]
                attributes = list(node.attributes.values())
                new = ir.Node(
                    node.domain, node.op_type, inputs, attributes=attributes, version=node.version, name=node.name,
                    metadata_props=dict(node.metadata_props),
                )  # fmt: skip
            else:
                new = ir.Node("", "Gather", [value, place], attributes=[ir.AttrInt64("axis", 1)])
            graph.insert_before(head, new)
            narrow[value] = new.outputs[0]
        return narrow[value]

    squeezed = ir.Node("", "Squeeze", [narrowed(states), axis])
    graph.insert_before(head, squeezed)
    replace(head.outputs[0], squeezed.outputs[0])


def _movable(states: ir.Value, head: ir.Node) -> set[ir.Node]:
    """The nodes above `head` whose output nobody needs at another position."""
    found: set[ir.Node] = set()
    waiting = [states]
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in found or not by_position(node):
            continue
        found.add(node)
        waiting += [x for position, x in enumerate(node.inputs) if position in by_position(node) and x is not None]
    while True:
        needed = {node for node in found if node.outputs[0].is_graph_output()} | {
            node
            for node in found
            for user, position in node.outputs[0].uses()
            if user is not head and not (user in found and position in by_position(user))
        }
        if not needed:
            return found
        found -= needed


def by_position(node: ir.Node) -> Sequence[int]:
    """The inputs, by number, of which an output position needs that same position only; none where that is not so."""
    if node.op_type in _ELEMENTWISE or (node.op_type == "MultiHeadAttention" and node.domain == "com.microsoft"):
        return (0,)  # of attention: the query
    if node.op_type == "MatMul" and rank(node.inputs[1]) == 2:
        return (0,)
    if node.op_type in _BINARY:
        left, right = (rank(x) for x in node.inputs)
        if left == right == 3:
            return (0, 1)
        if left == 3 and right is not None and right <= 1:
            return (0,)
        if right == 3 and left is not None and left <= 1:
            return (1,)
    return ()


def _chooses_a_position(node: ir.Node) -> bool:
    """Whether it is a Gather of one fixed position from `[batch, length, width]`."""
    axis = node.attributes.get("axis")
    return (
        node.op_type == "Gather"
        and axis is not None
        and axis.as_int() == 1
        and rank(node.inputs[0]) == 3
        and rank(node.inputs[1]) == 0
        and node.inputs[1] is not None
        and node.inputs[1].const_value is not None
    )


def _index_of(head: ir.Node) -> int:
    place = head.inputs[1]
    assert place is not None
    assert place.const_value is not None
    return int(place.const_value.numpy())


def rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def replace(old: ir.Value, new: ir.Value) -> None:
    """Puts `new` wherever `old` is read, as a result of the graph too, whose name it then takes."""
    if new.shape is None:
        new.shape, new.type = old.shape, old.type
    if old.is_graph_output():
        old.name, new.name = f"{old.name}_before", old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def constant(graph: ir.Graph, name: str, content: NDArray[Any]) -> ir.Value:
    """A new initializer of the graph."""
    tensor = ir.tensor(content, name=name)
    value = ir.Value(name=name, shape=ir.Shape(content.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def insert(
    graph: ir.Graph, before: ir.Node, domain: str, op: str, inputs: Collection[ir.Value],
    attributes: Mapping[str, int] = {},
) -> ir.Value:  # fmt: skip
    """The result of a new node."""
    node = ir.Node(domain, op, list(inputs), attributes=[ir.AttrInt64(key, value) for key, value in attributes.items()])
    graph.insert_before(before, node)
    return node.outputs[0]
