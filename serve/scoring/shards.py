"""The inputs cut into shards: consecutive rows of one file, so few that a few of them fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import ChangedInputError
from common.location import Info, Location
from common.table_sequence import check_alike
from common.tables import Chunk, TableReader

# Rows of a shard, which `common.tables.CHUNK_BYTES` bounds too: they are sorted by length together, written together,
# and at most what a kill costs. In so many rows each length occurs often enough that hardly any padding is left.
SHARD_ROWS = 8_192


# An input's place among the inputs, and the shard's place in it, from 0: shards in this order are the rows in theirs.
ShardId = tuple[int, int]


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of one input.

    Attributes:
        id: which one.
        source: the input's name.
        place: what the rows' numbers count, 'line' or 'row'.
        share: of all inputs' bytes; None where those are not known.
    """

    id: ShardId
    source: str
    place: str
    chunk: Chunk
    share: float | None


class Inputs:
    """The tables to score, one behind the other.

    Attributes:
        columns, schema: of the first one; all others have the same.

    Raises:
        InputError: one cannot be read, or has other columns than the first.
    """

    def __init__(self, locations: Sequence[Location]):
        self.locations = list(locations)
        first = TableReader(self.locations[0])
        # It can be read but once.
        self._stdin = first if self.locations[0].is_stdin else None
        self.columns, self.schema = first.columns, first.schema
        check_alike(first, self.locations[1:])
        self._stamps = [_stamp(location) for location in self.locations]
        self.identity = [_identity(location) for location in self.locations]

    @property
    def from_stdin(self) -> bool:
        return self._stdin is not None

    def shards(
        self,
        rows: int,
        needed: Sequence[str] | None,
        done: Mapping[ShardId, int],
        *,
        input: int | None = None,
    ) -> Iterator[Shard]:
        """The shards in order, without those that are done.

        Args:
            rows: at most so many each.
            needed: as in `TableReader.chunks`.
            done: those to leave out, and how many rows each has.
            input: the place of the one whose shards are wanted; None for all.

        Raises:
            InputError: a row cannot be read.
            ChangedInputError: an input changed meanwhile, or is cut into other shards than those that are done.
        """
        sizes = [0 if stamp is None else stamp.size for stamp in self._stamps]
        whole = sum(sizes)
        for place, location in enumerate(self.locations):
            if input is not None and place != input:
                continue
            reader = self._stdin or TableReader(location)
            position = 0
            for number, chunk in enumerate(reader.chunks(rows, needed)):
                share = sizes[place] / whole * (reader.position - position) / reader.total if reader.total else None
                position = reader.position
                shard = (place, number)
                if shard not in done:
                    yield Shard(shard, location.name, reader.place, chunk, share)
                elif done[shard] != len(chunk.rows):
                    raise ChangedInputError(
                        f"{location.name} is cut into other shards than before, by another version of a library: "
                        f"the same command begins anew"
                    )
            if _stamp(location) != self._stamps[place]:
                raise ChangedInputError(
                    f"{location.name} changed while it was read: its scores would be of two versions"
                )


def _stamp(location: Location) -> Info | None:
    return None if location.is_stdin else location.info()


def _identity(location: Location) -> dict[str, Any]:
    """What tells an input from another, or from itself when it was changed."""
    stamp = _stamp(location)
    if stamp is None:
        return {"name": location.name}
    if location.local is not None:
        # A thousandth of the time that its scores take.
        return {"name": location.name, "size": stamp.size, "sha256": location.sha256()}
    return {"name": location.name, "size": stamp.size, "modified": stamp.modified_ns}
