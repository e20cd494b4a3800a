"""CSV, TSV and JSON Lines, compressed or not, as streams of rows.

CSV follows RFC 4180's quoting. TSV has no quoting at all, as GLUE's files need it: a quotation mark is a character.
Lines end at a line feed (with or without a carriage return) and nowhere else.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import IO, cast

import pyarrow as pa

from common.errors import InputError, UnderstudyError
from common.location import Location
from common.rows import CHUNK_BYTES, Chunk, Row
from common.store_faults import is_store_fault, store_fault
from common.table_formats import compression

# A quotation mark left open would otherwise swallow the rest of the file into one field.
MAX_FIELD_CHARACTERS = 16 * 1024 * 1024
csv.field_size_limit(MAX_FIELD_CHARACTERS)

# A few kilobytes of zip can hold a line of any length.
MAX_LINE_BYTES = 4 * MAX_FIELD_CHARACTERS

_UNPACKED_READ_BYTES = 128 * 1024

Rows = Iterator[tuple[int, Row]]


class TextTable:
    """One table of text; `TableReader` tells of the attributes and the errors."""

    place = "line"
    schema = None

    def __init__(self, location: Location, format: str):
        self._location = location
        self._format = format
        self._compression = compression(location)
        self._read = 0
        self._unread: Rows | None = None
        self.position = 0
        self.total: int | None = None
        if location.is_stdin:
            self.columns, self._unread = self._begin(location.open())
            return
        self.total = location.require_file().size
        with ExitStack() as opened:
            self.columns, _ = self._begin(self._open(opened)[1])

    def chunks(self, size: int) -> Iterator[Chunk]:
        """The rows, at most `size` and about `CHUNK_BYTES` at a time."""
        with ExitStack() as opened:
            if self._location.is_stdin:
                source = None
                rows, self._unread = self._unread, None
                if rows is None:
                    raise InputError(f"{self._location} can be read only once")
            else:
                source, file = self._open(opened)
                self._read = 0
                _, rows = self._begin(file)
            chunk = Chunk([], [])
            start = 0
            for number, row in rows:
                chunk.numbers.append(number)
                chunk.rows.append(row)
                if len(chunk.rows) == size or self._read - start > CHUNK_BYTES:
                    self._keep_position(source)
                    yield chunk
                    chunk, start = Chunk([], []), self._read
            self._keep_position(source)
            if chunk.rows:
                yield chunk

    def _open(self, opened: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
        """The file as it lies there, and its text."""
        source = opened.enter_context(self._location.open())
        if self._compression is None:
            return source, source
        # Unlike Python's, pyarrow's reads zstd, frame behind frame, and tells when a file ends too early.
        unpacked = opened.enter_context(pa.CompressedInputStream(source, self._compression))
        return source, cast(IO[bytes], io.BufferedReader(unpacked, _UNPACKED_READ_BYTES))

    def _keep_position(self, source: IO[bytes] | None) -> None:
        self.position = self._read if source is None or self._compression is None else source.tell()

    def _begin(self, file: IO[bytes]) -> tuple[list[str], Rows]:
        """The column names and the rows."""
        if self._format == "jsonl":
            rows = self._json_rows(file)
            first = next(rows, None)
            if first is None:
                raise InputError(f"{self._location} holds no rows")
            return list(first[1]), chain([first], rows)
        fields = self._fields(file)
        number, names = next(fields, (1, []))
        if not any(names):
            raise InputError(f"{self._location} has no header row")
        if any("\0" in name for name in names):
            raise self._error(number, "the header holds NUL characters: is this UTF-16, or no text at all?")
        if self._format == "tsv" and any("\r" in name for name in names):
            raise self._error(number, "the header holds a carriage return: lines must end with a line feed")
        return names, self._named(names, fields)

    def _named(self, names: list[str], lines: Iterator[tuple[int, list[str]]]) -> Rows:
        width = len(names)
        for number, fields in lines:
            if len(fields) != width:
                raise self._error(number, f"{len(fields)} fields where the header names {width}")
            yield number, dict(zip(names, fields, strict=True))

    def _fields(self, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
        """The header's fields, then each row's; a blank line is a row only where one column makes it an empty value."""
        width = 0
        for number, fields in self._raw_fields(file):
            blank = not any(fields) and len(fields) <= 1
            if not blank or width == 1:
                width = width or len(fields)
                yield number, fields or [""]

    def _raw_fields(self, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
        if self._format == "csv":
            reader = csv.reader((line for _, line in self._lines(file, keep_end=True)), strict=True)
            start = 1
            while True:
                try:
                    fields = next(reader, None)
                except csv.Error as error:
                    reason = str(error)
                    if "field larger" in reason:
                        reason = (
                            f"a field of more than {MAX_FIELD_CHARACTERS:,} characters, or a quotation mark left open"
                        )
                    elif "unexpected end" in reason:
                        reason = "a quotation mark is left open"
                    elif "new-line character" in reason:
                        reason = "a carriage return stands outside quotation marks"
                    raise self._error(start, f"not valid CSV: {reason}") from None
                if fields is None:
                    return
                yield start, fields
                start = reader.line_num + 1
        else:
            for number, line in self._lines(file):
                yield number, line.split("\t")

    def _json_rows(self, file: IO[bytes]) -> Rows:
        for number, line in self._lines(file):
            if not line.strip():
                continue
            yield number, self._json_row(number, line)

    def _json_row(self, number: int, line: str) -> Row:
        try:
            # The standard library's parser, since integers of any size must come out as they went in.
            row = json.loads(line, parse_constant=_refuse_constant, parse_float=_finite_float)
            if "\\ud" in line.lower():
                json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise self._error(number, f"not valid JSON: {error.msg} at column {error.colno}") from None
        except UnicodeEncodeError:
            raise self._error(number, "not valid JSON: half of a surrogate pair") from None
        except (ValueError, RecursionError) as error:
            raise self._error(number, f"not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise self._error(number, "a row must be a JSON object")
        return row

    def _lines(self, file: IO[bytes], keep_end: bool = False) -> Iterator[tuple[int, str]]:
        number = 0
        try:
            for number, raw in enumerate(iter(partial(file.readline, MAX_LINE_BYTES + 1), b""), start=1):
                self._read += len(raw)
                if number == 1:
                    self._refuse_utf16(raw)
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if len(raw) > MAX_LINE_BYTES:
                    raise self._error(number, f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB")
                line = raw.decode("utf-8")
                yield number, line if keep_end else line.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            bad = error.object[error.start]
            raise self._error(number, f"not UTF-8 (byte {bad:#04x} at column {error.start + 1})") from None
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(number + 1, error) from None

    def _refuse_utf16(self, raw: bytes) -> None:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise self._error(1, "UTF-16, not UTF-8: save the file as UTF-8")
        if len(raw) > 1 and raw[1] == 0:
            raise self._error(1, "NUL bytes between the characters: this is UTF-16, save it as UTF-8")

    def _unreadable(self, number: int, error: Exception) -> Exception:
        if is_store_fault(error):
            return store_fault(str(self._location), error)
        if self._compression is None or getattr(error, "errno", None) is not None:
            return error
        return self._error(number, f"from here on the {self._compression} data is damaged or cut short ({error})")

    def _error(self, number: int, reason: str) -> UnderstudyError:
        return InputError(f"{self._location}, line {number}: {reason}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text} is out of range")
    return value
