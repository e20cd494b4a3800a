"""The models that a benchmark measures: opened by what the user names them, and only if they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, WorkFailedError
from common.files import read_json, sha256
from common.labels import REGRESSION, Task
from common.tokenization import Text
from export.bundle import MANIFEST_FILE, MODEL_FILE
from serve.engine import ENGINES, Engine

TEACHER, STUDENT = "teacher", "student"
IN_PROCESS = "in-process"
# What no student is called: the teacher, and what the machine's own times stand under.
_TAKEN = (TEACHER, "machine")
# Texts that are answered at a time where every text is.
_CHUNK = 256


@dataclass(frozen=True)
class Answers:
    """One model's answers to every text.

    Attributes:
        scores: `[rows, labels]`, in the order of the task's labels; a row of NaN where there is no answer.
        truncated: how many texts lost tokens at the model's limit; None where nobody tells.
    """

    scores: NDArray[np.float32]
    truncated: int | None


class Contestant(Protocol):
    """A model that takes part.

    Attributes:
        id: unique among those that take part.
        role: `TEACHER` or `STUDENT`.
        where: `IN_PROCESS`, or the server's URL.
        task: whose labels and thresholds its answers are read by.
    """

    @property
    def id(self) -> str: ...

    @property
    def role(self) -> str: ...

    @property
    def where(self) -> str: ...

    @property
    def task(self) -> Task: ...

    def call(self, texts: Sequence[Text]) -> None:
        """One query: the texts' answers, which are thrown away.

        Raises:
            WorkFailedError: there was none.
        """

    def answer(self, texts: Sequence[Text]) -> Answers:
        """The answers to any number of texts."""

    def describe(self) -> dict[str, Any]:
        """Its entry under `models` in `results.json`, but for `truncated_rows`.

        Raises:
            WorkFailedError: it is another one by now.
        """


class LocalModel:
    """A bundle in this process; see `Contestant`.

    Attributes:
        path: its directory.
        engine: what answers.
        threads: that its model has.
    """

    where = IN_PROCESS

    def __init__(self, id: str, role: str, path: Path, engine: Engine, threads: int):
        self.id, self.role, self.path, self.engine, self.threads = id, role, path, engine, threads
        self._manifest_sha256 = sha256(path / MANIFEST_FILE)

    @property
    def task(self) -> Task:
        return self.engine.task

    def call(self, texts: Sequence[Text]) -> None:
        self.engine.run(self.engine.encoder.encode(texts))

    def answer(self, texts: Sequence[Text]) -> Answers:
        scores: list[NDArray[np.float32]] = []
        truncated = 0
        for start in range(0, len(texts), _CHUNK):
            encoded = self.engine.encoder.encode(texts[start : start + _CHUNK])
            scores.extend(prediction.scores for prediction in self.engine.run_sorted(encoded))
            truncated += sum(text.truncated for text in encoded)
        return Answers(np.stack(scores), truncated)

    def describe(self) -> dict[str, Any]:
        bundle, model = self.engine.bundle, self.engine.model
        # Start-up and memory are those of processes that open it anew.
        manifest_file = self.path / MANIFEST_FILE
        if not manifest_file.is_file() or sha256(manifest_file) != self._manifest_sha256:
            raise WorkFailedError(f"{self.path} was changed while it was measured: run bench anew")
        manifest = bundle.manifest
        return {
            "id": self.id,
            "role": self.role,
            "where": self.where,
            "name": manifest.name,
            "engine": model.engine,
            "device": model.device,
            "precision": manifest.precision,
            "layers": manifest.layers,
            "parameters": manifest.parameters,
            "max_length": manifest.max_length,
            "sha256": manifest.files[MODEL_FILE]["sha256"],
            "manifest_sha256": self._manifest_sha256,
            "bytes": bundle.size_bytes,
        }


def open_models(
    students: Sequence[str | Path], teacher: str | Path, engine: str, device: str, threads: int
) -> list[LocalModel]:
    """The teacher and then the students, each from a bundle's directory or `DIRECTORY@ENGINE`.

    Args:
        engine: of those that name none.

    Raises:
        InputError: a directory is no bundle, or a student differs from the teacher in task, labels, their order or the
            tokenizer.
    """
    opened = []
    for named in (teacher, *students):
        path, own = _parse(str(named))
        opened.append((path, Engine.load(path, engine=own or engine, device=device, threads=threads)))
    path, judge = opened[0]
    for other, engine_ in opened[1:]:
        check_tasks(engine_.task, judge.task)
        if _tokenizer(other) != _tokenizer(path):
            raise InputError(
                f"student and teacher tokenizers differ ({other / 'tokenizer.json'}, {path / 'tokenizer.json'}): "
                f"bench compares models that read the same tokens"
            )
    ids = unique_ids([engine_.name for _, engine_ in opened[1:]])
    roles = [TEACHER] + [STUDENT] * len(ids)
    return [
        LocalModel(id, role, path, engine_, threads)
        for id, role, (path, engine_) in zip([TEACHER, *ids], roles, opened, strict=True)
    ]


def unique_ids(names: Sequence[str]) -> list[str]:
    """The names, and `NAME-2`, `NAME-3` … for those that are taken, as the teacher's and the machine's are."""
    ids: list[str] = []
    for name in names:
        id, number = name, 1
        while id in (*ids, *_TAKEN):
            number += 1
            id = f"{name}-{number}"
        ids.append(id)
    return ids


def check_tasks(student: Task, teacher: Task) -> None:
    """Refuses two models whose answers do not mean the same.

    Raises:
        InputError: they differ in problem_type, in the set of labels, or in the labels' order.
    """
    if student.problem_type != teacher.problem_type:
        raise InputError(
            f"student and teacher differ in problem_type: '{student.problem_type}' and '{teacher.problem_type}'"
        )
    if student.problem_type == REGRESSION:
        return  # what a number is called is up to whoever made the model
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


def _parse(named: str) -> tuple[Path, str | None]:
    """A directory and the engine behind its last @, unless a directory of that very name is there."""
    path, at, engine = named.rpartition("@")
    if not at or Path(named).exists():
        return Path(named), None
    if engine not in ENGINES:
        raise InputError(f"{named}: the engine behind @ must be one of {', '.join(ENGINES)}, not '{engine}'")
    return Path(path), engine


def _tokenizer(bundle: Path) -> dict[str, Any]:
    """What decides a text's tokens; truncation and padding in the file are not used."""
    content = read_json(bundle / "tokenizer.json")
    return {key: value for key, value in content.items() if key not in ("truncation", "padding")}
