"""Directories that one process at a time works in."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

LOCK_FILE = "lock"


@contextlib.contextmanager
def held_directory(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Makes `path` and keeps other processes out of it until the block ends; a killed process keeps nobody out.

    Args:
        wait: whether to wait for another process that holds it.

    Raises:
        BlockingIOError: another process holds it, and it is not waited for.
    """
    handle = _hold(path, wait)
    try:
        yield
    finally:
        os.close(handle)


def _hold(path: Path, wait: bool) -> int:
    while True:
        path.mkdir(parents=True, exist_ok=True)
        try:
            # A file and not the directory itself: network file systems lock nothing else.
            handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # whoever held the directory has just removed it
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(path / LOCK_FILE)):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
