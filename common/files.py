"""Hashes, and outputs that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError

# A directory may be replaced only if it holds one of these, that is, if Understudy made it.
MARKERS = ("understudy.json", "distillation.json", "results.json")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: Path) -> Path:
    """`path` itself, if it is a readable file that holds something.

    Raises:
        InputError: it is missing, a directory, unreadable or empty.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path} is a directory, not a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: permission denied")
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes `value` with indentation; keys keep their order."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuses an output path before the work starts rather than after it.

    Raises:
        InputError: something is there already and may not be replaced, or the parent cannot hold it.
    """
    if path.is_symlink() or path.exists():
        replaceable = path.is_file() or (path.is_dir() and (_is_empty(path) or _is_ours(path)))
        if path.is_dir() and _is_empty(path):
            return
        if not overwrite:
            raise InputError(f"{path} exists: choose another output or pass --overwrite")
        if not replaceable:
            raise InputError(f"{path} was not made by Understudy and is not replaced: choose another output")
    elif not _nearest_parent(path).is_dir() or not os.access(_nearest_parent(path), os.W_OK):
        raise InputError(f"{path} cannot be written: {_nearest_parent(path)} is no writable directory")


@contextlib.contextmanager
def staged_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary directory beside `path` that takes its place when the block ends without an exception.

    Raises:
        InputError: as `check_output`.
    """
    check_output(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield staging
        staging.chmod(0o777 & ~_umask())
        _replace(path, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def staged_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends without an exception.

    Raises:
        InputError: as `check_output`.
    """
    check_output(path, overwrite=overwrite)
    if path.is_dir():
        raise InputError(f"{path} is a directory, not a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last, since writers choose their format by it.
    handle, name = tempfile.mkstemp(prefix=".", suffix=f".{path.name}", dir=path.parent)
    os.close(handle)
    staging = Path(name)
    try:
        yield staging
        staging.chmod(0o666 & ~_umask())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def _replace(path: Path, staging: Path) -> None:
    """Puts `staging` in the place of `path`; what stood there is deleted only once the new one stands."""
    if path.is_dir() and not path.is_symlink():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
        path.replace(old)
        try:
            staging.replace(path)
        except OSError:
            old.replace(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
        staging.replace(path)


def _is_empty(path: Path) -> bool:
    return next(path.iterdir(), None) is None


def _is_ours(path: Path) -> bool:
    return any((path / marker).is_file() for marker in MARKERS)


def _nearest_parent(path: Path) -> Path:
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    return parent


def _umask() -> int:
    # The mask can only be read by setting it; the temporary files were made with mode 0600 or 0700.
    mask = os.umask(0)
    os.umask(mask)
    return mask
