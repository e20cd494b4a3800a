"""Plain text files as documents of token ids, read line by line: no file is ever held in memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import InputError, UnderstudyError
from common.location import Location
from common.progress import working
from common.store_faults import is_store_fault, store_fault
from common.table_formats import compression

DOCUMENTS = ("line", "paragraph")

# A line is encoded at once; one without end would be a file in memory.
MAX_LINE_BYTES = 16 * 2**20
# A document of so many tokens ends there, and the rest is another.
PART_TOKENS = 2**13
# Blank lines between the documents show in these, or there are none.
_SAMPLE_LINES = 10_000
_READ_BYTES = 2**17

Ids = NDArray[np.int32]
Encode = Callable[[str], list[int]]


class Place(NamedTuple):
    """How far a file was read.

    Attributes:
        offset: bytes, of the text that a compressed file holds.
        line: how many lines that is.
    """

    offset: int
    line: int


BEGINNING = Place(0, 0)


class TextFile:
    """A file of plain text in UTF-8, compressed with gzip or zstd where its name ends in .gz or .zst."""

    def __init__(self, name: str | Path):
        """
        Raises:
            InputError: it is missing, a directory, unreadable or empty.
        """
        self.location = Location.parse(name)
        if self.location.is_stdin:
            raise InputError("a corpus is read more than once: give files, not standard input")
        self.location.require_file()
        self._compression = compression(self.location)

    @cached_property
    def sha256(self) -> str:
        """Of the file as it lies there."""
        return self.location.sha256()

    def lines(self, place: Place = BEGINNING) -> Iterator[tuple[str, Place]]:
        """Every line from `place` on, without its end, and the place behind it.

        Raises:
            InputError: a line is no UTF-8 or too long, or the compressed data is damaged.
        """
        offset, number = place
        with ExitStack() as opened:
            file = self._open(opened)
            try:
                self._skip(file, offset)
                while raw := file.readline(MAX_LINE_BYTES + 1):
                    offset, number = offset + len(raw), number + 1
                    if len(raw) > MAX_LINE_BYTES:
                        raise self._error(number, f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB: break it up")
                    text = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                    yield text.decode("utf-8").rstrip("\r\n"), Place(offset, number)
            except UnicodeDecodeError as error:
                bad = error.object[error.start]
                raise self._error(number, f"not UTF-8 (byte {bad:#04x} at column {error.start + 1})") from None
            except (OSError, pa.ArrowException) as error:
                raise self._unreadable(number + 1, error) from None

    def _open(self, opened: ExitStack) -> IO[bytes]:
        source = opened.enter_context(self.location.open())
        if self._compression is None:
            return source
        unpacked = opened.enter_context(pa.CompressedInputStream(source, self._compression))
        return cast(IO[bytes], io.BufferedReader(unpacked, _READ_BYTES))

    def _skip(self, file: IO[bytes], offset: int) -> None:
        if self._compression is None:
            file.seek(offset)
        while self._compression is not None and offset:
            offset -= len(file.read(min(offset, _READ_BYTES)))

    def _unreadable(self, number: int, error: Exception) -> Exception:
        if is_store_fault(error):
            return store_fault(str(self.location), error)
        if self._compression is None or getattr(error, "errno", None) is not None:
            return error
        return self._error(number, f"from here on the {self._compression} data is damaged or cut short ({error})")

    def _error(self, number: int, reason: str) -> UnderstudyError:
        return InputError(f"{self.location}, line {number}: {reason}")


class Corpus:
    """Files of documents.

    Attributes:
        documents: `line` where each line is a document, `paragraph` where blank lines stand between them.
        lines: how many there are that are not blank.
    """

    def __init__(self, files: Sequence[str | Path], documents: str | None = None):
        """
        Args:
            documents: None takes what the first file's first lines show.

        Raises:
            InputError: a file or a line of one that cannot be read, or no text in any of them.
        """
        if documents is not None and documents not in DOCUMENTS:
            raise InputError(f"documents must be one of {', '.join(DOCUMENTS)}, not '{documents}'")
        if not files:
            raise InputError("a corpus needs at least one file")
        self.files = [TextFile(name) for name in files]
        # A line that cannot be read is to end the run before it begins, not in its tenth hour.
        with working("reading the corpus"):
            self.lines = sum(bool(line.strip()) for line in self.texts())
        if not self.lines:
            raise InputError(f"{', '.join(str(file.location) for file in self.files)}: there is no text in the corpus")
        self.documents = documents or self._found_documents()

    @property
    def sha256(self) -> str:
        """Of the files' bytes, in their order."""
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """As the record keeps it."""
        files = [{"name": str(file.location), "sha256": file.sha256} for file in self.files]
        return {"files": files, "documents": self.documents, "lines": self.lines}

    def texts(self) -> Iterator[str]:
        """Every line of every file."""
        for file in self.files:
            for line, _ in file.lines():
                yield line

    def read(self, file: int, place: Place, encode: Encode) -> Iterator[tuple[Ids, Place]]:
        """The documents of one file from `place` on, none of them empty, and the place behind each.

        Args:
            encode: a line's token ids; lines of one document stand one behind the other.
        """
        ids: list[int] = []
        for line, behind in self.files[file].lines(place):
            blank = not line.strip()
            if not blank:
                ids += encode(line)
            if ids and (blank or self.documents == "line" or len(ids) >= PART_TOKENS):
                yield np.array(ids, np.int32), behind
                ids = []
        if ids:
            yield np.array(ids, np.int32), behind

    def _found_documents(self) -> str:
        text_before = blank_before = False
        for (line, _), _ in zip(self.files[0].lines(), range(_SAMPLE_LINES), strict=False):
            blank = not line.strip()
            if not blank and blank_before:
                return "paragraph"
            text_before = text_before or not blank
            blank_before = text_before and blank
        return "line"
