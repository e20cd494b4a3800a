"""What the queue owes: tokens admitted and not yet answered, and the seconds that they take at each model's speed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from common.tokenization import Encoded
from serve.model_process import LoadedModel

# A measured rate is the best of late: it falls by this much a batch unless a batch reaches it.
_RATE_DECAY = 0.99
# Tokens of a batch from which on it tells the rate: a lone short text takes nearly as long as a dozen. What is faster
# than the rate tells it at any size, or short texts alone could never better a rate that was measured in a bad moment.
_RATE_TOKENS = 128


class Backlog:
    """Models differ in speed by a factor, so each has a rate of its own.

    Attributes:
        tokens, items: admitted and not yet answered, of all models.
    """

    def __init__(self) -> None:
        self.tokens = self.items = 0
        self._owed: WeakKeyDictionary[LoadedModel, int] = WeakKeyDictionary()
        self._rates: WeakKeyDictionary[LoadedModel, float] = WeakKeyDictionary()

    @property
    def seconds(self) -> float:
        """Until all that is owed is answered, by the rates measured of late; a model that has none takes no time."""
        rates = self._rates
        return sum(tokens / rates[model] for model, tokens in self._owed.items() if model in rates)

    @contextlib.contextmanager
    def admitted(self, model: LoadedModel, texts: Sequence[Encoded]) -> Iterator[None]:
        """Within, a request's texts are owed."""
        tokens = sum(text.tokens for text in texts)
        self.tokens += tokens
        self.items += len(texts)
        try:
            with self.owing(model, tokens):
                yield
        finally:
            self.tokens -= tokens
            self.items -= len(texts)

    @contextlib.contextmanager
    def owing(self, model: LoadedModel, tokens: int) -> Iterator[None]:
        """Within, a model has this much to do, for requests that were admitted already."""
        self._owed[model] = self._owed.get(model, 0) + tokens
        try:
            yield
        finally:
            self._owed[model] -= tokens

    def ran(self, model: LoadedModel, tokens: int, rate: float) -> None:
        """A batch of so many tokens ran at so many tokens a second."""
        known = self._rates.get(model, 0.0)
        if tokens >= _RATE_TOKENS:
            self._rates[model] = max(known * _RATE_DECAY, rate)
        elif known:
            self._rates[model] = max(known, rate)
