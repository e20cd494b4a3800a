"""Another tool's ONNX file becomes a bundle only if it is a text classifier that answers each text for itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import QuantFormat, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from common.errors import InputError, WorkFailedError
from demo.messages import DEV
from export import adoption
from export.adoption import adopt
from export.bundle import Bundle
from export.foreign_graph import count_parameters
from export.graph_passes import constant
from export.settings import ExportSettings
from serve.engine import Engine, Prediction
from tests.conftest import make_model, messages, write_tsv

TEXTS = [row["text"] for row in messages(DEV)[:20]]


@pytest.fixture
def foreign(bundle: Path, tmp_path: Path) -> Path:
    """A directory as another exporter leaves it."""
    directory = tmp_path / "foreign"
    directory.mkdir()
    for name in ("model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundle / name, directory)
    return directory


def adopted(directory: Path, **options: Any) -> Bundle:
    output = directory.parent / "bundle"
    adopt(directory, output, checked_on=str(DEV), **options)
    return Bundle.load(output)


def _edit(directory: Path, name: str = "model.onnx") -> ir.Model:
    return ir.load(directory / name)


def test_an_adopted_graph_answers_as_it_did(foreign: Path, bundle: Path) -> None:
    ours = adopted(foreign)
    for answer, other in zip(Engine.load(ours.path).classify(TEXTS), Engine.load(bundle).classify(TEXTS), strict=True):
        assert isinstance(answer, Prediction)
        assert isinstance(other, Prediction)
        assert np.array_equal(answer.logits, other.logits)
    manifest = ours.manifest
    assert (manifest.precision, manifest.opset, manifest.layers) == ("fp32", 20, 2)
    assert manifest.verification.max_difference is None
    assert manifest.verification.batch_shift < 1e-5
    # Fewer by the zeros that a random model's biases share.
    assert manifest.parameters == pytest.approx(Bundle.load(bundle).manifest.parameters, rel=0.03)
    assert "came without the PyTorch model" in (ours.path / "README.md").read_text()


def test_too_few_texts_are_refused(foreign: Path, tmp_path: Path) -> None:
    table = write_tsv(tmp_path / "few.tsv", messages(DEV)[:63])
    with pytest.raises(InputError, match="has 63 rows; the check of an export needs at least 64"):
        adopt(foreign, tmp_path / "bundle", checked_on=str(table))
    assert not (tmp_path / "bundle").exists()


def test_with_the_model_the_logits_are_compared(foreign: Path, bundle: Path, tmp_path: Path) -> None:
    ours = adopted(foreign, model_dir=bundle.parent / "model")
    assert ours.manifest.verification.max_difference is not None
    assert ours.manifest.verification.max_difference < 1e-5
    model = _edit(foreign)
    bias = constant(model.graph, "another_bias", np.array([0.01, 0, 0], np.float32))
    biased = ir.Node("", "Add", [model.graph.outputs[0], bias])
    model.graph.append(biased)
    model.graph.outputs[0].name, biased.outputs[0].name = "before", "logits"
    biased.outputs[0].type, biased.outputs[0].shape = model.graph.outputs[0].type, model.graph.outputs[0].shape
    model.graph.outputs[0] = biased.outputs[0]
    ir.save(model, foreign / "model.onnx")
    with pytest.raises(WorkFailedError, match=r"not the trained one: logits differ by up to 1\.00e-02"):
        adopt(foreign, tmp_path / "other", checked_on=str(DEV), model_dir=bundle.parent / "model")
    assert not (tmp_path / "other").exists()


def test_dev_labels_measure_and_calibrate(foreign: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": "damaged_item"} for row in messages(DEV)[:80]]
    dev = write_tsv(tmp_path / "dev.tsv", rows)
    manifest = adopt(foreign, tmp_path / "bundle", checked_on=str(dev), settings=ExportSettings(labelled=True))
    assert (manifest.measured["metric"], manifest.measured["split"]) == ("accuracy", "dev.tsv")
    assert manifest.calibration is not None


def test_the_tokenizer_may_come_from_the_model(foreign: Path, bundle: Path) -> None:
    (foreign / "tokenizer.json").unlink()
    ours = adopted(foreign, model_dir=bundle.parent / "model")
    assert (ours.path / "tokenizer.json").read_bytes() == (bundle / "tokenizer.json").read_bytes()


def test_an_output_of_another_name_is_renamed(foreign: Path) -> None:
    model = _edit(foreign)
    model.graph.outputs[0].name = "output_0"
    ir.save(model, foreign / "model.onnx")
    Engine.load(adopted(foreign).path).classify(TEXTS)


def test_an_inner_value_of_that_name_gives_way(foreign: Path) -> None:
    model = _edit(foreign)
    model.graph.outputs[0].name = "output_0"
    next(iter(model.graph)).outputs[0].name = "logits"
    ir.save(model, foreign / "model.onnx")
    Engine.load(adopted(foreign).path).classify(TEXTS)


def test_tensors_in_a_second_file_come_along(foreign: Path) -> None:
    ir.save(_edit(foreign), foreign / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=100)
    ours = adopted(foreign)
    assert not list(ours.path.glob("*data"))
    Engine.load(ours.path).classify(TEXTS)
    content = (foreign / "model.onnx.data").read_bytes()
    (foreign / "model.onnx.data").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"foreign/model\.onnx is no valid ONNX model"):
        adopt(foreign, foreign.parent / "other", checked_on=str(DEV))


def test_probabilities_are_no_logits(foreign: Path) -> None:
    model = _edit(foreign)
    logits = model.graph.outputs[0]
    softmax = ir.Node("", "Softmax", [logits], attributes=[ir.AttrInt64("axis", -1)])
    model.graph.append(softmax)
    softmax.outputs[0].name, softmax.outputs[0].type, softmax.outputs[0].shape = (
        "probabilities",
        logits.type,
        logits.shape,
    )
    model.graph.outputs[0] = softmax.outputs[0]
    ir.save(model, foreign / "model.onnx")
    with pytest.raises(InputError, match="gives probabilities, not logits"):
        adopted(foreign)


def test_weights_listed_as_inputs_are_none(foreign: Path) -> None:
    proto = onnx.load(foreign / "model.onnx")
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    onnx.save(proto, foreign / "model.onnx")
    assert len(adopted(foreign).manifest.inputs) == 3


def test_the_standard_domain_may_be_spelled_out(foreign: Path) -> None:
    proto = onnx.load(foreign / "model.onnx")
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.domain = "ai.onnx"
    onnx.save(proto, foreign / "model.onnx")
    assert adopted(foreign).manifest.opset == 20


def test_another_model_is_not_its_origin(foreign: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", "roberta", 2)
    with pytest.raises(InputError, match=r"is not the model that .* came from: its model_type is roberta, not bert"):
        adopted(foreign, model_dir=other)


def test_answers_that_hang_on_the_batch_are_refused_below_the_tolerance_of_logits(foreign: Path) -> None:
    """A shift of a thousandth in every score passes for rounding, and is none."""
    model = _edit(foreign)
    graph, logits = model.graph, model.graph.outputs[0]
    size = ir.Node("", "Shape", [logits], attributes=[ir.AttrInt64("start", 0), ir.AttrInt64("end", 1)])
    number = ir.Node("", "Cast", [size.outputs[0]], attributes=[ir.AttrInt64("to", 1)])
    tilt = ir.Node("", "Mul", [number.outputs[0], constant(graph, "tilt", np.array([[0.0006, 0, 0]], np.float32))])
    biased = ir.Node("", "Add", [logits, tilt.outputs[0]])
    for node in (size, number, tilt, biased):
        graph.append(node)
    result = biased.outputs[0]
    logits.name, result.name, result.type, result.shape = "before", "logits", logits.type, logits.shape
    graph.outputs[0] = result
    ir.save(model, foreign / "model.onnx")
    with pytest.raises(WorkFailedError, match="depend on a text's neighbours"):
        adopted(foreign)


def test_one_of_several_files_is_named(foreign: Path, tmp_path: Path) -> None:
    (foreign / "model.onnx").rename(foreign / "a.onnx")
    shutil.copy(foreign / "a.onnx", foreign / "b.onnx")
    with pytest.raises(InputError, match=r"several ONNX files, name one with --file: a\.onnx, b\.onnx"):
        adopted(foreign)
    adopted(foreign, file="b.onnx")
    with pytest.raises(InputError, match=r"c\.onnx: no such file"):
        adopt(foreign, tmp_path / "other", checked_on=str(DEV), file="c.onnx")


def test_dynamic_int8_as_everybody_ships_it_is_refused(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = onnx.load(foreign / "model.onnx")
    del proto.graph.value_info[:]  # its shapes stand in the quantizer's way
    onnx.save(proto, foreign / "plain.onnx")
    quantize_dynamic(
        foreign / "plain.onnx", foreign / "model.onnx", per_channel=True, extra_options={"DefaultTensorType": 1}
    )
    monkeypatch.setattr(adoption, "TRIED_SHIFT", 1e-5)  # so small a model's scores move little
    with pytest.raises(WorkFailedError, match="answers depend on a text's neighbours"):
        adopted(foreign)


def test_int8_that_keeps_texts_apart_is_adopted(foreign: Path) -> None:
    from export.quantization import quantize

    model = _edit(foreign)
    quantize(model, weight_bits=7)
    ir.save(model, foreign / "model.onnx")
    ours = adopted(foreign)
    assert (ours.manifest.precision, ours.manifest.weight_bits) == ("int8", 7)
    assert "The ONNX model came without" in (ours.path / "README.md").read_text()


@pytest.mark.parametrize(
    ("bits", "precision", "form", "operator"),
    [
        (4, "int4", QuantFormat.QOperator, "MatMulNBits"),
        (8, "int8", QuantFormat.QOperator, "MatMulNBits"),
        (4, "int4", QuantFormat.QDQ, "DequantizeLinear"),
    ],
)
def test_weights_of_few_bits_are_called_so_and_counted_whole(
    bits: int, precision: str, form: QuantFormat, operator: str, foreign: Path, bundle: Path
) -> None:
    plain = onnx.load(foreign / "model.onnx")
    quantizer = MatMulNBitsQuantizer(plain, bits=bits, block_size=16, is_symmetric=False, quant_format=form)
    quantizer.process()
    onnx.save(quantizer.model.model, foreign / "model.onnx")
    assert operator in [node.op_type for node in onnx.load(foreign / "model.onnx").graph.node]
    manifest = adopted(foreign).manifest
    assert manifest.precision == precision
    assert precision in set(manifest.contents["layers"].values()) <= {precision, "fp32"}
    assert manifest.contents["tensors"][f"layers, {precision}"] > 0
    # Nothing is multiplied in integers.
    assert manifest.weight_bits is None
    shutil.copy(bundle / "model.onnx", foreign / "plain.onnx")
    assert manifest.parameters == count_parameters(ir.load(foreign / "plain.onnx"))


@pytest.mark.parametrize(
    ("layers", "operators", "precision"),
    [
        ({"a": "fp32"}, {"MatMul": 1}, "fp32"),
        ({"a": "fp32", "b": "fp16"}, {"MatMul": 2}, "fp16"),
        ({"a": "fp16", "b": "int8", "c": "int4"}, {}, "int4"),
        ({}, {"MatMulInteger": 3}, "int8"),
        ({"a": "fp32", "b": "bfloat16"}, {"MatMul": 2}, "unknown"),
        ({"a": "unknown"}, {"MatMulBnb4": 1}, "unknown"),
        ({}, {"MatMul": 4}, "fp32"),
    ],
)
def test_a_graphs_precision_is_that_of_its_lowest_layer(
    layers: dict[str, str], operators: dict[str, int], precision: str
) -> None:
    assert adoption._precision({"layers": layers, "operators": operators}) == precision


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a model", "no valid ONNX model"), (b"", "no valid ONNX model"), (b"\x08\x09", "no valid ONNX model")],
)
def test_a_file_that_is_no_model_is_refused(content: bytes, message: str, foreign: Path) -> None:
    (foreign / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        adopted(foreign)
    assert "\n" not in str(caught.value)


def test_a_truncated_model_is_refused(foreign: Path) -> None:
    content = (foreign / "model.onnx").read_bytes()
    (foreign / "model.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"model\.onnx is no valid ONNX model"):
        adopted(foreign)


def test_other_inputs_are_refused(foreign: Path) -> None:
    model = _edit(foreign)
    model.graph.inputs[0].name = "pixel_values"
    ir.save(model, foreign / "model.onnx")
    with pytest.raises(InputError, match="reads pixel_values, attention_mask, token_type_ids; a text classifier reads"):
        adopted(foreign)


def test_a_fixed_length_is_refused(foreign: Path) -> None:
    model = _edit(foreign)
    model.graph.inputs[0].shape = ir.Shape(["batch", 128])
    ir.save(model, foreign / "model.onnx")
    with pytest.raises(InputError, match=r"input_ids has a fixed size \[batch, 128\]: export it with dynamic axes"):
        adopted(foreign)


def test_labels_that_are_not_the_graphs_are_refused(foreign: Path) -> None:
    text = (foreign / "config.json").read_text()
    (foreign / "config.json").write_text(text.replace('"2": "login_problem"', '"2": "login_problem", "3": "more"'))
    with pytest.raises(InputError, match=r"model\.onnx gives 3 logits; its config has 4 labels"):
        adopted(foreign)


def test_several_numbers_are_no_one_answer(foreign: Path) -> None:
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "problem_type": "regression"}))
    with pytest.raises(InputError, match="answers with one number, and this one has 3 outputs"):
        adopted(foreign)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("model.onnx", "holds no ONNX file"),
        ("config.json", r"config\.json cannot be read"),
        ("tokenizer.json", r"a fast tokenizer is needed \(tokenizer\.json\)"),
    ],
)
def test_a_missing_file_is_named(lost: str, message: str, foreign: Path) -> None:
    (foreign / lost).unlink()
    with pytest.raises(InputError, match=message):
        adopted(foreign)
