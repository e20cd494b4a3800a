"""Rows into batches of like length, in an order that the seed alone decides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.tokenization import Encoded, TextEncoder

# Rows are sorted by length inside shuffled stretches of so many batches: little padding, yet a fresh mix each epoch.
STRETCH = 32


@dataclass(frozen=True)
class TokenizedSet:
    """A tokenized table.

    Attributes:
        encoded: one entry a row.
        targets: `Task.targets` of its labels; rows behind the last target have none.
        places: where each row stands in its file, for messages; rows behind the last were made, not read.
    """

    encoded: list[Encoded]
    targets: NDArray[Any]
    places: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def truncated(self) -> int:
        """How many rows lost tokens."""
        return sum(text.truncated for text in self.encoded)

    @cached_property
    def tokens_sha256(self) -> str:
        """Of what a model reads of the rows, in their order."""
        digest = hashlib.sha256()
        for text in self.encoded:
            digest.update(np.asarray([text.tokens, *text.ids, *text.type_ids], "<i8").tobytes())
        return digest.hexdigest()

    @property
    def sha256(self) -> str:
        """Of the rows and their targets."""
        targets = np.ascontiguousarray(self.targets)
        return hashlib.sha256(f"{self.tokens_sha256} {targets.dtype}".encode() + targets.tobytes()).hexdigest()

    def where(self, rows: Sequence[int]) -> str:
        """The rows as a message names them: `train.tsv, lines 2, 17, 40`."""
        numbers: dict[str, list[str]] = {}
        for row in sorted(rows):
            file, number = self.places[row].rsplit(" ", 1) if row < len(self.places) else ("made row", str(row))
            numbers.setdefault(file, []).append(number)
        return "; ".join(f"{file}s {', '.join(of_file)}" for file, of_file in numbers.items())


def tokens_of(text: Encoded) -> tuple[int, ...]:
    """What the model reads of a text, to tell whether two are the same."""
    return (*text.ids, *text.type_ids)


def shuffled_batches(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Row numbers batch by batch; every row once."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), batch_size * STRETCH):
        stretch = sorted(order[start : start + batch_size * STRETCH], key=lambda row: lengths[row])
        batches += [stretch[at : at + batch_size] for at in range(0, len(stretch), batch_size)]
    for position in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[position]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Row numbers batch by batch, shortest first."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def model_inputs(
    encoder: TextEncoder, encoded: Sequence[Encoded], names: Sequence[str], device: torch.device, length: int = 0
) -> dict[str, Tensor]:
    """A padded batch as the model takes it: each tensor int64 `[batch, longest]`, or `[batch, length]` where that is
    more."""
    arrays = encoder.pad(encoded, length)
    return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])).to(device) for name in names}
