"""Several tables of the same columns, read as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import InputError, shown
from common.location import Location
from common.rows import Chunk
from common.storage import expand
from common.tables import TableReader


class TableSequence:
    """One pass over tables, one behind the other.

    Attributes:
        name: of the first.
        columns: of them all.
        position, total: how far the reading is, in files.

    Raises:
        InputError: as `expand` and `TableReader`, or one table has other columns than the first.
    """

    def __init__(self, source: Path | str):
        self._locations = expand([source])
        self._first = TableReader(self._locations[0])
        check_alike(self._first, self._locations[1:])
        self.name = self._locations[0].name
        self.columns = self._first.columns
        self.position = 0.0
        self.total = len(self._locations)

    def chunks(self, size: int, needed: Sequence[str] | None = None) -> Iterator[Chunk]:
        """As `TableReader.chunks`, of all tables."""
        for place, location in enumerate(self._locations):
            # Standard input can be read but once.
            reader = self._first if place == 0 else TableReader(location)
            for chunk in reader.chunks(size, needed):
                self.position = place + reader.position / max(reader.total or 0, reader.position, 1)
                yield chunk


def check_alike(first: TableReader, others: Sequence[Location]) -> None:
    """
    Raises:
        InputError: a table has other columns than the first, or columns of other types.
    """
    for location in others:
        reader = TableReader(location)
        here, there = location.name, first.location.name
        if (reader.schema is None) != (first.schema is None):
            raise InputError(f"{here} and {there} are of different kinds: take them one by one")
        # JSON's rows may each have columns of their own.
        if reader.columns != first.columns and {reader.format, first.format} != {"jsonl"}:
            columns, known = (shown(", ".join(each.columns)) for each in (reader, first))
            raise InputError(f"{here} has other columns ({columns}) than {there} ({known}): take them one by one")
        for own, other in zip(reader.schema or (), first.schema or (), strict=True):
            if own.type != other.type:
                raise InputError(f"{here}: the column '{shown(own.name)}' is {own.type}, in {there} {other.type}")
