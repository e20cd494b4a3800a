"""Texts into batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Where a batch ends, whichever comes first.

    Attributes:
        items: texts.
        tokens: padded tokens, that is texts times the longest one's length.
    """

    items: int = 32
    tokens: int = 4096


def cut_batches(lengths: Sequence[int], limits: BatchLimits) -> Iterator[list[int]]:
    """Row numbers in batches of like length, longest first, each within the limits.

    Longest first, so that memory peaks at once and the last batch, which may be small, is cheap.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        size = max(1, min(limits.items, limits.tokens // longest))
        yield order[start : start + size]
        start += size
