"""The bundle: a directory with model.onnx, what is needed to serve it, and understudy.json, which vouches for both.

Needs neither torch nor onnx: the server reads bundles through this file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import InputError, shown
from common.files import MADE_BY, read_json, sha256, write_json
from common.labels import Task
from export.proofs import Attempt, Calibration, PrecisionProof, Verification

MANIFEST_FILE = "understudy.json"
MODEL_FILE = "model.onnx"
# Only in bundles exported with weights, for the torch engine.
WEIGHTS_FILE = "model.safetensors"
REQUIRED_FILES = (MODEL_FILE, "config.json", "tokenizer.json", "tokenizer_config.json", "README.md")
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Manifest:
    """`understudy.json`.

    Attributes:
        name: what the server calls the model.
        layers, parameters: of the model.
        inputs: the graph's input names.
        max_length: tokens at which texts are truncated.
        precision, opset: of the graph.
        made_from: name and weight hash of the model, its teacher and its base; method and settings; data hashes.
        measured: the dev metrics of student and teacher, with the metric, the split's name, and the precision in which
            the student's was measured.
        verification: see `Verification`.
        precision_proof: see `PrecisionProof`; None for float32.
        calibration: see `Calibration`; None where no labelled dev rows were given.
        contents: see `export.contents.describe_graph`; empty in bundles of the first format.
        not_run: what an export of this kind should be checked on and was not, such as 'cuda'.
        versions: of what made the bundle.
        files: sha256 and size in bytes of every file but this one.
    """

    name: str
    layers: int
    parameters: int
    inputs: list[str]
    max_length: int
    precision: str
    opset: int
    made_from: dict[str, Any]
    measured: dict[str, Any]
    verification: Verification
    versions: dict[str, str]
    precision_proof: PrecisionProof | None = None
    calibration: Calibration | None = None
    contents: dict[str, Any] = field(default_factory=dict)
    not_run: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def of_single_texts(self) -> bool:
        """Whether the model is known to have been trained on single texts, not on pairs."""
        data = self.made_from.get("data")
        train = data.get("train") if isinstance(data, dict) else None
        return isinstance(train, dict) and train.get("pairs") is False

    def __post_init__(self) -> None:
        """
        Raises:
            TypeError: a part is of another kind than it must be.
        """
        if not isinstance(self.contents, dict) or not isinstance(self.not_run, list):
            raise TypeError("contents must be an object and not_run a list")

    @property
    def version(self) -> str:
        """Twelve digits that two bundles share only if they give the same answers: of the hashes of all files but the
        model card, and of the calibration."""
        files = {name: entry["sha256"] for name, entry in sorted(self.files.items()) if name != "README.md"}
        told = json.dumps([files, self.temperature, self.thresholds])
        return hashlib.sha256(told.encode()).hexdigest()[:12]

    @property
    def temperature(self) -> float:
        """Divides the logits before the activation; 1 leaves them as trained."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    @property
    def flattering(self) -> bool:
        """Whether `measured` is of rows that the thresholds were fitted on."""
        found = self.calibration
        return found is not None and bool(found.thresholds) and self.measured.get("split") == found.data.get("name")

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The score from which each label holds; empty for the usual ones."""
        return () if self.calibration is None else tuple(self.calibration.thresholds or ())

    @property
    def weight_bits(self) -> int | None:
        """Of the integers that the graph multiplies; None where it multiplies none."""
        bits: int | None = self.contents.get("weight_bits")
        return bits

    def write(self, directory: Path) -> None:
        """Hashes every file in the directory and writes the manifest beside them."""
        files = {
            path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in sorted(directory.iterdir())
            if path.name != MANIFEST_FILE
        }
        head = {**MADE_BY, "format_version": FORMAT_VERSION, "temperature": self.temperature}
        values = {**head, **asdict(self), "files": files}
        write_json(directory / MANIFEST_FILE, values)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file is what its manifest says.

    Attributes:
        path: its directory.
        manifest: what vouches for it.
        config: the transformers config as it stands in the file.
        task: what the head answers.
    """

    path: Path
    manifest: Manifest
    config: dict[str, Any]
    task: Task

    @property
    def model_path(self) -> Path:
        return self.path / MODEL_FILE

    @property
    def size_bytes(self) -> int:
        """All files together, without the manifest."""
        return sum(entry["bytes"] for entry in self.manifest.files.values())

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Reads a bundle and verifies every file's size and hash.

        Raises:
            InputError: the directory is no bundle, was made by a newer format, or a file is missing or was changed.
        """
        if not path.is_dir():
            raise InputError(f"{path}: no such bundle directory")
        if not (path / MANIFEST_FILE).is_file():
            raise InputError(f"{path} is no bundle: it has no {MANIFEST_FILE}; make one with `understudy export`")
        manifest = _read_manifest(path / MANIFEST_FILE)
        for name in REQUIRED_FILES:
            if name not in manifest.files:
                raise InputError(f"{path / MANIFEST_FILE} does not vouch for {name}")
        for name, entry in manifest.files.items():
            _verify(path, name, entry)
        config = read_json(path / "config.json")
        task = Task.from_config(config)
        try:
            task = replace(task, thresholds=manifest.thresholds)
        except (InputError, TypeError) as error:
            raise InputError(f"{path / MANIFEST_FILE} is no valid manifest: {error}") from None
        return cls(path, manifest, config, task)


def _read_manifest(path: Path) -> Manifest:
    values = read_json(path)
    files = values.get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise InputError(f"{path} does not list its files: export the model again")
    version = values.pop("format_version", None)
    values.pop("made_by", None)
    values.pop("temperature", None)  # for other readers; it stands in the calibration too
    if not isinstance(version, int):
        raise InputError(f"{path} states no format_version: it is no bundle's manifest")
    if version > FORMAT_VERSION:
        raise InputError(f"{path} has format {version}, newer than this release reads ({FORMAT_VERSION}): upgrade")
    try:
        values["verification"] = Verification(**values["verification"])
        if proof := values.get("precision_proof"):
            attempts = [Attempt(**attempt) for attempt in proof["tried"]]
            values["precision_proof"] = PrecisionProof(**{**proof, "tried": attempts})
        if (calibration := values.get("calibration")) is not None:
            values["calibration"] = Calibration(**calibration)
        return Manifest(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no valid manifest: {error}; export the model again") from None


def _verify(directory: Path, name: str, entry: dict[str, Any]) -> None:
    if Path(name).name != name:
        raise InputError(f"{directory / MANIFEST_FILE} names a file outside the bundle: {name}")
    for field_name, kind, meaning in (("bytes", int, "number of bytes"), ("sha256", str, "hash")):
        if type(entry.get(field_name)) is not kind:
            told = shown(json.dumps(entry.get(field_name)), 80)
            raise InputError(f"{directory / MANIFEST_FILE}: {field_name} of {name} is no {meaning} but {told}")
    file = directory / name
    if not file.is_file():
        raise InputError(f"{file} is missing: the bundle is damaged")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise InputError(f"{file} has {size:,} bytes where the manifest says {entry['bytes']:,}: it was changed")
    if sha256(file) != entry["sha256"]:
        raise InputError(f"{file} does not match its sha256 in the manifest: it was changed")
