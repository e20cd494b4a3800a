"""The passes change what is computed where, never what comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from transformers import BertConfig, BertForSequenceClassification

from export.graph_passes import improve
from export.onnx_graph import export_graph
from tests.conftest import INTENTS, export_bundle

WIDTH = 6


def graph_of(nodes: list[onnx.NodeProto], outputs: int = 1) -> onnx.ModelProto:
    """A graph over `x` and `y` `[batch, length, 6]` with a square weight, a bias, and the position 0 as `first`."""
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(WIDTH, WIDTH)), rng.normal(size=WIDTH)
    constants = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32), "first": np.array(0)}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "length", WIDTH]) for n in ("x", "y")]
    results = [helper.make_tensor_value_info(f"out{n}", TensorProto.FLOAT, None) for n in range(outputs)]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, results, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def layer(source: str, out: str) -> list[onnx.NodeProto]:
    """What a layer does with each position: a product, a bias, an activation, a residual, a normalization."""
    return [
        helper.make_node("MatMul", [source, "weight"], [f"{out}_product"]),
        helper.make_node("Add", ["bias", f"{out}_product"], [f"{out}_biased"]),
        helper.make_node("Gelu", [f"{out}_biased"], [f"{out}_active"]),
        helper.make_node("Add", [f"{out}_active", source], [f"{out}_sum"]),
        helper.make_node("LayerNormalization", [f"{out}_sum", "bias", "bias"], [out], axis=-1),
    ]


def head(source: str, out: str = "out0") -> onnx.NodeProto:
    return helper.make_node("Gather", [source, "first"], [out], axis=1)


def run(model: onnx.ModelProto) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    given = {name: rng.normal(size=(3, 5, WIDTH)).astype(np.float32) for name in ("x", "y")}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {entry.name: given[entry.name] for entry in session.get_inputs()})


def improved(model: onnx.ModelProto) -> onnx.ModelProto:
    program = ir.from_proto(model)
    improve(program)
    result = ir.to_proto(program)
    onnx.checker.check_model(result, full_check=True)
    return result


def early(model: onnx.ModelProto) -> str | None:
    """What the position is chosen from; None where it is chosen last as before."""
    found = [node for node in model.graph.node if node.op_type == "Gather" and "head_position" in node.input]
    return found[0].input[0] if found else None


def test_a_layer_nobody_else_needs_is_computed_at_one_position() -> None:
    model = graph_of([*layer("x", "a"), *layer("a", "b"), head("b")])
    better = improved(model)
    assert early(better) == "x"
    np.testing.assert_allclose(run(better)[0], run(model)[0], rtol=0, atol=1e-6)


def test_what_attention_reads_everywhere_is_computed_everywhere() -> None:
    # `a` is mixed over the positions, as keys are.
    mixing = [
        helper.make_node("Transpose", ["a"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "turned"], ["scores"]),
        helper.make_node("MatMul", ["scores", "a"], ["mixed"]),
    ]
    model = graph_of([*layer("x", "a"), *mixing, *layer("mixed", "b"), head("b")])
    better = improved(model)
    assert early(better) == "mixed"
    np.testing.assert_allclose(run(better)[0], run(model)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    {
        "two heads": ([*layer("x", "a"), head("a"), head("a", "out1")], 2),
        "no head": ([*layer("x", "a"), helper.make_node("Identity", ["a"], ["out0"])], 1),
        "all positions are an answer too": ([*layer("x", "out1"), head("out1")], 2),
        "a choice along the batch": (
            [*layer("x", "a"), helper.make_node("Gather", ["a", "first"], ["out0"], axis=0)],
            1,
        ),
    }.values(),
)
def test_other_graphs_stay_as_they_are(case: tuple[list[onnx.NodeProto], int]) -> None:
    model = graph_of(*case)
    better = improved(model)
    assert early(better) in (None, "out1")
    for got, want in zip(run(better), run(model), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_two_inputs_meet_at_one_position() -> None:
    model = graph_of([helper.make_node("Add", ["x", "y"], ["sum"]), *layer("sum", "a"), head("a")])
    better = improved(model)
    assert early(better) in ("x", "y")
    np.testing.assert_allclose(run(better)[0], run(model)[0], rtol=0, atol=1e-6)


def test_reshapes_that_undo_each_other_go() -> None:
    split = numpy_helper.from_array(np.array([0, 0, 2, 3]), "split")
    whole = numpy_helper.from_array(np.array([0, 0, WIDTH]), "whole")
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["parts"]),
        helper.make_node("Reshape", ["parts", "whole"], ["again"]),
        helper.make_node("Gelu", ["again"], ["out0"]),
    ]
    model = graph_of(nodes)
    model.graph.initializer.extend([split, whole])
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    better = improved(model)
    assert [node.op_type for node in better.graph.node] == ["Gelu"]
    np.testing.assert_array_equal(run(better)[0], run(model)[0])


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_exported_classifiers_attend_by_one_operator_and_end_at_one_position(family: str, tmp_path: Path) -> None:
    bundle = export_bundle(tmp_path, family, INTENTS, "single_label_classification")
    graph = onnx.load(bundle / "model.onnx").graph
    counts = [node.op_type for node in graph.node]
    assert counts.count("MultiHeadAttention") == 2
    assert not {"Softmax", "Transpose", "Where", "IsNaN"} & set(counts)
    makers = {output: node for node in graph.node for output in node.output}
    # From the last attention's query up: only the one position is there.
    query = [node for node in graph.node if node.op_type == "MultiHeadAttention"][-1].input[0]
    while makers[query].op_type != "Gather":
        assert makers[query].op_type in ("MatMul", "Add")
        query = next(name for name in makers[query].input if name in makers)
    assert makers[makers[query].input[1]].input[1] == "head_position"  # among the tokens, by their numbers


def test_a_decoder_keeps_its_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=90, is_decoder=True, initializer_range=0.3, **sizes)
    model = BertForSequenceClassification(config).eval()
    export_graph(model, ("input_ids", "attention_mask"), tmp_path / "model.onnx")
    ids = torch.randint(5, 90, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    with torch.inference_mode():
        want = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_an_exported_xlnet_computes_its_last_layer_for_one_query(tmp_path: Path) -> None:
    bundle = export_bundle(tmp_path, "xlnet", INTENTS, "single_label_classification")
    session = onnxruntime.SessionOptions()
    session.enable_profiling = True
    session.profile_file_prefix = str(tmp_path / "profile")
    session.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = onnxruntime.InferenceSession(bundle / "model.onnx", session, providers=["CPUExecutionProvider"])
    ids = np.full((2, 9), 5, np.int64)
    opened.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    import json

    events = json.loads(Path(opened.end_profiling()).read_text())
    shapes = [
        next(iter(event["args"]["output_type_shape"][0].values()))
        for event in events
        if event.get("args", {}).get("op_name") == "Softmax"
    ]
    assert shapes == [[2, 4, 9, 9], [2, 4, 1, 9]]


def test_an_exported_xlnet_reads_a_text_alike_on_either_side_of_its_padding(tmp_path: Path) -> None:
    bundle = export_bundle(tmp_path, "xlnet", INTENTS, "single_label_classification")
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(5, 60, (3, 12))

    def logits(length: int, before: int, after: int) -> NDArray[np.float32]:
        ones, sides = np.ones((3, length), np.int64), ((0, 0), (before, after))
        given = {"input_ids": ids[:, :length], "attention_mask": ones, "token_type_ids": ones}
        (found,) = session.run(["logits"], {name: np.pad(value, sides) for name, value in given.items()})
        return found

    for length in (1, 5, 12):
        for before, after in ((3, 0), (0, 3), (2, 4)):
            np.testing.assert_allclose(logits(length, before, after), logits(length, 0, 0), rtol=0, atol=1e-6)
