"""A teacher's answers on disk, so that it runs once for a data set and not once for a run.

A cache is a directory named by the hash of all that the answers depend on. It holds shards, each a NumPy file of the
answers of some rows, and `index.json` with the sha256 of each; a shard that the index does not vouch for is computed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, WorkFailedError
from common.files import durable_file, read_json, sha256, write_json
from common.locks import held_directory
from common.progress import say

FORMAT_VERSION = 1

_INDEX = "index.json"


def default_cache() -> Path:
    """The user's cache directory, by the XDG Base Directory Specification.

    Raises:
        InputError: there is none, since the user has no home.
    """
    # The specification has a relative path ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            raise InputError("there is no home directory to cache in: pass --cache DIR or --no-cache") from None
    return base / "understudy" / "teacher"


def check_cache(root: Path) -> None:
    """Makes the directory of the caches.

    Raises:
        InputError: nothing can be written there.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        writable = os.access(root, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise InputError(
            f"{root} is no writable directory, and the teacher's answers are kept there: "
            f"choose another with --cache, or pass --no-cache"
        )


def cached_shards(
    root: Path, about: dict[str, Any], parts: Sequence[range], compute: Callable[[range], NDArray[Any]]
) -> list[NDArray[Any]]:
    """The answers of each part, memory-mapped; those that the cache lacks are computed and kept first.

    Args:
        root: the directory of all caches.
        about: what the answers depend on; its hash names the cache.
        parts: the rows of each shard.
        compute: answers of a shard's rows; they depend on these rows alone, so it does not matter which shards an
            earlier, interrupted run had done.

    Raises:
        WorkFailedError: the answers cannot be written.
    """
    about = {"format_version": FORMAT_VERSION, **about}
    directory = root / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    try:
        try:
            with held_directory(directory):
                return _open_or_compute(directory, about, parts, compute)
        except BlockingIOError:
            say(f"Another run is computing the teacher's answers, in {directory}: waiting for it")
        with held_directory(directory, wait=True):
            return _open_or_compute(directory, about, parts, compute)
    except OSError as error:
        raise WorkFailedError(
            f"the teacher's answers cannot be kept in {directory} ({error.strerror or error}): make room there, "
            f"choose another place with --cache, or pass --no-cache"
        ) from None


def _open_or_compute(
    directory: Path, about: dict[str, Any], parts: Sequence[range], compute: Callable[[range], NDArray[Any]]
) -> list[NDArray[Any]]:
    hashes = _hashes(directory, about)
    shards: list[NDArray[Any]] = []
    computed = 0
    for number, part in enumerate(parts):
        path = directory / f"{number:05}.npy"
        whole = path.is_file() and path.name in hashes and sha256(path) == hashes[path.name]
        if not whole:
            if path.name in hashes:
                say(f"{path} is damaged: the teacher's answers in it are computed again")
            with durable_file(path) as new, new.open("wb") as file:
                np.save(file, compute(part), allow_pickle=False)
            hashes[path.name] = sha256(path)
            with durable_file(directory / _INDEX) as new:
                write_json(new, {"about": about, "sha256": hashes})
            computed += 1
        shards.append(np.load(path, mmap_mode="r", allow_pickle=False))
    rows, size = sum(map(len, parts)), sum(shard.nbytes for shard in shards) / 1e6
    origin = "come from" if not computed else "are now kept in" if computed == len(parts) else "were completed in"
    say(f"The teacher's answers to {rows:,} rows {origin} {directory} ({size:,.1f} MB)")
    return shards


def _hashes(directory: Path, about: dict[str, Any]) -> dict[str, str]:
    """The sha256 of each shard that was finished; none where the index cannot be trusted."""
    path = directory / _INDEX
    if not path.exists():
        return {}
    try:
        index = read_json(path)
        if index["about"] == about:
            return {str(name): str(value) for name, value in index["sha256"].items()}
    except (InputError, KeyError, AttributeError):
        pass
    say(f"{path} is damaged: the teacher's answers are computed again")
    return {}
