"""Which of the real texts are measured: a drawn sample, neighbours in length for batches, and bins of length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from common.tokenization import Text, TextEncoder

# Tokens a text, special tokens included; the last bin has no upper end.
LENGTH_BINS: tuple[tuple[int, int | None], ...] = ((1, 16), (17, 32), (33, 64), (65, 128), (129, None))
# A bin with fewer real texts than this is filled up with joined ones.
ENOUGH_TEXTS = 4
# Joined texts that are made for a bin, and how many tokens they reach in the bin without an upper end.
_JOINED_TEXTS = 8
_LONGEST_JOINED = 256
_GOLDEN_RATIO = (5**0.5 - 1) / 2

Item = TypeVar("Item")


@dataclass(frozen=True)
class LengthBin:
    """Texts of like length.

    Attributes:
        low, high: tokens, both included; `high` None for no upper end.
        texts: the real ones in an order whose every beginning has all lengths; then those that are joined.
        joined: how many of them are several texts of the data in one, since the data has too few of this length.
    """

    low: int
    high: int | None
    texts: list[Text]
    joined: int

    @property
    def name(self) -> str:
        if self.high is None:
            return f">{self.low - 1}"
        return f"≤{self.high}" if self.low == 1 else f"{self.low}–{self.high}"


def bins_by_length(
    texts: Sequence[Text], lengths: Sequence[int], encoder: TextEncoder, draw: random.Random
) -> list[LengthBin]:
    """The texts by length; a bin that nothing falls into is left out.

    Args:
        lengths: tokens of each text.
        encoder: counts the tokens of joined texts; none lies beyond its limit.
    """
    bins = []
    for low, high in LENGTH_BINS:
        rows = [row for row, length in enumerate(lengths) if low <= length <= (high or length)]
        draw.shuffle(rows)
        real = [texts[row] for row in evenly(rows, [lengths[row] for row in rows])]
        highest = min(high or _LONGEST_JOINED, encoder.max_length)
        joined = [] if len(real) >= ENOUGH_TEXTS else _joined_texts(texts, low, highest, encoder, draw)
        if real or joined:
            bins.append(LengthBin(low, high, real + joined, len(joined)))
    return bins


def evenly(items: Sequence[Item], sizes: Sequence[int]) -> list[Item]:
    """The items in an order whose every beginning has them from all over the sizes, as evenly as so few can.

    How many there is time for hangs on the machine, from one run to the next; the median of the first few drawn at
    random would hang on which these happen to be. By the golden ratio's multiples (Kronecker's sequence).
    """
    by_size = sorted(range(len(items)), key=lambda place: sizes[place])
    ranks = ((0.5 + _GOLDEN_RATIO * np.arange(len(items))) % 1).argsort().argsort()
    return [items[by_size[rank]] for rank in ranks]


def neighbours(texts: Sequence[Text], lengths: Sequence[int], size: int, groups: int) -> list[Text]:
    """Groups of `size` texts that are neighbours in length, at even distances over the texts sorted by length.

    A few texts thus stand for a long table that is cut into batches by length: batches drawn from few texts at random
    would be mostly padding. Every text is taken where there are too few for so many groups.
    """
    order = sorted(range(len(texts)), key=lambda row: lengths[row])
    if len(order) <= groups * size:
        return [texts[row] for row in order]
    # Each group is the middle of its share of the texts.
    starts = [int((group + 0.5) * len(order) / groups - size / 2) for group in range(groups)]
    return [texts[row] for start in starts for row in order[start : start + size]]


def _joined_texts(texts: Sequence[Text], low: int, high: int, encoder: TextEncoder, draw: random.Random) -> list[Text]:
    """Up to `_JOINED_TEXTS` texts of `low` to `high` tokens, each made of consecutive texts of the data."""
    joined: list[Text] = []
    if high < low:
        return joined
    for _ in range(4 * _JOINED_TEXTS):
        goal = draw.randint(low, high)
        start = draw.randrange(len(texts))
        text, tokens, parts = texts[start], 0, 1
        while True:
            encoded = encoder.encode([text])[0]
            tokens = encoded.tokens
            # Tokens stop growing at the encoder's limit, and do not grow at all where texts hold none.
            if tokens >= goal or encoded.truncated or parts >= goal:
                break
            text = _join(text, texts[(start + parts) % len(texts)])
            parts += 1
        if parts > 1 and low <= tokens <= high and not encoded.truncated:
            joined.append(text)
        if len(joined) == _JOINED_TEXTS:
            break
    return joined


def _join(first: Text, second: Text) -> Text:
    if isinstance(first, tuple):
        return (f"{first[0]} {second[0]}", f"{first[1]} {second[1]}")
    return f"{first} {second}"
