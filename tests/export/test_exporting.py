"""The exported model is the trained one, or there is no bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.errors import InputError, WorkFailedError
from demo.messages import DEV
from export.exporting import export
from export.inspection import inspect
from export.settings import ExportSettings
from serve.engine import Engine, Prediction
from serve.scoring.score import score
from tests.conftest import INTENTS, export_bundle, make_model, messages, write_tsv


def _difference(bundle: Path, texts: list[str] | list[tuple[str, str]]) -> float:
    """Greatest difference between ONNX Runtime and transformers' own path, its tokenizer and padding included."""
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    model = AutoModelForSequenceClassification.from_pretrained(bundle.parent / "model").eval()
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        reference = model(**batch).logits.numpy()
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    names = [entry.name for entry in session.get_inputs()]
    ours = session.run(["logits"], {name: batch[name].numpy() for name in names})[0]
    return float(np.abs(ours - reference).max())


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert", "xlnet"])
def test_other_families_export_and_agree(family: str, tmp_path: Path) -> None:
    bundle = export_bundle(tmp_path, family, INTENTS, "single_label_classification")
    names = [entry.name for entry in onnxruntime.InferenceSession(bundle / "model.onnx").get_inputs()]
    assert ("token_type_ids" in names) == (family in ("electra", "xlnet"))
    texts = [row["text"] for row in messages(DEV)[:9]]
    assert _difference(bundle, texts) < 1e-4
    assert _difference(bundle, list(zip(texts, texts[::-1], strict=True))) < 1e-4


def _with_config(model: Path, **values: object) -> Path:
    """The same model, its config changed."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **values}))
    return model


def test_feed_forwards_in_chunks_bake_no_length_in(tmp_path: Path) -> None:
    model = _with_config(make_model(tmp_path / "model", layers=2), chunk_size_feed_forward=1)
    export(model, tmp_path / "bundle", checked_on=str(DEV))
    assert _difference(tmp_path / "bundle", ["where is my parcel, it is late", "hello", "my card was declined"]) < 1e-4


def test_an_xlnet_that_reads_half_of_a_batch_backwards_is_refused_by_name(tmp_path: Path) -> None:
    model = _with_config(make_model(tmp_path / "model", "xlnet", layers=1), bi_data=True)
    with pytest.raises(InputError, match="model has bi_data on, with which XLNet reads the second half of each batch"):
        export(model, tmp_path / "bundle", checked_on=str(DEV))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text("abcdefgh ", min_size=1, max_size=400).filter(str.strip), min_size=1, max_size=9))
def test_any_batch_and_length_agrees(bundle: Path, texts: list[str]) -> None:
    assert _difference(bundle, texts) < 1e-4


def test_a_graph_that_answers_otherwise_leaves_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import exporting

    model = make_model(tmp_path / "model", layers=2)
    other = exporting.export_graph

    def tampered(model, *given):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            model.classifier.bias += 0.01
            other(model, *given)
            model.classifier.bias -= 0.01

    monkeypatch.setattr(exporting, "export_graph", tampered)
    with pytest.raises(WorkFailedError, match=r"not the trained one: logits differ by up to 1\.00e-02"):
        export(model, tmp_path / "bundle", checked_on=str(DEV))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_outputs_that_are_no_numbers_leave_no_bundle(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(make_model(tmp_path / "model", layers=2))
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(WorkFailedError, match="not finite numbers"):
        export(tmp_path / "model", tmp_path / "bundle", checked_on=str(DEV))
    assert not (tmp_path / "bundle").exists()


def test_too_few_texts_are_refused_before_anything_is_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import exporting

    monkeypatch.setattr(exporting, "export_graph", lambda *_: pytest.fail("the model was traced"))
    table = write_tsv(tmp_path / "few.tsv", messages(DEV)[:63])
    with pytest.raises(InputError, match="has 63 rows; the check of an export needs at least 64"):
        export(make_model(tmp_path / "model", layers=2), tmp_path / "bundle", checked_on=str(table))


def test_an_output_that_exists_is_kept(bundle: Path) -> None:
    before = (bundle / "understudy.json").read_bytes()
    with pytest.raises(InputError, match="exists: choose another output or pass --overwrite"):
        export(bundle.parent / "model", bundle, checked_on=str(DEV))
    assert (bundle / "understudy.json").read_bytes() == before


def test_card_and_manifest_carry_the_record(bert_teacher: Path, tmp_path: Path) -> None:
    manifest = export(bert_teacher, tmp_path / "bundle", checked_on=str(DEV))
    record = json.loads((bert_teacher / "distillation.json").read_text())
    assert manifest.made_from["base_model"] == record["base_model"]
    assert manifest.measured["value"] == record["best_dev"]["accuracy"]
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"{record['best_dev']['accuracy']:.4f}" in card
    assert f"{manifest.verification.max_difference:.2e}" in card


def test_inspect_shows_the_manifest(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(bundle)
    shown = capsys.readouterr().out
    assert "All 5 files match their hashes" in shown
    assert "3 labels" in shown
    inspect(bundle, as_json=True)
    assert json.loads(capsys.readouterr().out)["name"] == "bundle"


def test_an_encoder_without_a_head_is_no_classifier(bert_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no trained classifier"):
        export(bert_base, tmp_path / "bundle", checked_on=str(DEV))


def test_pairs_are_run_where_the_model_tells_segments_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import verification

    seen: list[bool] = []
    mixed = verification.mixed_texts

    def watch(*arguments, **options):  # type: ignore[no-untyped-def]
        texts = mixed(*arguments, **options)
        seen.append(any(isinstance(text, tuple) for text in texts))
        return texts

    monkeypatch.setattr(verification, "mixed_texts", watch)
    for family in ("bert", "roberta"):
        export(make_model(tmp_path / family, family, 2), tmp_path / f"{family}-bundle", checked_on=str(DEV))
    assert seen == [True, False]


def test_large_numbers_are_compared_in_proportion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_model(tmp_path / "model", layers=2, labels=("score",), problem_type="regression")
    model = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.no_grad():
        model.classifier.weight.mul_(1e4)
    model.save_pretrained(path)
    manifest = export(path, tmp_path / "bundle", checked_on=str(DEV))
    assert manifest.verification.max_difference < 1e-4
    inspect(tmp_path / "bundle")
    told = capsys.readouterr().out + (tmp_path / "bundle" / "README.md").read_text()
    assert "same label" not in told
    assert "every label" not in told


def test_several_numbers_are_no_one_answer(tmp_path: Path) -> None:
    path = make_model(tmp_path / "model", layers=1, labels=("joy", "fear", "anger"), problem_type="regression")
    with pytest.raises(InputError, match=r"answers with one number, and this one has 3 outputs \(joy, fear, anger\)"):
        export(path, tmp_path / "bundle", checked_on=str(DEV))
    assert not (tmp_path / "bundle").exists()


def _labelled(tmp_path: Path, rows: int = 120) -> Path:
    return write_tsv(
        tmp_path / "dev.tsv",
        [{"text": row["text"], "label": INTENTS[number % 3]} for number, row in enumerate(messages(DEV)[:rows])],
    )


def test_a_labelled_table_calibrates_and_the_engine_applies_it(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", layers=2)
    dev = _labelled(tmp_path)
    manifest = export(model, tmp_path / "bundle", checked_on=str(dev), settings=ExportSettings(labelled=True))
    found = manifest.calibration
    assert found is not None
    assert manifest.temperature == found.temperature != 1  # random labels: no model may be sure of them
    assert json.loads((tmp_path / "bundle" / "understudy.json").read_text())["temperature"] == found.temperature
    card = (tmp_path / "bundle" / "README.md").read_text()
    for value in (found.ece_before, found.ece_after, found.brier_before, found.brier_after):
        assert f"{value:.4f}" in card
    assert (tmp_path / "bundle" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert "(reliability.png)" in card
    for answer in Engine.load(tmp_path / "bundle").classify([row["text"] for row in messages(DEV)[:9]]):
        assert isinstance(answer, Prediction)
        expected = torch.softmax(torch.tensor(answer.logits) / found.temperature, -1)
        assert answer.scores == pytest.approx(expected.numpy(), abs=1e-6)
        # What was asked for raw stays as the model gave it.
        assert dict(answer.ranked(raw=True)) == pytest.approx(dict(zip(INTENTS, answer.logits, strict=True)))
    plain = export(
        model, tmp_path / "plain", checked_on=str(dev), settings=ExportSettings(labelled=True, calibrate=False)
    )
    assert (plain.calibration, plain.temperature) == (None, 1.0)


def test_thresholds_decide_what_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(tmp_path / "model", labels=INTENTS, problem_type="multi_label_classification")
    export(model, tmp_path / "plain", checked_on=str(DEV))
    texts = [row["text"] for row in messages(DEV)[:120]]
    answers = Engine.load(tmp_path / "plain").classify(texts)
    assert all(isinstance(answer, Prediction) for answer in answers)
    scores = np.stack([answer.scores for answer in answers])  # type: ignore[union-attr]
    # Each label holds for the upper fourth of its scores, wherever those lie.
    limits = np.quantile(scores, 0.75, axis=0)
    rows = [
        {"text": text, "label": "|".join(np.array(INTENTS)[row > limits])}
        for text, row in zip(texts, scores, strict=True)
    ]
    dev = write_tsv(tmp_path / "dev.tsv", rows)
    manifest = export(model, tmp_path / "bundle", checked_on=str(dev), settings=ExportSettings(labelled=True))
    assert manifest.calibration is not None
    assert manifest.calibration.f1_after > (manifest.calibration.f1_before or 0)  # type: ignore[operator]
    engine = Engine.load(tmp_path / "bundle")
    assert engine.task.thresholds == manifest.thresholds != ()
    for answer in engine.classify(texts):
        assert isinstance(answer, Prediction)
        reached = zip(INTENTS, answer.scores, manifest.thresholds, strict=True)
        held = [name for name, value, limit in reached if value >= np.float32(limit)]
        assert answer.chosen == held
    summary = score(tmp_path / "bundle", dev, tmp_path / "scored.csv")
    assert summary.metrics["micro-f1"] > 0.9
    assert summary.labelled_rows == 120
    # What training measured at one half is not what the bundle does.
    record = {"method": "finetune", "settings": {"x": 1}, "metric": "micro-f1", "layers": {"count": 4}}
    record |= {"best_dev": {"micro-f1": 0.1}, "data": dict.fromkeys(("train", "dev"), manifest.calibration.data)}
    record |= {"base_model": None, "teacher": {"name": "t", "sha256": "0" * 64, "layers": 6, "dev": {"micro-f1": 0.7}}}
    (model / "distillation.json").write_text(json.dumps(record))
    trained = export(model, tmp_path / "trained", checked_on=str(dev), settings=ExportSettings(labelled=True))
    assert trained.measured["value"] == pytest.approx(summary.metrics["micro-f1"])
    assert (trained.measured["teacher_value"], trained.measured["split"]) == (0.7, "dev.tsv")
    assert trained.flattering
    assert "A threshold of its own for 3 of 3 labels: micro-F1 " in capsys.readouterr().out
    assert "3 of 3 labels have a threshold of their own" in (tmp_path / "trained" / "README.md").read_text()


@pytest.mark.parametrize("opset", [18, 22])
def test_other_opsets(opset: int, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", layers=2)
    manifest = export(model, tmp_path / "bundle", checked_on=str(DEV), settings=ExportSettings(opset=opset))
    assert manifest.opset == opset
    assert {entry.domain: entry.version for entry in onnx.load(tmp_path / "bundle" / "model.onnx").opset_import}[
        ""
    ] == opset


@pytest.mark.parametrize("opset", [9, 17, 99])
def test_opsets_that_nobody_runs_are_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"opset must lie between 18 and \d+ here, not {opset}"):
        export(
            make_model(tmp_path / "model", layers=2),
            tmp_path / "b",
            checked_on=str(DEV),
            settings=ExportSettings(opset=opset),
        )


def test_the_graph_holds_no_path_of_this_machine_and_no_weight_to_be_reshaped(tmp_path: Path) -> None:
    bundle = export_bundle(tmp_path, "xlnet", INTENTS, "single_label_classification")
    content = (bundle / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[2]).encode() not in content
    graph = onnx.load(bundle / "model.onnx").graph
    constants = {entry.name for entry in graph.initializer}
    idle = [node.op_type for node in graph.node if node.input and set(node.input) <= constants]
    assert idle == []


def test_inspect_shows_what_is_inside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(make_model(tmp_path / "model", layers=2), tmp_path / "bundle", checked_on=str(_labelled(tmp_path)),
           settings=ExportSettings(labelled=True, precision="int8", max_loss=100.0))  # fmt: skip
    capsys.readouterr()
    inspect(tmp_path / "bundle")
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("int8 against fp32", "weight bits", "temperature", "tensors, layers, int8", "MatMulIntegerToFloat",
                 "layers in int8"):  # fmt: skip
        assert part in shown
