"""Files of results, a line of JSON each: what every study's rows are kept in."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows in the order in which they were made; half a line at the end, which a killed study left, is none.

    Raises:
        InputError: a line is damaged.
    """
    if not path.exists():
        return
    whole, end, _ = path.read_bytes().rpartition(b"\n")
    for number, line in enumerate(whole.splitlines() if end else [], start=1):
        try:
            yield dict(json.loads(line))
        except (ValueError, TypeError):
            raise damaged(path, number) from None


def damaged(path: Path, number: int) -> InputError:
    """The error for a line that is no row."""
    return InputError(f"{path}, line {number}: damaged; take the line out to repeat that cell")


def add_line(path: Path, row: dict[str, Any]) -> None:
    """Appends a row, which is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_half_line(path)
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        os.fsync(file.fileno())


def pack(answers: NDArray[np.integer], labels: int) -> str:
    """Label indices `[rows]` in base64, each in as few bits as `labels` need, the lowest bit first."""
    width = _width(labels)
    bits = (np.asarray(answers, np.int64)[:, None] >> np.arange(width)) & 1
    return base64.b64encode(np.packbits(bits.astype(np.uint8)).tobytes()).decode()


def unpack(text: str, rows: int, labels: int) -> NDArray[np.int64]:
    """What `pack` was given.

    Raises:
        InputError: it is no such text, or not of so many rows.
    """
    width = _width(labels)
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except ValueError:
        raise InputError("the answers of a row are no base64") from None
    if len(packed) != -(-rows * width // 8):
        raise InputError(f"the answers of a row are not of {rows:,} texts")
    bits = np.unpackbits(packed, count=rows * width).reshape(rows, width).astype(np.int64)
    answers: NDArray[np.int64] = (bits << np.arange(width)).sum(axis=1)
    if answers.max() >= labels:
        raise InputError(f"the answers of a row name more than {labels} labels")
    return answers


def _drop_half_line(path: Path) -> None:
    """Takes out the row that a killed study was writing."""
    if path.exists():
        whole, end, rest = path.read_bytes().rpartition(b"\n")
        if rest:
            os.truncate(path, len(whole) + len(end))


def _width(labels: int) -> int:
    return max(1, (labels - 1).bit_length())
