"""A sweep's directory: what it is a sweep of, one row for each finished run, and each run's answers.

sweep.json            what every run depends on, by hash; what does not match it is refused
results.jsonl         one row a run
answers/KEY.npy       what that run's student answers on the dev table, for the tests between methods
architectures/NAME/   the config.json of each kind of student
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import MADE_BY, check_names, durable_file, read_json, resolved, write_json
from common.locks import held_directory

MANIFEST = "sweep.json"
ROWS = "results.jsonl"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One finished run.

    Attributes:
        key: hash of all that the run depends on; the row's name.
        settings: every setting of the run, the seed among them.
        failed: why the run has no student, in one line; None where it has one, and only then has it what follows.
        chosen_on: metrics on the table that picked the epoch and picks the best configuration.
        dev: metrics on the dev table.
        best_epoch: whose weights were kept, from 1.
        parameters: of the student.
        architecture: the directory in `architectures` that has the student's config.
        weights_sha256: of the student.
        wall_time_s: seconds.
    """

    key: str
    settings: dict[str, Any]
    failed: str | None = None
    chosen_on: dict[str, float] | None = None
    dev: dict[str, float] | None = None
    best_epoch: int = 0
    parameters: int = 0
    architecture: str = ""
    weights_sha256: str = ""
    wall_time_s: float = 0.0

    @property
    def configuration(self) -> dict[str, Any]:
        """The settings without the seed."""
        return {name: value for name, value in self.settings.items() if name != "seed"}


class Results:
    """The rows of a sweep's directory, which no other process changes meanwhile; see `open_results`."""

    def __init__(self, directory: Path, about: dict[str, Any]):
        self.directory = directory
        self._about = about
        self._rows = {row.key: row for row in self._read()}

    def key(self, settings: dict[str, Any]) -> str:
        """The name of the run with these settings, under this teacher and these tables."""
        whole = json.dumps([self._about, settings], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:32]

    def get(self, key: str) -> Row | None:
        """A finished run; None where it is yet to be done."""
        row = self._rows.get(key)
        if row is None or (row.failed is None and not self._answers(key).is_file()):
            return None
        return row

    def add(self, row: Row, answers: NDArray[Any] | None = None) -> None:
        """Appends a row, which is on the disk when this returns; answers belong to a run that did not fail."""
        if answers is not None:
            self.save_answers(row.key, answers)
        line = json.dumps(vars(row), ensure_ascii=False).encode() + b"\n"
        with (self.directory / ROWS).open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())
        self._rows[row.key] = row

    def answers(self, key: str) -> NDArray[Any]:
        """What a run's student answers on each dev row, as `common.resampled_metrics.answers_of` gives it.

        Raises:
            InputError: the file is damaged.
        """
        try:
            found: NDArray[Any] = np.load(self._answers(key), allow_pickle=False)
        except (ValueError, EOFError):
            raise InputError(f"{self._answers(key)} is damaged: delete it to repeat that run") from None
        return found

    def save_answers(self, key: str, answers: NDArray[Any]) -> None:
        """Keeps the answers of one run."""
        self._answers(key).parent.mkdir(exist_ok=True)
        with durable_file(self._answers(key)) as path, path.open("wb") as file:
            np.save(file, answers, allow_pickle=False)

    def _answers(self, key: str) -> Path:
        return self.directory / "answers" / f"{key}.npy"

    def _read(self) -> Iterator[Row]:
        path = self.directory / ROWS
        if not path.exists():
            return
        whole, end, rest = path.read_bytes().rpartition(b"\n")
        if rest:
            # The row that a killed sweep was writing.
            os.truncate(path, len(whole) + len(end))
        for number, line in enumerate(whole.splitlines() if end else [], start=1):
            try:
                yield Row(**json.loads(line))
            except (ValueError, TypeError):
                raise InputError(f"{path}, line {number}: damaged; take the line out to repeat that run") from None


@contextlib.contextmanager
def open_results(directory: Path, about: dict[str, Any]) -> Iterator[Results]:
    """The rows of a new or an earlier sweep; other processes are kept out until the block ends.

    Args:
        about: what every run depends on: the teacher and each table, as objects with a `name` and a `sha256`, and
            whatever else.

    Raises:
        InputError: another sweep works in the directory; it holds something else, or the sweep of another teacher or
            other tables; or nothing can be written there.
    """
    check_names(directory)
    directory = resolved(directory)
    _check_place(directory)
    with contextlib.ExitStack() as hold:
        try:
            hold.enter_context(held_directory(directory))
        except BlockingIOError:
            raise InputError(f"another sweep is running in {directory}: wait for it, or choose another") from None
        except OSError as error:
            raise InputError(f"{directory} cannot be written: {error.strerror or error}") from None
        manifest = directory / MANIFEST
        about = json.loads(json.dumps(about))
        if manifest.exists():
            _check_same(directory, read_json(manifest), about)
        else:
            with durable_file(manifest) as path:
                write_json(path, {**MADE_BY, "format_version": FORMAT_VERSION, **about})
        yield Results(directory, _hashes(about))


def _check_place(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file: choose another output")
    # A sweep that was killed before its first file leaves no more than these.
    begun = {"lock", f"{MANIFEST}.partial"}
    if directory.is_dir() and not (directory / MANIFEST).exists() and {*os.listdir(directory)} - begun:
        raise InputError(f"{directory} holds something else than a sweep: choose another output")


def _check_same(directory: Path, found: dict[str, Any], about: dict[str, Any]) -> None:
    if found.get("made_by") != MADE_BY["made_by"] or found.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{directory / MANIFEST} was written by something else, or by another version")
    for name in sorted(about.keys() | found.keys() - {*MADE_BY, "format_version"}):
        before, now = _hashes(found).get(name), _hashes(about).get(name)
        if before != now:
            what = f"a changed '{name}' ({_shown(before)} before, {_shown(now)} now)"
            raise InputError(f"{directory} is a sweep of {what}: its rows do not compare, choose another output")


def _hashes(about: dict[str, Any]) -> dict[str, Any]:
    """Teacher and tables by their hash, whatever they are called."""
    return {
        name: value["sha256"] if isinstance(value, dict) and "sha256" in value else value
        for name, value in about.items()
    }


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"{text[1:13]}…" if isinstance(value, str) and len(value) > 32 else text
