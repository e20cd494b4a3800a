"""Another tool's ONNX file becomes a bundle only if it is a text classifier that answers each text for itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import quantize_dynamic

from common.errors import InputError, WorkFailedError
from demo.messages import DEV
from export import verification
from export.adoption import adopt
from export.bundle import Bundle
from export.graph_passes import constant
from export.settings import ExportSettings
from serve.engine import Engine, Prediction
from tests.conftest import messages, write_tsv

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
    monkeypatch.setattr(verification, "LOWER_TOLERANCE", 1e-4)  # so small a model's logits move little
    with pytest.raises(WorkFailedError, match="answers depend on a text's neighbours: logits differ by up to"):
        adopted(foreign)


def test_int8_that_keeps_texts_apart_is_adopted(foreign: Path) -> None:
    from export.quantization import quantize

    model = _edit(foreign)
    quantize(model, weight_bits=7)
    ir.save(model, foreign / "model.onnx")
    manifest = adopted(foreign).manifest
    assert (manifest.precision, manifest.weight_bits) == ("int8", 7)


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
    with pytest.raises(WorkFailedError, match=r"shape \[\d+, 3\] for \d+ texts and 4 labels"):
        adopted(foreign)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("model.onnx", "holds no ONNX file"),
        ("config.json", r"config\.json cannot be read"),
        ("tokenizer.json", "fast tokenizer|tokenizer cannot be loaded"),
    ],
)
def test_a_missing_file_is_named(lost: str, message: str, foreign: Path) -> None:
    (foreign / lost).unlink()
    with pytest.raises(InputError, match=message):
        adopted(foreign)
