"""The parts joined to the output: one file, or a directory of files, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import pyarrow as pa

from common.errors import InputError, WorkFailedError, first_line
from common.files import MADE_BY, check_output, resolved, staged_directory, staged_file
from common.location import Location
from common.table_formats import ENDINGS, compression, table_format
from common.table_writer import TableWriter
from serve.scoring.journal import Done, DoneShard, Journal
from serve.scoring.shards import ShardId

# In a directory of files; readers of such directories leave out what begins so.
SUMMARY_FILE = "_score.json"


@dataclass(frozen=True)
class Output:
    """Where the rows go.

    Attributes:
        location: the file, or the directory.
        ending: of each file's name.
        rows_per_file: at most so many a file, of a directory; None for one file.
    """

    location: Location
    ending: str
    rows_per_file: int | None = None

    @classmethod
    def of(cls, location: Location, *, format: str | None, rows_per_file: int | None, like: Location) -> Output:
        """
        Args:
            format: of a directory's files; None takes that of `like`.
            like: an input.

        Raises:
            InputError: no such format; a directory is to have the name of a table, or a file has that of none.
        """
        if location.is_stdin:
            raise InputError("the output is a file or directory: name one in place of -")
        if location.local is not None:
            # A link stays one, and what it points to is written: beside that there is room for what is under way.
            there = resolved(location.local)
            location = replace(location, path=str(there), local=there)
        if rows_per_file is None:
            table_format(location)
            return cls(location, _ending(location) or "")
        if _ending(location) is not None:
            raise InputError(f"{location.name}: --rows-per-file makes a directory, and this is a table's name")
        ending = (_ending(like) or ".jsonl") if format is None else "." + format.removeprefix(".")
        if ending not in ENDINGS:
            known = ", ".join(known.removeprefix(".") for known in ENDINGS)
            raise InputError(f"the format must be one of {known}, not '{format}'")
        return cls(location, ending, rows_per_file)

    @property
    def format(self) -> str:
        """As in `common.tables.FORMATS`."""
        return table_format(f"rows{self.ending}")

    @property
    def compression(self) -> str | None:
        return compression(f"rows{self.ending}")

    @property
    def journal(self) -> Journal:
        """Of the run that makes this output, beside it."""
        name = self.location.path.rsplit("/", 1)[-1]
        return Journal(self.location.ancestor(1).child(f".{name}.partial"))

    @property
    def is_whole(self) -> bool:
        """Whether a run was killed between renaming it and clearing up; in a store it is written anew then."""
        return self.location.local is not None and self.journal.wrote(self.location.local)

    def check(self, inputs: Sequence[Location], *, overwrite: bool) -> None:
        """Refuses an output that cannot be written, or would take an input's place.

        Raises:
            InputError: so it is.
        """
        self.journal.check()
        if overwrite and self.location.local is None and "/" not in self.location.path:
            raise InputError(f"{self.location.name} is a whole bucket, which is not replaced: name a directory in it")
        if self.rows_per_file is not None and self.location.local is None:
            inside = next((each for each in inputs if each.path.startswith(self.location.path + "/")), None)
        elif self.rows_per_file is not None:
            below = (each for each in inputs if each.local is not None)
            inside = next((each for each in below if resolved(each.local).is_relative_to(self.location.local)), None)  # type: ignore[arg-type]
        else:
            inside = None
        if inside is not None:
            raise InputError(f"{self.location.name} holds the input {inside.name}: choose another output")
        for location in inputs:
            same = location.filesystem == self.location.filesystem and location.path == self.location.path
            if location.local is not None and self.location.local is not None and self.location.local.exists():
                same = same or self.location.local.samefile(location.local)
            if same:
                raise InputError(f"{self.location.name} is the input itself: choose another output")
        if self.location.local is not None:
            check_output(self.location.local, directory=self.rows_per_file is not None, overwrite=overwrite)
            return
        if self.journal.has_output:
            # Half of it may be there, of the very run that goes on.
            return
        there = self.location.children()
        if not overwrite and (there or self.location.info() is not None):
            raise InputError(f"{self.location.name} exists: choose another output or pass --overwrite")
        if there and (self.rows_per_file is None or SUMMARY_FILE not in there):
            raise InputError(
                f"{self.location.name} was not made by Understudy and is not replaced: choose another output"
            )

    def write(self, writer: TableWriter, done: Done, summary: Mapping[str, Any], *, overwrite: bool) -> None:
        """Joins the parts that are done.

        Args:
            summary: kept beside the files of a directory.

        Raises:
            InputError: as `check`.
            WorkFailedError: a part was damaged.
        """
        try:
            self._write(writer, done, summary, overwrite=overwrite)
        except pa.ArrowException as error:
            raise WorkFailedError(f"{self.location.name} cannot be written: {first_line(error)}") from None

    def _write(self, writer: TableWriter, done: Done, summary: Mapping[str, Any], *, overwrite: bool) -> None:
        ordered, journal = sorted(done.items()), self.journal
        if self.location.local is None:
            journal.mark_output(None)
        if self.rows_per_file is None:
            with self._file(overwrite=overwrite) as file:
                writer.join((journal.part(shard, each.sha256) for shard, each in ordered), file)
            return
        with self._directory(overwrite=overwrite) as directory:
            for number, group in enumerate(_grouped(ordered, self.rows_per_file)):
                with directory.child(f"part-{number:05d}{self.ending}").open_output() as file:
                    writer.join((journal.part(shard, each.sha256) for shard, each in group), file)
            # Last, so that it tells a whole directory from one under way where a store has no directories.
            told = json.dumps({**MADE_BY, **summary}, indent=2, ensure_ascii=False) + "\n"
            directory.child(SUMMARY_FILE).write_bytes(told.encode())

    @contextmanager
    def _file(self, *, overwrite: bool) -> Iterator[BinaryIO]:
        local, work = self.location.local, self.journal.directory.local
        if local is None:
            with self.location.open_output() as file:
                yield file
            return
        # What a killed process leaves of it goes with the journal.
        with staged_file(local, overwrite=overwrite, work=work) as staging:
            with staging.open("wb") as file:
                yield file
            self.journal.mark_output(staging)

    @contextmanager
    def _directory(self, *, overwrite: bool) -> Iterator[Location]:
        local, work = self.location.local, self.journal.directory.local
        if local is None:
            if overwrite:
                self.location.remove()
            yield self.location
            return
        with staged_directory(local, overwrite=overwrite, work=work) as staging:
            yield Location.parse(staging)
            self.journal.mark_output(staging)


def _ending(location: Location) -> str | None:
    """The part of a table's name that says its format; None for no table's name."""
    return next((ending for ending in ENDINGS if location.path.lower().endswith(ending)), None)


def _grouped(ordered: Sequence[tuple[ShardId, DoneShard]], most_rows: int) -> Iterator[list[tuple[ShardId, DoneShard]]]:
    """Consecutive shards of at most so many rows together."""
    group: list[tuple[ShardId, DoneShard]] = []
    rows = 0
    if not ordered:
        yield group
    for shard, each in ordered:
        if group and rows + each.rows > most_rows:
            yield group
            group, rows = [], 0
        group.append((shard, each))
        rows += each.rows
    if group:
        yield group
