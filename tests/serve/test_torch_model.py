"""The torch engine gives the answers of the same bundle's ONNX model, through every door."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from common.batching import BatchLimits
from common.errors import InputError, TextError, WorkFailedError
from demo.messages import DEV
from export import verification
from export.bundle import Bundle
from export.exporting import export
from export.settings import ExportSettings
from kernels import packed_classifier
from serve.engine import Engine, Prediction
from serve.scoring.score import score
from serve.scoring.settings import ScoreSettings
from tests.conftest import INTENTS, CommandResult, export_bundle, make_model, messages
from tests.serve_process import ServerProcess

TEXTS = [row["text"] for row in messages(DEV)[:40]]
MIXED = [*TEXTS[:20], (TEXTS[0], TEXTS[1]), "hi", "", " ".join(TEXTS), 7, "a <pad> [PAD] b"]


def assert_same(ours: list[Prediction | TextError], theirs: list[Prediction | TextError]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(other, TextError):
            assert str(one) == str(other)
            continue
        assert isinstance(one, Prediction)
        assert (one.label, one.tokens, one.truncated) == (other.label, other.tokens, other.truncated)
        np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=1e-5)
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-5)


def test_answers_are_those_of_the_onnx_model(weights_bundle: Path) -> None:
    onnx, torch = (Engine.load(weights_bundle, engine=name) for name in ("onnx", "torch"))
    answers = torch.classify(MIXED)
    assert_same(answers, onnx.classify(MIXED))
    spread = np.ptp([answer.logits for answer in answers if isinstance(answer, Prediction)], axis=0)
    assert (spread > 0.01).all(), "the texts' answers are too alike to tell"
    assert (torch.model.engine, onnx.model.engine, onnx.model.device) == ("torch", "onnx", "cpu")


@settings(deadline=None, max_examples=15, derandomize=True)
@given(items=st.integers(1, 9), tokens=st.integers(1, 300), order=st.permutations(range(20)))
def test_neighbours_do_not_matter(weights_bundle: Path, items: int, tokens: int, order: list[int]) -> None:
    engine = _loaded(weights_bundle)
    batched = Engine(engine.bundle, engine.model, engine.encoder, BatchLimits(items, tokens))
    alone = [engine.classify([TEXTS[row]])[0] for row in order]
    assert_same(batched.classify([TEXTS[row] for row in order]), alone)


_engines: dict[Path, Engine] = {}


def _loaded(path: Path) -> Engine:
    return _engines.setdefault(path, Engine.load(path, engine="torch"))


def test_a_family_that_cannot_be_packed_runs_padded_and_says_so(
    weights_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packed_classifier, "takes", lambda _: False)
    engine = Engine.load(weights_bundle, engine="torch")
    assert "model runs padded" in caplog.text
    assert_same(engine.classify(MIXED), Engine.load(weights_bundle).classify(MIXED))


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_other_heads(problem_type: str, tmp_path: Path) -> None:
    labels = INTENTS if problem_type != "regression" else ("score",)
    bundle = export_bundle(tmp_path, "electra", labels, problem_type, with_weights=True)
    assert_same(Engine.load(bundle, engine="torch").classify(TEXTS), Engine.load(bundle).classify(TEXTS))


def test_the_manifest_says_how_the_weights_agree(weights_bundle: Path, bundle: Path) -> None:
    found = Bundle.load(weights_bundle).manifest.verification.weights_difference
    assert found is not None
    assert 0 < found < 1e-4
    modes = {file.stat().st_mode for file in weights_bundle.iterdir()}
    assert len(modes) == 1, "one file of the bundle is not as readable as the others"
    assert Bundle.load(bundle).manifest.verification.weights_difference is None


def test_a_bundle_without_weights_is_refused(bundle: Path) -> None:
    with pytest.raises(InputError, match="holds no weights for the torch engine: export it again with --with-weights"):
        Engine.load(bundle, engine="torch")
    with pytest.raises(InputError, match="engine must be one of onnx, torch, not 'tensorrt'"):
        Engine.load(bundle, engine="tensorrt")


@pytest.mark.parametrize("damage", ["changed", "lacking", "nonsense"])
def test_weights_that_are_not_the_models(damage: str, weights_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(weights_bundle, copy)
    file = copy / "model.safetensors"
    if damage == "nonsense":
        file.write_bytes(b"\x08\0\0\0\0\0\0\0no json!")
    else:
        weights = load_file(file)
        name = next(name for name in weights if "layer.0" in name and name.endswith("weight"))
        if damage == "lacking":
            del weights[name]
        else:
            weights[name] = weights[name] + 1
        save_file(weights, file, metadata={"format": "pt"})
    if damage == "changed":
        with pytest.raises(InputError, match=r"model.safetensors (does not match its sha256|has .* bytes)"):
            Engine.load(copy, engine="torch")
        return
    manifest = Bundle.load(weights_bundle).manifest
    (copy / "understudy.json").unlink()
    replace(manifest, files={}).write(copy)
    with pytest.raises(InputError, match="cannot be loaded"):
        Engine.load(copy, engine="torch")


def test_a_file_with_more_than_the_model_is_refused(weights_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(weights_bundle, copy)
    weights = load_file(copy / "model.safetensors")
    weights["another.layer"] = weights[next(iter(weights))].clone()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    (copy / "understudy.json").unlink()
    replace(Bundle.load(weights_bundle).manifest, files={}).write(copy)
    with pytest.raises(InputError, match=r"cannot be loaded: unexpected weights: another\.layer"):
        Engine.load(copy, engine="torch")


@pytest.mark.parametrize("padded", [False, True])
def test_weights_that_answer_otherwise_leave_no_bundle(
    padded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_classifier, "takes", lambda _: not padded)
    usual = verification._run_weights
    monkeypatch.setattr(verification, "_run_weights", lambda *given: usual(*given) + np.float32(1e-3))
    with pytest.raises(WorkFailedError, match="the bundle's weights are not the trained one"):
        export_bundle(tmp_path, "bert", INTENTS, "single_label_classification", with_weights=True)
    assert not (tmp_path / "bundle").exists()


def test_an_xlnet_that_looks_back_only_runs_padded(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "xlnet", 2)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "attn_type": "uni"}))
    export(model, tmp_path / "bundle", checked_on=str(DEV), settings=ExportSettings(with_weights=True))
    found = Bundle.load(tmp_path / "bundle").manifest.verification.weights_difference
    assert found is not None
    assert found < 1e-4
    assert_same(
        Engine.load(tmp_path / "bundle", engine="torch").classify(MIXED),
        Engine.load(tmp_path / "bundle").classify(MIXED),
    )


def test_score_writes_the_same_table(weights_bundle: Path, tmp_path: Path) -> None:
    tables = []
    for name in ("onnx", "torch"):
        output = tmp_path / f"{name}.csv"
        score(weights_bundle, DEV, output, ScoreSettings(engine=name))
        with output.open(newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    onnx, torch = tables
    assert [row["prediction"] for row in torch] == [row["prediction"] for row in onnx]
    np.testing.assert_allclose([float(row["score"]) for row in torch], [float(row["score"]) for row in onnx], atol=1e-5)


def test_served_over_http(tmp_path: Path) -> None:
    bundle = export_bundle(tmp_path, "xlnet", INTENTS, "single_label_classification", with_weights=True)
    with ServerProcess(bundle, "--engine", "torch") as server:
        assert ", torch on " in server.greeting
        about = httpx.get(f"{server.url}/v1/model").json()
        assert about["engine"] == "torch"
        assert about["device"].startswith(("cpu", "cuda"))
        reply = httpx.post(f"{server.url}/v1/classify", json={"inputs": TEXTS}).json()
    expected = Engine.load(bundle).classify(TEXTS)
    for output, wanted in zip(reply["outputs"], expected, strict=True):
        assert isinstance(wanted, Prediction)
        assert output["label"] == wanted.label
        assert abs(output["score"] - wanted.score) < 1e-5


def test_the_command_names_what_is_missing(bundle: Path, understudy: Callable[..., CommandResult]) -> None:
    for arguments, message in (
        (("--engine", "torch"), "export it again with --with-weights"),
        (("--engine", "tensorrt"), "engine must be one of onnx, torch"),
    ):
        result = understudy("serve", bundle, "--port", 0, *arguments)
        assert result.code == 2
        assert message in result.err
