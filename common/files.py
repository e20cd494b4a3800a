"""Hashes, JSON files, and outputs that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError

# A directory may be replaced only if one of these in it says that Understudy made it.
MARKERS = ("understudy.json", "distillation.json", "pretraining.json", "results.json", "_score.json")
MADE_BY = {"made_by": "understudy"}

# Of what is under way; killed processes leave it behind.
STAGING_PREFIX = ".understudy-"

_MAX_NAME_BYTES = 255


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: Path) -> Path:
    """`path` itself, if it is a readable file that holds something.

    Raises:
        InputError: it is missing, a directory, unreadable or empty.
    """
    check_names(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path} is a directory, not a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: permission denied")
    if not path.is_file():
        raise InputError(f"{path} is a pipe or a device; a regular file is needed")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: the file is missing, is not JSON, or holds something other than an object.
    """
    try:
        value = json.loads(require_file(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, a number of too many digits
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


def as_json(value: Any) -> str:
    """`value` with indentation; keys keep their order, and numbers that JSON has not become null."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file's name may hold bytes that are no UTF-8.
    return text.encode("utf-8", "replace").decode("utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes what `as_json` gives."""
    path.write_text(as_json(value), encoding="utf-8")


def made_here(directory: Path) -> bool:
    """Whether a directory says that Understudy made it."""
    for marker in MARKERS:
        with contextlib.suppress(InputError):
            if read_json(directory / marker).get("made_by") == MADE_BY["made_by"]:
                return True
    return False


def check_output(path: Path, *, directory: bool, overwrite: bool) -> None:
    """Refuses an output path before the work starts rather than after it.

    Args:
        directory: whether the output is a directory or a file.
        overwrite: whether what is there may be replaced; a directory only if Understudy made it.

    Raises:
        InputError: something stands there that may not be replaced, or nothing can be written there.
    """
    check_names(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is a pipe or a device: choose another output")
    path = resolved(path)
    if directory and not is_utf8(str(path)):
        raise InputError(f"{path}: the names of a model or bundle and of what it lies in must be valid UTF-8")
    parent = _nearest_parent(path)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{path} cannot be written: {parent} is no writable directory")
    if not path.exists():
        return
    if path.is_dir() != directory:
        raise InputError(f"{path} is a {'directory' if path.is_dir() else 'file'}: choose another output")
    if directory and (path == Path.cwd() or os.path.ismount(path)):
        # The finished directory is renamed into place, which these do not allow.
        raise InputError(f"{path} cannot be replaced as a whole: name a new directory inside it")
    if directory and _is_empty(path):
        return
    if not overwrite:
        raise InputError(f"{path} exists: choose another output or pass --overwrite")
    if directory and not made_here(path):
        raise InputError(f"{path} was not made by Understudy and is not replaced: choose another output")


@contextlib.contextmanager
def staged_directory(path: Path, *, overwrite: bool = False, work: Path | None = None) -> Iterator[Path]:
    """A temporary directory beside `path` that takes its place when the block ends without an exception.

    Args:
        work: where the temporary directory is made instead, on the same file system: a killed process leaves it there.

    Raises:
        InputError: as `check_output`.
    """
    check_output(path, directory=True, overwrite=overwrite)
    path = resolved(path)
    with parents_of(path):
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=work or path.parent))
        try:
            yield staging
            _share(staging)
            _replace_directory(path, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def staged_file(path: Path, *, overwrite: bool = False, work: Path | None = None) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends without an exception.

    Args:
        work: as in `staged_directory`.

    Raises:
        InputError: as `check_output`.
    """
    check_output(path, directory=False, overwrite=overwrite)
    path = resolved(path)
    with parents_of(path):
        handle, name = tempfile.mkstemp(prefix=STAGING_PREFIX, suffix=path.suffix, dir=work or path.parent)
        os.close(handle)
        staging = Path(name)
        try:
            yield staging
            staging.chmod(0o666 & ~_umask())
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when the block ends without an exception, and is then on the disk.

    For files that a killed process goes on from: whatever kills it, `path` is whole or what it was before. No other
    process may write the same `path` at the same time.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace_directory(path: Path, staging: Path) -> None:
    """Puts `staging` in the place of `path`; what stood there is deleted only once the new one stands."""
    if not path.exists():
        staging.replace(path)
        return
    old = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=staging.parent))
    try:
        path.replace(old)
        staging.replace(path)
    except BaseException:
        # An interrupt between the two renames must not lose what stood there either.
        if not path.exists():
            old.replace(path)
        raise
    finally:
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def parents_of(path: Path) -> Iterator[None]:
    """Makes the directories above `path`; those it made go again if the block fails."""
    made = []
    for parent in reversed(path.parents):
        # Another process may make it at the same time.
        with contextlib.suppress(FileExistsError):
            if not parent.exists():
                parent.mkdir()
                made.append(parent)
    try:
        yield
    except BaseException:
        for parent in reversed(made):
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def check_names(path: Path) -> None:
    """Refuses a path that no file system takes.

    Raises:
        InputError: a part of it is too long.
    """
    for name in path.parts:
        if len(os.fsencode(name)) > _MAX_NAME_BYTES:
            raise InputError(f"{name[:40]}…: the name is longer than a file's may be")


def resolved(path: Path) -> Path:
    """The path itself where it is a link: a link stays one, and what it points to is written."""
    return Path(os.path.realpath(path))


def _share(directory: Path) -> None:
    """Gives a temporary directory and all in it the modes that they would have had without libraries that let only
    their owner read a file: whoever serves or exports what is in it may be another user."""
    mask = _umask()
    directory.chmod(0o777 & ~mask)
    for path in directory.rglob("*"):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def is_utf8(path: str) -> bool:
    """Whether the bytes of a file's path are UTF-8, which most libraries ask for."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_empty(path: Path) -> bool:
    return next(path.iterdir(), None) is None


def _nearest_parent(path: Path) -> Path:
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    return parent


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _umask() -> int:
    # The mask can only be read by setting it; the temporary files were made with mode 0600 or 0700.
    mask = os.umask(0)
    os.umask(mask)
    return mask
