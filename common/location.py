"""Where a table lies: on this machine, in an object store (`s3://`, `gs://`), or on standard input.

The stores are reached through pyarrow's file systems. They have no directories, only names with slashes in them; what
is said of a directory here holds for the names that begin with its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow.fs as pafs

from common.errors import InputError
from common.files import durable_file, require_file, staged_file
from common.store_faults import TellingWriter, told
from common.uris import is_uri, local_path, open_store

STDIN = "-"
STDIN_NAME = "standard input"

# A store answers each read alone, after tens of milliseconds; less than this at a time would be mostly waiting.
REMOTE_READ_BYTES = 8 * 1024 * 1024
_FIRST_READ_BYTES = 64 * 1024


@dataclass(frozen=True)
class Info:
    """What is known of a file or directory without reading it.

    Attributes:
        size: in bytes; 0 for a directory.
        modified_ns: since 1970; 0 for a store's directory, which has no time.
    """

    size: int
    modified_ns: int
    is_directory: bool = False


@dataclass(frozen=True)
class Location:
    """A file or directory, there or not.

    Attributes:
        name: as the user wrote it, without credentials and options: for messages.
        path: within `filesystem`.
        local: the same on this machine; None in a store.
        filesystem: pyarrow's; None for standard input.
    """

    name: str
    path: str
    local: Path | None = None
    filesystem: Any = field(default=None, compare=False, repr=False)

    @staticmethod
    def parse(text: str | Path) -> Location:
        """A local path, a `file://`, `s3://` or `gs://` URI (with pyarrow's options in its query), or `-`.

        Raises:
            InputError: another scheme, a URI that is malformed, or no such bucket.
            WorkFailedError: the store cannot be reached (which is tried only where S3's region must be asked for).
        """
        if text == STDIN:
            return Location(STDIN_NAME, STDIN)
        if isinstance(text, Path) or not is_uri(text):
            return _local(Path(text))
        if text.startswith("file://"):
            return _local(local_path(text))
        name, path, filesystem = open_store(text)
        return Location(name, path, None, filesystem)

    @property
    def is_stdin(self) -> bool:
        return self.filesystem is None

    def __str__(self) -> str:
        return self.name

    def child(self, name: str) -> Location:
        """What lies under `name` (with slashes: deeper) in this directory."""
        if self.local is not None:
            return _local(self.local / name)
        return Location(f"{self.name}/{name}", f"{self.path}/{name}", None, self.filesystem)

    def ancestor(self, levels: int) -> Location:
        """The directory so many levels above."""
        if self.local is not None:
            return _local((self.local, *self.local.parents)[levels])
        name, path = (text.rsplit("/", levels)[0] for text in (self.name, self.path))
        return Location(name, path, None, self.filesystem)

    def info(self) -> Info | None:
        """Size and time; None where there is nothing."""
        if self.local is not None:
            try:
                status = self.local.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            is_directory = self.local.is_dir()
            return Info(0 if is_directory else status.st_size, status.st_mtime_ns, is_directory)
        with told(self.name):
            found = self.filesystem.get_file_info(self.path)
        if found.type == pafs.FileType.NotFound:
            return None
        return Info(found.size or 0, found.mtime_ns or 0, found.type == pafs.FileType.Directory)

    def require_file(self) -> Info:
        """What `info` says of a file that holds something.

        Raises:
            InputError: it is missing, a directory, unreadable or empty.
        """
        if self.local is not None:
            require_file(self.local)
        info = self.info()
        if info is None:
            raise InputError(f"{self.name}: {'no such file' if self._has_bucket() else 'there is no such bucket'}")
        if info.is_directory:
            raise InputError(f"{self.name} is a directory, not a file")
        if info.size == 0:
            raise InputError(f"{self.name} is empty")
        return info

    def open(self) -> io.BufferedReader:
        """The bytes of the file, seekable, or those of standard input, which are not.

        Raises:
            InputError, WorkFailedError: it is missing, or the store failed. Where a store fails later, while the bytes
                are read, that is an OSError that `store_fault` explains.
        """
        if self.is_stdin:
            return cast(io.BufferedReader, sys.stdin.buffer)
        if self.local is not None:
            try:
                return self.local.open("rb")
            except FileNotFoundError:
                raise InputError(f"{self.name}: no such file") from None
        with told(self.name):
            # A pyarrow file has all that a raw stream needs.
            return io.BufferedReader(self.filesystem.open_input_file(self.path), REMOTE_READ_BYTES)

    def read_bytes(self) -> bytes:
        """All of the file.

        Raises:
            InputError, WorkFailedError: it is missing, or the store failed.
        """
        with self.open() as file, told(self.name) if self.local is None else contextlib.nullcontext():
            return file.read()

    def sha256(self) -> str:
        """Hex digest of the file's bytes, read in a stream."""
        with self.open() as file, told(self.name) if self.local is None else contextlib.nullcontext():
            return hashlib.file_digest(file, "sha256").hexdigest()

    def first_line(self) -> bytes:
        """The file up to its first line break, and of a store no more than is needed."""
        if self.local is not None:
            with self.local.open("rb") as file:
                return file.readline()
        with told(self.name), self.filesystem.open_input_file(self.path) as stream:
            line = b""
            while b"\n" not in line and (more := stream.read(_FIRST_READ_BYTES)):
                line += more
        return line.partition(b"\n")[0]

    def absolute(self) -> Location:
        """The same for a process that works in another directory."""
        return self if self.local is None else _local(self.local.absolute())

    def write_bytes(self, data: bytes) -> None:
        """Replaces the file; whatever ends the process, it is whole or what it was before."""
        if self.local is not None:
            self.local.parent.mkdir(parents=True, exist_ok=True)
            with durable_file(self.local) as partial:
                partial.write_bytes(data)
            return
        with told(self.name), self.filesystem.open_output_stream(self.path, compression=None) as stream:
            stream.write(data)

    @contextlib.contextmanager
    def open_output(self) -> Iterator[BinaryIO]:
        """A stream whose bytes replace the file when the block ends without an exception.

        In a store, what stood there before is lost when it does not; a killed process leaves nothing new.
        """
        if self.local is not None:
            with staged_file(self.local, overwrite=True) as staging, staging.open("wb") as file:
                yield file
            return
        with told(self.name):
            stream = self.filesystem.open_output_stream(self.path, compression=None)
        try:
            yield cast(BinaryIO, TellingWriter(stream, self.name))
            with told(self.name):
                stream.close()
        except BaseException:
            # Closing ends the upload as if it were whole, and pyarrow knows no other way out of one.
            with contextlib.suppress(Exception):
                stream.close()
            with contextlib.suppress(Exception):
                self.filesystem.delete_file(self.path)
            raise

    def remove(self) -> None:
        """Deletes the file, or the directory with all in it; nothing there is no error.

        Raises:
            InputError: a whole bucket.
        """
        info = self.info()
        if info is None:
            return
        if self.local is not None:
            if info.is_directory and not self.local.is_symlink():
                shutil.rmtree(self.local)
            else:
                self.local.unlink()
            return
        if "/" not in self.path:
            raise InputError(f"{self.name}: a whole bucket is not deleted")
        with told(self.name), contextlib.suppress(FileNotFoundError):
            (self.filesystem.delete_dir if info.is_directory else self.filesystem.delete_file)(self.path)

    def children(self) -> list[str]:
        """The names in this directory, sorted; none where there is no such directory."""
        return [name for name, _ in self.entries()]

    def entries(self) -> list[tuple[str, bool]]:
        """As `children`, each with whether it is a directory."""
        if self.local is not None:
            try:
                with os.scandir(self.local) as entries:
                    return sorted((entry.name, _is_directory(entry)) for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                return []
        listed = self._listed(recursive=False)
        return sorted((found.base_name, found.type == pafs.FileType.Directory) for found in listed)

    def files_below(self, aside: tuple[str, ...]) -> list[str]:
        """The paths, relative to this directory, of the files in it and in its sub-directories, sorted.

        There are none where there is no such directory.

        Args:
            aside: names that begin so are left aside with all below them.

        Raises:
            InputError: a link leads to a directory above itself.
        """
        if self.local is not None:
            if not self.local.is_dir():
                return []
            found = list(_walked(self.local, "", aside, (os.path.realpath(self.local),)))
        else:
            files = (entry.path for entry in self._listed(recursive=True) if entry.type == pafs.FileType.File)
            found = [path.removeprefix(self.path + "/") for path in files]
            found = [path for path in found if not any(part.startswith(aside) for part in path.split("/"))]
        return sorted(found)

    def make_directory(self) -> None:
        """Makes the directory and those above it; a store needs none."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)

    def _has_bucket(self) -> bool:
        """False only where that is sure: whoever may read a file need not be allowed to ask for its bucket."""
        with contextlib.suppress(OSError):
            return bool(self.filesystem.get_file_info(self.path.split("/")[0]).type != pafs.FileType.NotFound)
        return True

    def _listed(self, *, recursive: bool) -> list[Any]:
        with told(self.name):
            selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
            return list(self.filesystem.get_file_info(selector))


def _local(path: Path) -> Location:
    return Location(str(path), str(path), path, pafs.LocalFileSystem())


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """False where that cannot be told, as of a link that leads to itself: opening it says what is wrong with it."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walked(directory: Path, prefix: str, aside: tuple[str, ...], above: tuple[str, ...]) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(aside):
                continue
            if not _is_directory(entry):
                yield prefix + entry.name
                continue
            real = os.path.realpath(entry.path)
            if real in above:
                raise InputError(f"{entry.path} links to a directory above itself")
            yield from _walked(Path(entry.path), f"{prefix}{entry.name}/", aside, (*above, real))
