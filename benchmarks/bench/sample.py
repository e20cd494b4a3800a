"""The data as it is measured: its lengths, and what of it takes part in each scenario."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import numpy as np

from benchmarks.bench.contestants import LocalModel
from benchmarks.bench.texts import LengthBin, bins_by_length, evenly, neighbours
from common.tokenization import Text, TextEncoder


@dataclass(frozen=True)
class Sample:
    """
    Attributes:
        texts: of the data, checked.
        encoder: of the longest limit of all models. What reads less of a text reads it up to its own limit.
        shortest: of the shortest one, so that no text made for the purpose is truncated by any model.
        seed: of all that is drawn.
    """

    texts: Sequence[Text]
    encoder: TextEncoder
    shortest: TextEncoder
    seed: int

    @classmethod
    def of(cls, texts: Sequence[Text], models: Sequence[LocalModel], seed: int) -> Sample:
        """As the models in this process read the texts."""
        encoders = sorted((model.engine.encoder for model in models), key=lambda encoder: encoder.max_length)
        return cls(texts, encoders[-1], encoders[0], seed)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each text, truncated at the longest limit."""
        return [encoded.tokens for encoded in self.encoder.encode(self.texts)]

    @cached_property
    def drawn(self) -> list[Text]:
        """All texts in drawn order."""
        return [self.texts[row] for row in self._drawn_rows]

    @cached_property
    def even(self) -> list[Text]:
        """All texts in an order whose every beginning has all lengths."""
        rows = evenly(self._drawn_rows, [self.lengths[row] for row in self._drawn_rows])
        return [self.texts[row] for row in rows]

    def queries(self, size: int, count: int) -> list[list[Text]]:
        """So many groups of texts as they come, of any lengths; every beginning has groups of all longest texts."""
        rows = list(islice(cycle(self._drawn_rows), size * count))
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        groups = evenly(groups, [max(self.lengths[row] for row in group) for group in groups])
        return [[self.texts[row] for row in group] for group in groups]

    @cached_property
    def bins(self) -> list[LengthBin]:
        """The texts by length."""
        return bins_by_length(self.texts, self.lengths, self.shortest, random.Random(self.seed))

    @cached_property
    def _drawn_rows(self) -> list[int]:
        return random.Random(self.seed).sample(range(len(self.texts)), len(self.texts))

    def groups(self, size: int, count: int) -> list[Text]:
        """As `benchmarks.bench.texts.neighbours`."""
        return neighbours(self.texts, self.lengths, size, count)

    def longest(self, count: int) -> list[Text]:
        """The texts with the most tokens: the batch that takes the most memory."""
        order = sorted(range(len(self.texts)), key=lambda row: -self.lengths[row])
        return [self.texts[row] for row in order[:count]]

    def describe(self) -> dict[str, Any]:
        """`tokens`, for the `data` part of `results.json`."""
        middle, high = np.percentile(self.lengths, [50, 90])
        return {"median": float(middle), "p90": float(high), "max": max(self.lengths)}
