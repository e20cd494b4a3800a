"""Graphs of more than one file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from common.errors import InputError
from demo.messages import DEV
from export import onnx_file
from export.bundle import Bundle
from export.exporting import export
from export.onnx_file import graph_files, move_graph, save_graph
from export.settings import ExportSettings
from serve.engine import Engine, Prediction
from tests.conftest import make_model

TEXTS = ["Where is my parcel?", "Cancel my order, please"]


def test_a_bundle_too_large_for_one_file_has_its_tensors_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "model", layers=2)
    export(model, tmp_path / "one", checked_on=str(DEV))
    monkeypatch.setattr(onnx_file, "ONE_FILE_BYTES", 1000)
    export(model, tmp_path / "two", checked_on=str(DEV))
    bundle = Bundle.load(tmp_path / "two")
    assert {"model.onnx", "model.onnx_data"} <= set(bundle.manifest.files)
    one, two = tmp_path / "one" / "model.onnx", bundle.model_path
    assert two.stat().st_size < 0.6 * one.stat().st_size
    moved = Path(shutil.move(bundle.path, tmp_path / "elsewhere"))
    for ours, plain in zip(
        Engine.load(moved).classify(TEXTS), Engine.load(tmp_path / "one").classify(TEXTS), strict=True
    ):
        assert isinstance(ours, Prediction)
        assert isinstance(plain, Prediction)
        assert np.array_equal(ours.logits, plain.logits)
    (moved / "model.onnx_data").unlink()
    with pytest.raises(InputError, match=r"model\.onnx_data is missing: the bundle is damaged"):
        Bundle.load(moved)


def test_int8_of_a_large_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bert_teacher: Path) -> None:
    monkeypatch.setattr(onnx_file, "ONE_FILE_BYTES", 1000)
    rows = "\n".join(["text\tlabel", *(f"{text} {n}\tcancel_order" for n in range(40) for text in TEXTS)])
    (tmp_path / "dev.tsv").write_text(rows + "\n")
    settings = ExportSettings(precision="int8", labelled=True, max_loss=100.0, calibrate=False)
    manifest = export(bert_teacher, tmp_path / "bundle", checked_on=str(tmp_path / "dev.tsv"), settings=settings)
    proof = manifest.precision_proof
    assert proof is not None
    files = [tmp_path / "bundle" / name for name in ("model.onnx", "model.onnx_data")]
    assert proof.bytes == sum(file.stat().st_size for file in files)
    Engine.load(tmp_path / "bundle").classify(TEXTS)


def test_moving_replaces_both_files(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ir.load(bundle / "model.onnx")
    (tmp_path / "to").mkdir()
    (tmp_path / "from").mkdir()
    monkeypatch.setattr(onnx_file, "ONE_FILE_BYTES", 1000)
    save_graph(model, tmp_path / "to" / "model.onnx")
    assert len(graph_files(tmp_path / "to" / "model.onnx")) == 2
    monkeypatch.undo()
    save_graph(model, tmp_path / "from" / "model.onnx")
    move_graph(tmp_path / "from" / "model.onnx", tmp_path / "to" / "model.onnx")
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["model.onnx"]
    assert not list((tmp_path / "from").iterdir())
    with pytest.raises(ValueError, match=r"other\.onnx cannot become model\.onnx"):
        move_graph(tmp_path / "other.onnx", tmp_path / "to" / "model.onnx")
