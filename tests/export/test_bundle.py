"""What a bundle vouches for, and what loading refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from common.errors import InputError
from export.bundle import Bundle
from export.inspection import inspect
from export.proofs import Calibration
from tests.conftest import INTENTS


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def _edit(path: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    manifest = json.loads((path / "understudy.json").read_text())
    change(manifest)
    (path / "understudy.json").write_text(json.dumps(manifest))


def test_a_whole_bundle_loads(bundle: Path) -> None:
    loaded = Bundle.load(bundle)
    assert loaded.task.labels == INTENTS
    assert loaded.manifest.layers == 2
    assert loaded.manifest.verification.texts >= 64
    assert loaded.manifest.verification.max_difference <= 1e-4
    assert (
        loaded.size_bytes
        == sum(file.stat().st_size for file in bundle.iterdir()) - (bundle / "understudy.json").stat().st_size
    )


def test_transformers_reads_config_and_tokenizer(bundle: Path) -> None:
    assert tuple(AutoConfig.from_pretrained(bundle).id2label.values()) == INTENTS
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    assert (
        tokenizer("a parcel")["input_ids"]
        == AutoTokenizer.from_pretrained(bundle.parent / "model")("a parcel")["input_ids"]
    )


@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"])
def test_one_changed_byte_is_noticed(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} does not match its sha256"):
        Bundle.load(copy)


@pytest.mark.parametrize("name", ["model.onnx", "config.json"])
def test_a_missing_or_cut_file_is_named(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(InputError, match=f"{name} has .* bytes where the manifest says"):
        Bundle.load(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        Bundle.load(copy)


def test_a_newer_format_is_refused(copy: Path) -> None:
    _edit(copy, lambda manifest: manifest.update(format_version=99))
    with pytest.raises(InputError, match="format 99, newer than this release reads"):
        Bundle.load(copy)


def test_the_first_format_is_still_read(copy: Path) -> None:
    def age(manifest: dict) -> None:  # type: ignore[type-arg]
        for name in ("precision_proof", "calibration", "contents", "not_run"):
            del manifest[name]
        for name in ("weights_difference", "device"):
            del manifest["verification"][name]
        manifest.update(format_version=1, temperature=1.0)

    _edit(copy, age)
    manifest = Bundle.load(copy).manifest
    assert (manifest.temperature, manifest.thresholds, manifest.weight_bits) == (1.0, (), None)
    inspect(copy)


@pytest.mark.parametrize("thresholds", [[0.5], [0.5, 0.5, 2.0], "abc", 0.5, ["0.5"] * 3, {}])
def test_thresholds_that_do_not_fit_are_refused(copy: Path, thresholds: object) -> None:
    names = [field.name for field in fields(Calibration)]
    made = {**dict.fromkeys(names, 0.5), "thresholds": thresholds, "temperature": 1.0}
    _edit(copy, lambda manifest: manifest.update(calibration=made))
    with pytest.raises(InputError, match="no valid manifest"):
        Bundle.load(copy)


def test_an_empty_calibration_is_refused(copy: Path) -> None:
    _edit(copy, lambda manifest: manifest.update(calibration={}))
    with pytest.raises(InputError, match="no valid manifest"):
        Bundle.load(copy)


@pytest.mark.parametrize("temperature", [0, -1, "x", None])
def test_a_temperature_that_is_none_is_refused(copy: Path, temperature: object) -> None:
    names = [field.name for field in fields(Calibration)]
    made = {**dict.fromkeys(names, 0.5), "thresholds": None, "temperature": temperature}
    _edit(copy, lambda manifest: manifest.update(calibration=made))
    with pytest.raises(InputError, match="no valid manifest"):
        Bundle.load(copy)


@pytest.mark.parametrize("change", [{"contents": []}, {"not_run": None}])
def test_parts_of_another_kind_are_refused(copy: Path, change: dict) -> None:  # type: ignore[type-arg]
    _edit(copy, lambda manifest: manifest.update(change))
    with pytest.raises(InputError, match="no valid manifest"):
        Bundle.load(copy)


def test_a_manifest_that_points_outside_is_refused(copy: Path) -> None:
    _edit(copy, lambda manifest: manifest["files"].update({"../model/config.json": {"sha256": "", "bytes": 0}}))
    with pytest.raises(InputError, match="outside the bundle"):
        Bundle.load(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [("bytes", None), ("bytes", "12"), ("bytes", True), ("bytes", []), ("sha256", None), ("sha256", 7), ("sha256", {})],
)
def test_an_entry_of_another_kind_is_named(copy: Path, field: str, value: object) -> None:
    _edit(copy, lambda manifest: manifest["files"]["config.json"].update({field: value}))
    with pytest.raises(InputError, match=rf"understudy\.json: {field} of config\.json is no"):
        Bundle.load(copy)


def test_a_manifest_that_leaves_a_file_out_is_refused(copy: Path) -> None:
    _edit(copy, lambda manifest: manifest["files"].pop("config.json"))
    with pytest.raises(InputError, match=r"does not vouch for config\.json"):
        Bundle.load(copy)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"format_version": 1}'])
def test_a_damaged_manifest_is_one_clear_error(copy: Path, text: str) -> None:
    (copy / "understudy.json").write_text(text)
    with pytest.raises(InputError, match=r"understudy\.json"):
        Bundle.load(copy)


def test_a_directory_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no bundle"):
        Bundle.load(tmp_path)
    with pytest.raises(InputError, match="no such bundle directory"):
        Bundle.load(tmp_path / "absent")
