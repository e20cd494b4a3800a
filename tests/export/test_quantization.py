"""Graphs in 8 bits against a reference in numpy, and the promise that a text's answer is its own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from common.labels import SINGLE_LABEL
from common.machine import integer_products_saturate
from common.tokenization import TextEncoder
from demo.messages import DEV
from export.contents import describe_graph
from export.exported_graph import ExportedGraph
from export.quantization import EMBEDDINGS, linear_layers, quantize
from tests.conftest import INTENTS, export_bundle, messages

INPUTS, OUTPUTS, ROWS = 48, 20, 400
TEXTS = [row["text"] for row in messages(DEV)]


def small_graph() -> ir.Model:
    """Tokens `[batch, length]` through a table of 400 rows, a MatMul with bias, and a Gemm on the first position."""
    draw = np.random.default_rng(0)
    constants = {
        "table": draw.normal(size=(ROWS, INPUTS)),
        "weight": draw.normal(size=(INPUTS, OUTPUTS)),
        "bias": draw.normal(size=OUTPUTS),
        "head_weight": draw.normal(size=(3, OUTPUTS)),
        "head_bias": draw.normal(size=3),
    }
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    initializers.append(numpy_helper.from_array(np.array(0), "first"))
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["states"], name="embedding"),
        helper.make_node("MatMul", ["states", "weight"], ["product"], name="layer"),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Gather", ["sum", "first"], ["place"], axis=1),
        helper.make_node("Gemm", ["place", "head_weight", "head_bias"], ["logits"], name="head", transB=1),
    ]
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "graph", [tokens], [logits], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def constants_of(model: ir.Model) -> dict[str, NDArray[np.generic]]:
    found = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {name: tensor.numpy() for name, tensor in found.items() if tensor is not None}


def run(model: ir.Model, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"tokens": tokens})[0]
    return logits


def rounded(values: NDArray[np.float64], steps: int, axis: int) -> NDArray[np.float64]:
    """The values as whole steps of their greatest magnitude along an axis."""
    scale = np.abs(values).max(axis=axis, keepdims=True) / steps
    return np.rint(values / scale) * scale


@pytest.mark.parametrize("bits", [7, 8])
def test_dynamic_is_what_the_formula_says(bits: int) -> None:
    if bits == 8 and integer_products_saturate():
        pytest.skip("8-bit products overflow on this processor")
    model = small_graph()
    values = {name: content.astype(np.float64) for name, content in constants_of(model).items()}
    tokens = np.random.default_rng(1).integers(0, ROWS, (5, 7))
    steps = 2 ** (bits - 1) - 1
    states = rounded(values["table"], 127, 1)[tokens[:, 0]]
    hidden = rounded(states, 127, 1) @ rounded(values["weight"], steps, 0) + values["bias"]
    expected = rounded(hidden, 127, 1) @ rounded(values["head_weight"].T, steps, 0) + values["head_bias"]
    quantize(model, weight_bits=bits)
    # A step of an input may fall on either side where float32 rounds otherwise than float64.
    assert np.abs(run(model, tokens) - expected).max() < 0.02
    integers = [
        value.const_value.numpy() for value in model.graph.initializers.values() if value.dtype == ir.DataType.INT8
    ]  # type: ignore[union-attr]
    assert len(integers) == 3
    layers = [values for values in integers if values.shape[0] != ROWS]
    assert all(np.abs(values.astype(int)).max() == steps for values in layers)


def test_static_becomes_integer_products(tmp_path: Path) -> None:
    model = small_graph()
    tokens = np.random.default_rng(1).integers(0, ROWS, (5, 7))
    exact = run(model, tokens)
    quantize(model, weight_bits=8, ranges={"layer": (-4.0, 4.0), "head": (-30.0, 30.0)})
    assert np.abs(run(model, tokens) - exact).max() < 0.05 * np.abs(exact).max()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    content = ir.to_proto(model).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert {"MatMulIntegerToFloat", "QGemm"} <= operators
    assert not {"MatMul", "Gemm", "DequantizeLinear"} & operators


def test_a_static_range_that_is_too_small_cuts_off() -> None:
    model = small_graph()
    tokens = np.random.default_rng(1).integers(0, ROWS, (5, 7))
    exact = run(model, tokens)
    quantize(model, weight_bits=8, ranges={"layer": (-0.1, 0.1), "head": (-30.0, 30.0)})
    assert np.abs(run(model, tokens) - exact).max() > 0.2 * np.abs(exact).max()


def test_kept_layers_stay_as_they_are() -> None:
    model = small_graph()
    tokens = np.random.default_rng(1).integers(0, ROWS, (5, 7))
    exact = run(model, tokens)
    names = [layer.name for layer in linear_layers(model)]
    assert names == ["layer", "head"]
    quantize(model, weight_bits=8, kept=[*names, EMBEDDINGS])
    assert np.array_equal(run(model, tokens), exact)
    quantize(model, weight_bits=8, kept=["head", EMBEDDINGS])
    assert [layer.name for layer in linear_layers(model)] == ["head"]


def test_rows_of_zeros_stay_zero() -> None:
    model = small_graph()
    for name in ("table", "weight"):
        model.graph.initializers[name].const_value = ir.tensor(
            np.zeros((ROWS, INPUTS) if name == "table" else (INPUTS, OUTPUTS), np.float32)
        )
    tokens = np.zeros((1, 3), np.int64)
    exact = run(model, tokens)
    quantize(model, weight_bits=8)
    assert np.isfinite(run(model, tokens)).all()
    assert np.abs(run(model, tokens) - exact).max() < 0.02 * np.abs(exact).max()


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert", "xlnet"])
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, Path, Path]:
    """A family's encoder, its float32 graph, and that in int8."""
    directory = tmp_path_factory.mktemp(request.param)
    bundle = export_bundle(directory, request.param, INTENTS, SINGLE_LABEL)
    model = ir.load(bundle / "model.onnx")
    quantize(model, weight_bits=8)
    ir.save(model, directory / "int8.onnx")
    return TextEncoder.load(bundle), bundle / "model.onnx", directory / "int8.onnx"


def test_every_layer_of_a_family_is_found_and_quantized(graphs: tuple[TextEncoder, Path, Path]) -> None:
    _, plain, integers = graphs
    names = [layer.name for layer in linear_layers(ir.load(plain))]
    assert len(names) == len(set(names))
    # Two layers of six products (XLNet: seven), and the head's one or two.
    assert len(names) - 2 * 6 in (1, 2, 3, 4)
    # The rest is the head's. A layer that is kept in float32 is told to the user by such a name.
    assert sum(re.search(r"layer\.[01]\.", name) is not None for name in names) in (2 * 6, 2 * 7)
    described = describe_graph(integers)
    assert list(described["layers"]) == names
    assert set(described["layers"].values()) == {"int8"}
    assert set(describe_graph(plain)["layers"].values()) == {"fp32"}
    assert described["weight_bits"] == 8
    onnx.checker.check_model(str(integers), full_check=True)


def test_int8_stays_near_float32(graphs: tuple[TextEncoder, Path, Path]) -> None:
    encoder, plain, integers = graphs
    texts = encoder.encode(TEXTS[:64])
    exact, rough = (ExportedGraph(path, encoder, "cpu").all_logits(texts) for path in (plain, integers))
    assert np.abs(exact - rough).max() < 0.15 * np.abs(exact).max()
    assert not np.array_equal(exact, rough)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=24), st.integers(0, 2**32 - 1))
def test_an_int8_answer_does_not_depend_on_its_neighbours(
    graphs: tuple[TextEncoder, Path, Path], texts: list[str], seed: int
) -> None:
    encoder, _, integers = graphs
    graph = ExportedGraph(integers, encoder, "cpu")
    encoded = encoder.encode(texts)
    order = np.random.default_rng(seed).permutation(len(encoded))
    together = graph.logits([encoded[row] for row in order])
    alone = np.concatenate([graph.logits([encoded[row]]) for row in order])
    assert np.abs(together - alone).max() < 1e-5 * np.abs(alone).max()
