"""A packed graph answers as the model does and computes nothing for padding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    MobileBertConfig,
    MobileBertForSequenceClassification,
    PreTrainedModel,
)

from export import onnx_graph
from export.graph_passes import constant
from export.onnx_graph import export_graph
from export.packing import pack
from export.quantization import linear_layers, quantize
from tests.conftest import make_model

VOCABULARY = 90
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 3,
}
Batch = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Exported:
    """A random classifier and its graph."""

    model: PreTrainedModel
    path: Path
    session: onnxruntime.InferenceSession

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.session.get_inputs())

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.session.run(["logits"], {name: batch[name] for name in self.names})[0]
        return found

    def expected(self, batch: Batch) -> NDArray[np.float32]:
        with torch.inference_mode():
            given = {name: torch.from_numpy(batch[name].copy()) for name in self.names}
            found: NDArray[np.float32] = self.model(**given).logits.numpy()
        return found

    def batch(self, lengths: list[int], side: str = "right", seed: int = 0) -> Batch:
        """Random texts of these lengths, padded to the longest."""
        draw = np.random.default_rng(seed)
        shape = len(lengths), max(lengths)
        mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
        return self.masked(mask if side == "right" else mask[:, ::-1], draw)

    def masked(self, mask: NDArray[np.int64], draw: np.random.Generator) -> Batch:
        ids = np.where(mask == 1, draw.integers(5, VOCABULARY, mask.shape), self.model.config.pad_token_id)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": draw.integers(0, 2, mask.shape)}


def export(model: PreTrainedModel, path: Path, *, types: bool) -> Exported:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "LayerNorm.weight" in name else 0.0, 0.3)
    names = ("input_ids", "attention_mask", *(["token_type_ids"] if types else []))
    export_graph(model.eval(), names, path)
    return Exported(model, path, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return make("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module", params=["bert", "roberta", "electra", "distilbert", "albert"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, bert: Exported) -> Exported:
    return bert if request.param == "bert" else make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def unpacked(bert: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same graph before it is packed."""
    path = tmp_path_factory.mktemp("unpacked") / "model.onnx"
    with patch.object(onnx_graph, "pack", lambda _: None):
        export_graph(bert.model, bert.names, path)
    return path


def make(family: str, directory: Path) -> Exported:
    model: Any
    if family == "albert":
        model = AlbertForSequenceClassification(AlbertConfig(**SIZES, embedding_size=16))
    else:
        model = AutoModelForSequenceClassification.from_pretrained(make_model(directory / "model", family, 2))
    return export(model, directory / "model.onnx", types=family not in ("roberta", "distilbert"))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("lengths", [[1], [17], [3, 3], [9, 2, 30, 1, 14]])
def test_it_answers_as_the_model_does(exported: Exported, lengths: list[int], side: str) -> None:
    batch = exported.batch(lengths, side)
    np.testing.assert_allclose(exported.logits(batch), exported.expected(batch), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_mask_answers_as_the_model_does(bert: Exported, data: st.DataObject) -> None:
    texts, length = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 20))
    row = st.lists(st.booleans(), min_size=length, max_size=length).filter(any)
    mask = np.array(data.draw(st.lists(row, min_size=texts, max_size=texts)), np.int64)
    batch = bert.masked(mask, np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))))
    np.testing.assert_allclose(bert.logits(batch), bert.expected(batch), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_an_answer_does_not_depend_on_its_neighbours(exported: Exported, lengths: list[int], seed: int) -> None:
    batch = exported.batch(lengths, seed=seed)
    alone = [
        exported.logits({name: values[row : row + 1, :length] for name, values in batch.items()})
        for row, length in enumerate(lengths)
    ]
    np.testing.assert_allclose(exported.logits(batch), np.concatenate(alone), rtol=0, atol=1e-5)


def test_layers_see_tokens_only(exported: Exported, tmp_path: Path) -> None:
    model = ir.load(exported.path)
    inputs = list(dict.fromkeys(layer.input for layer in linear_layers(model)))
    model.graph.outputs.extend(inputs)
    ir.save(model, tmp_path / "shown.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "shown.onnx", providers=["CPUExecutionProvider"])
    lengths = [9, 2, 30, 1, 14]
    batch = exported.batch(lengths)
    shown = session.run([str(value.name) for value in inputs], {name: batch[name] for name in exported.names})
    sizes = [values.shape[:-1] for values in shown]
    assert sizes.count((sum(lengths),)) == len(sizes) - sizes.count((5, 1)) - sizes.count((5,))
    # One layer whole; of the last, keys and values for all tokens, and the rest for the head.
    assert sizes.count((sum(lengths),)) >= 5
    assert sizes.count((5, 1)) == 4


def test_static_int8_has_integer_products_alone(bert: Exported, tmp_path: Path) -> None:
    model = ir.load(bert.path)
    quantize(model, weight_bits=7, ranges={layer.name: (-9.0, 9.0) for layer in linear_layers(model)})
    ir.save(model, tmp_path / "int8.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in ir.load(tmp_path / "optimized.onnx").graph}
    assert not {"MatMul", "Gemm", "FusedGemm", "DequantizeLinear"} & operators
    batch = bert.batch([9, 2, 30, 1, 14])
    (rough,) = session.run(["logits"], {name: batch[name] for name in bert.names})
    exact = bert.logits(batch)
    assert np.abs(rough - exact).max() < 0.25 * np.abs(exact).max()


def test_padding_is_not_even_looked_up(bert: Exported) -> None:
    batch = bert.batch([9, 2, 30, 1, 14])
    padding = batch["attention_mask"] == 0
    tampered = batch | {name: np.where(padding, 10**6, batch[name]) for name in ("input_ids", "token_type_ids")}
    np.testing.assert_array_equal(bert.logits(tampered), bert.logits(batch))


def test_texts_without_tokens_do_no_harm(exported: Exported) -> None:
    batch = exported.batch([4, 7])
    batch["attention_mask"][0] = 0
    logits = exported.logits(batch)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[1], exported.expected(batch)[1], rtol=0, atol=1e-5)


def _described(graph: ir.Graph) -> list[tuple[str, list[str | None]]]:
    return [(node.op_type, [value and value.name for value in node.inputs]) for node in graph]


def test_a_second_time_changes_nothing(bert: Exported) -> None:
    model = ir.load(bert.path)
    before = _described(model.graph)
    pack(model.graph)
    assert _described(model.graph) == before


def test_embeddings_that_look_at_their_neighbours_are_left_alone(tmp_path: Path) -> None:
    config = MobileBertConfig(**SIZES, embedding_size=16, intra_bottleneck_size=16)
    found = export(MobileBertForSequenceClassification(config), tmp_path / "model.onnx", types=True)
    operators = [node.op_type for node in ir.load(found.path).graph]
    assert operators.count("MultiHeadAttention") == 2
    assert "NonZero" not in operators
    batch = found.batch([9, 2, 14])
    np.testing.assert_allclose(found.logits(batch), found.expected(batch), rtol=1e-4, atol=1e-4)


def _result_of(graph: ir.Graph, operator: str, number: int = 0) -> ir.Value:
    return [node for node in graph if node.op_type == operator][number].outputs[0]


def _answer_all_states(graph: ir.Graph) -> None:
    graph.outputs.append(_result_of(graph, "LayerNormalization", 2))


def _mix_positions(graph: ir.Graph) -> None:
    states = _result_of(graph, "LayerNormalization", 2)
    users = states.uses()
    node = ir.Node("", "CumSum", [states, constant(graph, "along", np.array(1))])
    graph.insert_after(states.producer(), node)  # type: ignore[arg-type]
    for user, place in users:
        user.replace_input_with(place, node.outputs[0])


def _hide_by_another_mask(graph: ir.Graph) -> None:
    attention = _result_of(graph, "MultiHeadAttention").producer()
    assert attention is not None
    attention.replace_input_with(4, None)


def _read_the_second(graph: ir.Graph) -> None:
    graph.initializers["head_position"].const_value = ir.tensor(np.array([1]), name="head_position")


def _rename_the_mask(graph: ir.Graph) -> None:
    next(value for value in graph.inputs if value.name == "attention_mask").name = "mask"


@pytest.mark.parametrize(
    "change", [_answer_all_states, _mix_positions, _hide_by_another_mask, _read_the_second, _rename_the_mask]
)
def test_other_graphs_stay_as_they_are(change: Any, unpacked: Path) -> None:
    graph = ir.load(unpacked).graph
    change(graph)
    before = _described(graph)
    pack(graph)
    assert _described(graph) == before


def test_the_unchanged_graph_is_packed(unpacked: Path) -> None:
    graph = ir.load(unpacked).graph
    assert "NonZero" not in [node.op_type for node in graph]
    pack(graph)
    assert "NonZero" in [node.op_type for node in graph]
