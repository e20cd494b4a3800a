"""The gate: what passes, what it keeps in float32, what it refuses, and what it writes down."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import quantize_dynamic

from common import machine
from common.errors import InputError, WorkFailedError
from common.tables import TableReader
from demo.messages import DEV, TRAIN
from distill.finetuning import finetune
from distill.settings import TrainingSettings
from export import precision
from export.bundle import Bundle
from export.exporting import export
from export.quantization import linear_layers, quantize
from export.settings import ExportSettings
from serve.engine import Engine, Prediction
from tests.conftest import INTENTS, messages, write_tsv


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, bert_base: Path, small_tables: tuple[Path, Path]) -> Path:
    """A classifier trained until it tells the labels apart, which a random one does not."""
    output = tmp_path_factory.mktemp("precision") / "model"
    train, dev = map(str, small_tables)
    finetune(str(bert_base), train, dev, output, TrainingSettings(epochs=8, learning_rate=3e-3, max_length=64))
    return output


@pytest.fixture(scope="module")
def dev(model: Path) -> Path:
    """Messages with the labels that the model itself gives them: in float32 its accuracy is 1."""
    export(model, model.parent / "plain", checked_on=str(DEV))
    texts = [row["text"] for row in messages(DEV)[:160]]
    answers = Engine.load(model.parent / "plain").classify(texts)
    assert all(isinstance(answer, Prediction) for answer in answers)
    rows = [{"text": text, "label": answer.label} for text, answer in zip(texts, answers, strict=True)]  # type: ignore[union-attr]
    assert {row["label"] for row in rows} == set(INTENTS)
    return write_tsv(model.parent / "dev.tsv", rows)


def exported(model: Path, dev: Path, output: Path, **settings: Any) -> Bundle:
    export(model, output, checked_on=str(dev), settings=ExportSettings(labelled=True, **settings))
    return Bundle.load(output)


def test_int8_is_small_true_and_written_down(model: Path, dev: Path, tmp_path: Path) -> None:
    bundle = exported(model, dev, tmp_path / "bundle", precision="int8", max_loss=8.0)
    proof = bundle.manifest.precision_proof
    assert proof is not None
    assert (bundle.manifest.precision, proof.precision) == ("int8", "int8")
    assert (proof.metric, proof.fp32_value) == ("accuracy", 1.0)
    assert proof.value >= 0.92
    assert proof.agreement == pytest.approx(proof.value)  # the labels are float32's own
    assert 0 < proof.max_score_difference < 0.2
    assert proof.batch_shift is not None
    assert proof.batch_shift <= 1e-3
    assert proof.flips == 0
    assert proof.bytes == bundle.model_path.stat().st_size < proof.fp32_bytes
    assert proof.fp32_bytes == (model.parent / "plain" / "model.onnx").stat().st_size
    assert [attempt.passed for attempt in proof.tried] == [True]
    card = (bundle.path / "README.md").read_text()
    assert f"{proof.value:.4f}" in card
    assert f"{proof.bytes:,}" in card
    # What the manifest says is what the engine does.
    rows = list(TableReader(dev).rows())
    answers = Engine.load(bundle.path).classify([row["text"] for _, row in rows])
    right = [answer.label == row["label"] for answer, (_, row) in zip(answers, rows, strict=True)]  # type: ignore[union-attr]
    assert sum(right) / len(right) == pytest.approx(proof.value)


@pytest.mark.parametrize(("saturates", "bits"), [(True, 7), (False, 8)])
def test_weights_have_the_bits_that_the_processor_bears(
    saturates: bool, bits: int, model: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "integer_products_saturate", lambda: saturates)
    bundle = exported(model, dev, tmp_path / "bundle", precision="int8", max_loss=12.0)
    proof = bundle.manifest.precision_proof
    assert proof is not None
    assert proof.weight_bits == bundle.manifest.weight_bits == bits
    assert "processor" in str(proof.weight_bits_reason)
    other = exported(model, dev, tmp_path / "other", precision="int8", max_loss=12.0, weight_bits=15 - bits)
    assert other.manifest.weight_bits == 15 - bits


def test_a_bundle_of_8_bits_is_refused_where_products_overflow(
    model: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(model, dev, tmp_path / "eight", precision="int8", max_loss=12.0, weight_bits=8)
    exported(model, dev, tmp_path / "seven", precision="int8", max_loss=12.0, weight_bits=7)
    monkeypatch.setattr("serve.onnx_model.integer_products_saturate", lambda: True)
    with pytest.raises(InputError, match=r"no VNNI.*--weight-bits 7"):
        Engine.load(tmp_path / "eight")
    Engine.load(tmp_path / "seven")


def test_processors_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "Path", lambda _: info)
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    for flags, saturates in (("avx2 fma", True), ("avx512_vnni avx2", False), ("avx2 avx_vnni", False)):
        info.write_text(f"model name : X\nflags\t\t: fpu {flags}\n")
        assert machine.integer_products_saturate() is saturates
    info.unlink()
    assert machine.integer_products_saturate()
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert not machine.integer_products_saturate()


def spoiled(*layers: str) -> Any:
    """A `quantize` that ruins these layers where they are not kept."""

    def spoil(model: ir.Model, *, kept: Collection[str] = (), **options: Any) -> None:
        names = [layer.name for layer in linear_layers(model)]
        quantize(model, kept=kept, **options)
        for name in set(layers) - set(kept):
            assert name in names
            scale = model.graph.initializers[f"{name}.weight_scale"]
            assert scale.const_value is not None
            scale.const_value = ir.tensor(-scale.const_value.numpy(), name=scale.name)

    return spoil


def test_the_layer_that_hurts_is_found_and_kept(
    model: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "quantize", spoiled("classifier"))
    bundle = exported(model, dev, tmp_path / "bundle", precision="int8", max_loss=8.0)
    proof = bundle.manifest.precision_proof
    assert proof is not None
    assert proof.kept == ["classifier"]
    assert [attempt.passed for attempt in proof.tried] == [False, True]
    assert proof.tried[0].batch_shift is None  # what loses too much is not measured further
    layers = bundle.manifest.contents["layers"]
    assert layers.pop("classifier") == "fp32"
    assert set(layers.values()) == {"int8"}
    assert "Kept in float32: `classifier`" in (bundle.path / "README.md").read_text()


def test_none_that_passes_is_refused_with_a_table(
    model: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ruined(model: ir.Model, **_: Any) -> None:
        quantize(model, weight_bits=8)
        scale = model.graph.initializers["classifier.weight_scale"]
        assert scale.const_value is not None
        scale.const_value = ir.tensor(-scale.const_value.numpy(), name=scale.name)

    monkeypatch.setattr(precision, "quantize", ruined)
    with pytest.raises(WorkFailedError, match=r"no int8 graph keeps accuracy within 0\.5 points of float32's 1\.0000"):
        exported(model, dev, tmp_path / "bundle", precision="int8")
    assert not (tmp_path / "bundle").exists()
    printed = capsys.readouterr().out
    assert "(1.0000 in float32)" in printed
    # All layers, then 1, 2, 4 and so on of them kept, up to half.
    layers = len(linear_layers(ir.load(model.parent / "plain" / "model.onnx"))) + 1
    assert len(re.findall(r"│ int8 +│", printed)) == 1 + len([k for k in (1, 2, 4, 8, 16) if k <= layers // 2])


def test_answers_that_depend_on_neighbours_are_refused(
    model: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def usual(self: Any, path: Path, *_: Any) -> None:
        """What everybody ships: one range for the whole batch."""
        proto = onnx.load(self._path)
        del proto.graph.value_info[:]  # its shapes stand in the quantizer's way
        onnx.save(proto, tmp_path / "plain.onnx")
        quantize_dynamic(tmp_path / "plain.onnx", path, per_channel=True, extra_options={"DefaultTensorType": 1})

    # So small a model's scores lie close together, and so do their shifts.
    monkeypatch.setattr(precision, "TRIED_SHIFT", 1e-5)
    exported(model, dev, tmp_path / "ours", precision="int8", max_loss=100.0)
    capsys.readouterr()
    monkeypatch.setattr(precision._Gate, "_quantize", usual)
    monkeypatch.setattr(precision._Gate, "_rank", lambda *_: [])  # whatever is kept, the graph would be the same
    with pytest.raises(WorkFailedError, match="no int8 graph keeps"):
        exported(model, dev, tmp_path / "bundle", precision="int8", max_loss=100.0)
    shifts = [float(shift) for shift in re.findall(r"\d\.\de-\d\d(?= +│)", capsys.readouterr().out)]
    assert min(shifts) > 1e-5  # and not for want of accuracy


def test_static_ranges_come_from_training_rows_alone(model: Path, dev: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": "x"} for row in messages(TRAIN)[:40]]
    known = [{"text": row["text"], "label": "x"} for _, row in list(TableReader(dev).rows())[:10]]
    train = write_tsv(tmp_path / "train.tsv", rows + known)
    bundle = exported(
        model, dev, tmp_path / "bundle", precision="int8-static", max_loss=15.0, calibration_rows=str(train)
    )
    proof = bundle.manifest.precision_proof
    assert proof is not None
    assert proof.calibrated_on is not None
    assert (proof.calibrated_on["name"], proof.calibrated_on["rows"]) == ("train.tsv", 40)
    operators = bundle.manifest.contents["operators"]
    assert operators["QuantizeLinear"] > 0
    assert "MatMulIntegerToFloat" not in operators  # standard operators alone
    with pytest.raises(InputError, match="the same table"):
        exported(model, dev, tmp_path / "other", precision="int8-static", calibration_rows=str(dev))
    again = str(write_tsv(tmp_path / "dev-again.tsv", known))
    with pytest.raises(InputError, match="no text that is not in the dev table"):
        exported(model, dev, tmp_path / "other", precision="int8-static", calibration_rows=again)


def test_auto_takes_the_fastest_that_passes(
    model: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rates(*speeds: float) -> None:
        def set_them(gate: Any) -> None:
            gate.plain_texts_per_s = 100.0
            gate.attempts = [
                precision.replace(attempt, texts_per_s=speed)
                for attempt, speed in zip(gate.attempts, speeds, strict=True)
            ]

        monkeypatch.setattr(precision._Gate, "time_those_that_passed", set_them)

    train = str(write_tsv(tmp_path / "train.tsv", [{"text": row["text"]} for row in messages(TRAIN)[:40]]))
    asked = {"precision": "auto", "max_loss": 15.0, "calibration_rows": train}
    chosen = []
    for number, speeds in enumerate([(200.0, 150.0), (150.0, 200.0), (90.0, 80.0)]):
        rates(*speeds)
        bundle = exported(model, dev, tmp_path / str(number), **asked)
        chosen.append(bundle.manifest.precision)
        proof = bundle.manifest.precision_proof
        assert proof is not None
        assert [attempt.texts_per_s for attempt in proof.tried] == list(speeds)
    assert chosen == ["int8", "int8-static", "fp32"]


def test_auto_measures_speed(model: Path, dev: Path, tmp_path: Path) -> None:
    proof = exported(model, dev, tmp_path / "bundle", precision="auto", max_loss=15.0).manifest.precision_proof
    assert proof is not None
    assert proof.fp32_texts_per_s is not None
    assert proof.fp32_texts_per_s > 0
    assert [attempt.precision for attempt in proof.tried] == ["int8"]
    faster = (proof.tried[0].texts_per_s or 0) > proof.fp32_texts_per_s
    assert proof.precision == ("int8" if faster else "fp32")


def test_fp16_halves_the_bytes_and_says_what_was_not_run(model: Path, dev: Path, tmp_path: Path) -> None:
    bundle = exported(model, dev, tmp_path / "bundle", precision="fp16", max_loss=8.0)
    manifest = bundle.manifest
    assert manifest.precision_proof is not None
    tensors = sum(manifest.contents["tensors"].values())
    assert tensors < 0.52 * sum(Bundle.load(model.parent / "plain").manifest.contents["tensors"].values())
    assert manifest.not_run == ["cuda"]
    assert "Not run on cuda" in (bundle.path / "README.md").read_text()
    assert set(manifest.contents["layers"].values()) == {"fp16"}
    answer = Engine.load(bundle.path).classify(["Where is my parcel?"])[0]
    plain = Engine.load(model.parent / "plain").classify(["Where is my parcel?"])[0]
    assert isinstance(answer, Prediction)
    assert isinstance(plain, Prediction)
    assert answer.logits.dtype == plain.logits.dtype
    assert answer.logits == pytest.approx(plain.logits, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "int8"}, "needs --dev"),
        ({"precision": "int4"}, "must be one of fp32"),
        ({"precision": "int8-static", "labelled": True}, "needs --train"),
        ({"weight_bits": 4, "precision": "int8", "labelled": True}, "must be 7 or 8"),
        ({"weight_bits": 7}, "fp32 has no integers"),
        ({"calibration_rows": "train.tsv"}, "fp32 has no use for it"),
        ({"max_loss": -1.0}, "between 0 and 100"),
        ({"device": "tpu"}, "device must be one of"),
        ({"precision": "fp16", "labelled": True, "with_weights": True}, "the torch engine would answer in float32"),
        ({"precision": "int8", "labelled": True, "device": "cuda"}, "int8 runs on the CPU.*take fp16"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportSettings(**settings)


def test_labels_that_the_model_has_not_are_refused(model: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": "elsewhere"} for row in messages(DEV)[:70]]
    with pytest.raises(InputError, match=r"line 2: the label 'elsewhere' is not one of the model's 3"):
        exported(model, write_tsv(tmp_path / "dev.tsv", rows), tmp_path / "bundle")
