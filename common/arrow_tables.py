"""Parquet and Arrow IPC files as streams of record batches and rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from common.errors import InputError, first_line
from common.files import is_utf8
from common.location import Location
from common.rows import CHUNK_BYTES, Chunk, Row
from common.store_faults import is_store_fault, store_fault

_FILE_MAGIC = b"ARROW1"

# Decoded at a time: long texts, repeated, take little room in the file and much here.
_PARQUET_ROWS = 1024

# What a value that Python cannot hold raises: bad UTF-8, a date beyond the year 9999, nanoseconds.
_UNREADABLE = (pa.ArrowException, OSError, OverflowError, ValueError)
# Arrow's text of a time and what stands in its place: one form, whatever the unit of the column.
_ISO_8601 = (
    (r"^(\S+) ([0-9:]+)(\.[0-9]*[1-9])?\.?0*(Z|[+-][0-9]{4})?$", r"\1T\2\3\4"),
    (r"([0-9][+-][0-9]{2})([0-9]{2})$", r"\1:\2"),
)


class ParquetTable:
    """One Parquet file; `TableReader` tells of the attributes and the errors."""

    place = "row"

    def __init__(self, location: Location):
        location.require_file()
        self._location = location
        self.position = 0
        with self._open() as file:
            self.schema = file.schema_arrow
            self.total: int | None = file.metadata.num_rows
        self.columns: list[str] = self.schema.names

    def chunks(self, size: int, needed: Sequence[str]) -> Iterator[Chunk]:
        """The rows, at most `size` and about `CHUNK_BYTES` at a time, with the `needed` columns as Python values."""
        self.position = 0
        with self._open() as file:
            # The file's own sizes are of what it holds, where a text of many rows may stand once.
            batches = file.iter_batches(batch_size=min(size, _PARQUET_ROWS))
            for chunk in _chunks(self._location, _gathered(batches, size), needed):
                self.position += len(chunk.rows)
                yield chunk

    @contextlib.contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with ExitStack() as opened:
            if not is_utf8(self._location.path):
                raise InputError(f"{self._location}: Parquet is read from files whose names are valid UTF-8")
            with _no_table(self._location, "a Parquet file"):
                # Not through `Location.open`: pyarrow reads its own files on several threads.
                source = opened.enter_context(self._location.filesystem.open_input_file(self._location.path))
                file = opened.enter_context(pq.ParquetFile(source))
            yield file


class ArrowTable:
    """One Arrow IPC file, in the file form or the stream form; `TableReader` tells of the attributes and the errors."""

    place = "row"

    def __init__(self, location: Location):
        self._location = location
        self._size = location.require_file().size
        self.total: int | None = self._size
        self.position = 0
        with ExitStack() as opened:
            _, reader = self._open(opened)
            self.schema = reader.schema
        self.columns: list[str] = self.schema.names

    def chunks(self, size: int, needed: Sequence[str]) -> Iterator[Chunk]:
        """As `ParquetTable.chunks`; a record batch of the file is whole in memory, and cut where it is larger."""
        self.position = 0
        with ExitStack() as opened:
            file, reader = self._open(opened)
            is_stream = isinstance(reader, pa.RecordBatchStreamReader)
            batches = self._streamed(file, reader) if is_stream else self._listed(reader)
            yield from _chunks(self._location, _cut(_checked(batches), size), needed)
            self.position = self._size

    def _open(self, opened: ExitStack) -> tuple[Any, Any]:
        with _no_table(self._location, "an Arrow file"):
            file = opened.enter_context(self._location.open())
            is_file_form = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
            file.seek(0)
            return file, opened.enter_context((pa.ipc.open_file if is_file_form else pa.ipc.open_stream)(file))

    def _listed(self, reader: pa.RecordBatchFileReader) -> Iterator[pa.RecordBatch]:
        count = reader.num_record_batches
        for index in range(count):
            self.position = self._size * (index + 1) // count
            yield reader.get_batch(index)

    def _streamed(self, file: Any, reader: pa.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
        last = file.tell()
        for batch in reader:
            last = self.position = file.tell()
            yield batch
        # pyarrow takes the end of the file, wherever a batch ends, for the stream's end, and reads nothing behind that.
        if file.tell() == last:
            raise pa.ArrowInvalid("the mark of the stream's end is missing: is the file cut short?")
        if file.tell() < self._size:
            raise pa.ArrowInvalid(f"{self._size - file.tell()} bytes stand behind the stream's end")


def _checked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches of an IPC file; offsets that lead out of the buffers would else be followed."""
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _gathered(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """Small batches as ones of at most `size` rows and about `CHUNK_BYTES`."""
    waiting: list[pa.RecordBatch] = []
    rows = held = 0
    for batch in _cut(batches, size):
        if waiting and (rows + batch.num_rows > size or held + batch.nbytes > CHUNK_BYTES):
            yield _one(waiting)
            waiting, rows, held = [], 0, 0
        waiting.append(batch)
        rows, held = rows + batch.num_rows, held + batch.nbytes
    if waiting:
        yield _one(waiting)


def _one(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    (whole,) = pa.Table.from_batches(batches).combine_chunks().to_batches() if len(batches) > 1 else batches
    return whole


def _cut(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The batches in slices of at most `size` rows and about `CHUNK_BYTES`, one row at least."""
    for batch in batches:
        row_bytes = batch.nbytes // max(batch.num_rows, 1) + 1
        rows = max(1, min(size, CHUNK_BYTES // row_bytes))
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _chunks(location: Location, batches: Iterator[pa.RecordBatch], needed: Sequence[str]) -> Iterator[Chunk]:
    done = 0
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            if is_store_fault(error):
                raise store_fault(str(location), error) from None
            raise _error(location, done + 1, f"this row or a later one cannot be read: {first_line(error)}") from None
        except MemoryError:
            # Damage can also make a length of it that nothing holds.
            raise _error(location, done + 1, "the record batch from here on does not fit into memory") from None
        if batch is None:
            return
        rows = _python_rows(location, done, batch, needed)
        yield Chunk(list(range(done + 1, done + 1 + len(rows))), rows, batch)
        done += len(rows)


def _python_rows(location: Location, done: int, batch: pa.RecordBatch, needed: Sequence[str]) -> list[Row]:
    if not needed:
        return [{} for _ in range(batch.num_rows)]
    values = [_python_values(location, done, batch.column(name)) for name in needed]
    return [dict(zip(needed, row, strict=True)) for row in zip(*values, strict=True)]


def _python_values(location: Location, done: int, column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        # Python has no value for some of them, and for others another one where pandas is installed.
        with contextlib.suppress(*_UNREADABLE):
            texts = column.cast(pa.string())
            for pattern, form in _ISO_8601:
                texts = pc.replace_substring_regex(texts, pattern, form)
            return list(texts.to_pylist())
    with contextlib.suppress(*_UNREADABLE):
        return list(column.to_pylist())
    # What Python has no value for (nanoseconds, the year 10000) has a text.
    with contextlib.suppress(*_UNREADABLE):
        return list(column.cast(pa.string()).to_pylist())
    # Slowly, row by row, to name the one that is at fault.
    values: list[Any] = []
    for index in range(len(column)):
        try:
            values += column.slice(index, 1).to_pylist()
        except _UNREADABLE as error:
            raise _error(location, done + index + 1, f"cannot be read: {error}") from None
    return values


@contextlib.contextmanager
def _no_table(location: Location, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if is_store_fault(error):
            raise store_fault(str(location), error) from None
        raise InputError(f"{location} is not {kind}: {first_line(error)}") from None


def _error(location: Location, number: int, reason: str) -> InputError:
    return InputError(f"{location}, row {number}: {reason}")
