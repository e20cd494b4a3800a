"""The journal: what a run has done so far, beside its output. A killed run goes on from there, to the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InputError, WorkFailedError, shown
from common.files import STAGING_PREFIX
from common.location import Location
from common.locks import LOCK_FILE
from common.progress import say
from serve.scoring.shards import ShardId

FORMAT_VERSION = 1

_RUN = "run.json"
_OUTPUT = "output.json"
_PART = re.compile(r"\d{6}-\d{8}\.part")
# What a journal may hold, whole or left behind by a kill.
_OURS = re.compile(rf"({_PART.pattern}|run\.json|output\.json)(\.partial)?|{re.escape(STAGING_PREFIX)}.*|{LOCK_FILE}")


@dataclass
class ShardRecord:
    """What is known of a shard that is done.

    Attributes:
        shard: which one.
        share: as the shard's.
        rows, errors, truncated: how many rows it has, with how many of each.
        tokens: run through the model, padding left out.
        labels: how many rows got each label; empty for regression.
        unknown_labels: rows whose own label the model has not, or that is no number.
        first_error: the first error's place and reason.
        answers: what `Tally.state` gives of the labelled rows; None without a label column.
        sha256: of the shard's bytes.
    """

    shard: ShardId
    share: float | None = None
    rows: int = 0
    errors: int = 0
    truncated: int = 0
    tokens: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    unknown_labels: int = 0
    first_error: str | None = None
    answers: Any = None
    sha256: str = ""

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> ShardRecord:
        """As `vars` gave it."""
        place, number = found["shard"]
        return cls(**{**found, "shard": (int(place), int(number)), "labels": Counter(found["labels"])})


class DoneShard(NamedTuple):
    """What there is to remember of a shard in the journal, of however many shards."""

    rows: int
    sha256: str


Done = dict[ShardId, DoneShard]


class Journal:
    """A directory with a file for each shard that is done: a line of JSON about it, and its part of the output.

    A file is written whole or not at all, and what it holds depends on the shard alone. So it does not matter who
    writes it, nor how often.
    """

    def __init__(self, directory: Location):
        self.directory = directory

    def open(self, run: dict[str, Any], circumstances: dict[str, Any], *, overwrite: bool) -> None:
        """Goes on with what an earlier process of the same run has done, or begins.

        Args:
            run: all that decides about the output's bytes.
            circumstances: what may move scores in their last bits; where it has changed, the user is told.
            overwrite: whether another run's journal may be discarded.

        Raises:
            InputError: the journal is another run's and may not be discarded.
        """
        # Of an output that a killed process was about to write.
        self._remove(lambda name: name.startswith(STAGING_PREFIX))
        wanted = json.loads(json.dumps({"journal format": FORMAT_VERSION, **run}))
        found, before = self._run()
        if found is not None and found != wanted:
            other = _differences(found, wanted)
            if not overwrite:
                raise InputError(
                    f"{self.directory.name} holds another run ({other}): repeat that run's command to go on with it, "
                    f"or pass --overwrite to discard it"
                )
            say(f"Another run's journal is discarded ({other})")
            found = None
        if found is None:
            # Before the run is written down: parts are always of the run that is.
            self.discard_parts()
            self.directory.make_directory()
            kept = {"run": wanted, "circumstances": circumstances}
            self.directory.child(_RUN).write_bytes(json.dumps(kept, indent=1).encode())
        elif before != circumstances:
            say(f"Since the run began, {_differences(before, circumstances)}: scores may differ in their last bits")

    def records(self) -> Iterator[ShardRecord]:
        """Of the shards that are done; a file that says nothing of the kind is removed."""
        for name in self.shards():
            file = self.directory.child(name)
            try:
                record = ShardRecord.from_json(json.loads(file.first_line()))
            except (ValueError, TypeError, KeyError):
                file.remove()
                continue
            if self._file(record.shard).path == file.path:
                yield record

    def keep(self, record: ShardRecord, part: bytes) -> None:
        """Writes a shard that is done."""
        record.sha256 = hashlib.sha256(part).hexdigest()
        self._file(record.shard).write_bytes(json.dumps(vars(record)).encode() + b"\n" + part)

    def require(self, record: ShardRecord) -> None:
        """
        Raises:
            WorkFailedError: what another process wrote is not to be seen from here.
        """
        if self._file(record.shard).info() is None:
            raise WorkFailedError(
                f"{self.directory.name} is not the same directory on the machine that wrote to it: the output must lie "
                f"on a file system that all share, or in a store (s3://, gs://)"
            )

    def part(self, shard: ShardId, sha256: str) -> bytes:
        """A shard's part of the output.

        Raises:
            WorkFailedError: it is not what was written; it is removed, so that the same command makes it anew.
        """
        file = self._file(shard)
        _, _, part = file.read_bytes().partition(b"\n")
        if hashlib.sha256(part).hexdigest() != sha256:
            file.remove()
            raise WorkFailedError(f"{file.name} was damaged and is removed: the same command makes it anew")
        return part

    def mark_output(self, staging: Path | None) -> None:
        """Notes that `staging` is the whole output and about to be renamed; None, that one in a store is begun."""
        self.directory.child(_OUTPUT).write_bytes(b"" if staging is None else _told(staging))

    @property
    def has_output(self) -> bool:
        """Whether this journal's run has begun to write its output."""
        return _OUTPUT in self.directory.children()

    def wrote(self, output: Path) -> bool:
        """Whether what stands at the output is what this journal's run has put there, before it was killed."""
        if not self.has_output or not output.exists():
            return False
        return self.directory.child(_OUTPUT).read_bytes() == _told(output)

    def check(self) -> None:
        """
        Raises:
            InputError: somebody else has put something there.
        """
        if self.directory.local is not None and self.directory.local.is_file():
            raise InputError(f"{self.directory.name} is a file, and what is done would be kept there: move it away")
        other = next((name for name in self.directory.children() if not _OURS.fullmatch(name)), None)
        if other is not None:
            raise InputError(
                f"{self.directory.name} is where what is done would be kept, and holds {shown(other)}: move it away"
            )

    def discard(self) -> None:
        """Removes all that the journal has written, and the directory if nothing else lies in it."""
        self.discard_parts()
        self._remove(lambda name: name.startswith((_RUN, STAGING_PREFIX)))
        if self.directory.local is not None:
            self.directory.child(LOCK_FILE).remove()
            with contextlib.suppress(OSError):
                self.directory.local.rmdir()
        elif not self.directory.children():
            # A store keeps the name of an empty directory as an object.
            self.directory.remove()

    def discard_parts(self) -> None:
        """Removes the parts, whole or not, and what is noted of an output made of them."""
        self._remove(lambda name: _PART.match(name) is not None or name.startswith(_OUTPUT))

    def _remove(self, which: Callable[[str], bool]) -> None:
        for name in self.directory.children():
            if which(name):
                self.directory.child(name).remove()

    def shards(self) -> list[str]:
        """The names of the files of shards that are done."""
        return [name for name in self.directory.children() if _PART.fullmatch(name)]

    def _run(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        if _RUN not in self.directory.children():
            return None, {}
        try:
            kept = json.loads(self.directory.child(_RUN).read_bytes())
            return dict(kept["run"]), dict(kept["circumstances"])
        except (ValueError, TypeError, KeyError):
            return None, {}

    def _file(self, shard: ShardId) -> Location:
        return self.directory.child("{:06d}-{:08d}.part".format(*shard))


def _told(path: Path) -> bytes:
    """What a file or directory keeps when it is renamed, and another one has not."""
    status = path.stat()
    return json.dumps([status.st_ino, status.st_size, status.st_mtime_ns]).encode()


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    told = []
    for name in names[:3]:
        before, now = found.get(name), wanted.get(name)
        if name == "inputs" and [each["name"] for each in before or []] == [each["name"] for each in now or []]:
            changed = [each["name"] for each, other in zip(now, before, strict=True) if each != other]  # type: ignore[arg-type]
            told.append(f"the input {shown(changed[0], 200)} has changed")
        else:
            told.append(f"{name} was {_short(before)}, is {_short(now)}")
    return ", ".join(told)


def _short(value: Any) -> str:
    return shown(json.dumps(value), 40)
