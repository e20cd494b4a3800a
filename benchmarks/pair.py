"""The two bundles of a benchmark, opened only if they can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import read_json, sha256
from common.labels import Task
from export.bundle import MANIFEST_FILE, MODEL_FILE, Bundle
from serve.engine import Engine


def open_pair(student: Path, teacher: Path, engine: str, device: str, threads: int) -> dict[str, Engine]:
    """Both engines, by role.

    Raises:
        InputError: a directory is no bundle, or the two differ in task, labels, their order or the tokenizer.
    """
    engines = {
        "student": Engine.load(student, engine=engine, device=device, threads=threads),
        "teacher": Engine.load(teacher, engine=engine, device=device, threads=threads),
    }
    check_tasks(engines["student"].task, engines["teacher"].task)
    if _tokenizer(student) != _tokenizer(teacher):
        raise InputError(
            f"student and teacher tokenizers differ ({student / 'tokenizer.json'}, {teacher / 'tokenizer.json'}): "
            f"bench compares models that read the same tokens"
        )
    return engines


def check_tasks(student: Task, teacher: Task) -> None:
    """Refuses two models whose answers do not mean the same.

    Raises:
        InputError: they differ in problem_type, in the set of labels, or in the labels' order.
    """
    if student.problem_type != teacher.problem_type:
        raise InputError(
            f"student and teacher differ in problem_type: '{student.problem_type}' and '{teacher.problem_type}'"
        )
    if set(student.labels) != set(teacher.labels):
        unshared = sorted(set(student.labels) ^ set(teacher.labels))
        names = ", ".join(unshared[:8]) + (", …" if len(unshared) > 8 else "")
        raise InputError(f"student and teacher have different labels; only one of them has: {names}")
    if student.labels != teacher.labels:
        pairs = zip(student.labels, teacher.labels, strict=True)
        index, (one, other) = next((index, pair) for index, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"student and teacher have the same labels in another order: label {index} is '{one}' and '{other}'"
        )


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """What a report says of a bundle: its name, sizes and hashes."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "layers": manifest.layers,
        "parameters": manifest.parameters,
        "precision": manifest.precision,
        "max_length": manifest.max_length,
        "sha256": manifest.files[MODEL_FILE]["sha256"],
        "manifest_sha256": sha256(bundle.path / MANIFEST_FILE),
        "bytes": bundle.size_bytes,
    }


def _tokenizer(bundle: Path) -> dict[str, Any]:
    """What decides a text's tokens; truncation and padding in the file are not used."""
    content = read_json(bundle / "tokenizer.json")
    return {key: value for key, value in content.items() if key not in ("truncation", "padding")}
