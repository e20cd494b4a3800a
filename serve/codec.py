"""The codec: all of the way from texts to predictions but the model itself.

Tokenizing lies before the model, activation and labels behind it. So a process that answers callers needs no engine,
and the engine's answers and the server's come from the same lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import TextError, WorkFailedError
from common.labels import MULTI_LABEL, SEPARATOR, Task, activate
from common.tokenization import Encoded, Text, TextEncoder, check_text
from export.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one text.

    Attributes:
        labels: the task's labels, in the model's order.
        scores: float32 `[labels]`: probabilities, or the number itself for regression.
        logits: float32 `[labels]`, as the model gave them.
        tokens: how many were read.
        truncated: whether the text had more.
    """

    task: Task
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    tokens: int
    truncated: bool

    @property
    def label(self) -> str:
        """The label with the highest score."""
        return self.task.labels[int(self.scores.argmax())]

    @property
    def score(self) -> float:
        """The highest score."""
        return float(self.scores.max())

    @property
    def chosen(self) -> list[str]:
        """The labels that hold: the best one, or for several labels each at or above the threshold."""
        if self.task.problem_type == MULTI_LABEL:
            return [label for label, holds in zip(self.task.labels, self.task.holds(self.scores), strict=True) if holds]
        return [self.label]

    @property
    def answer(self) -> str:
        """`chosen` as one value of a table."""
        return SEPARATOR.join(self.chosen)

    def agrees_with(self, other: Prediction) -> bool:
        """Whether both choose the same labels, whatever the order that each model has them in."""
        return set(self.chosen) == set(other.chosen)

    def ranked(self, top_k: int | None = None, *, raw: bool = False) -> list[tuple[str, float]]:
        """Labels with their scores (or logits), best first; equal ones in the model's order."""
        values = (self.logits if raw else self.scores).tolist()
        ranking = sorted(zip(self.task.labels, values, strict=True), key=itemgetter(1), reverse=True)
        return ranking[:top_k]


class Codec:
    """A bundle's tokenizer and head."""

    def __init__(self, bundle: Bundle, encoder: TextEncoder):
        self.bundle = bundle
        self.encoder = encoder

    @property
    def name(self) -> str:
        return self.bundle.manifest.name

    @property
    def task(self) -> Task:
        return self.bundle.task

    def prepare(self, texts: Sequence[Any], *, truncate: bool = True) -> list[Encoded | TextError]:
        """Checks and tokenizes; what cannot be classified comes back as its error, in place.

        Args:
            texts: strings and pairs of strings; anything else is an error in its place.
            truncate: whether a text over the token limit is cut (and reported) or is an error.
        """
        prepared: list[Encoded | TextError | None] = []
        good: list[Text] = []
        for text in texts:
            try:
                check_text(text)
                good.append(text)
                prepared.append(None)
            except TextError as error:
                prepared.append(error)
        encoded = iter(self.encoder.encode(good))
        results = [next(encoded) if entry is None else entry for entry in prepared]
        if truncate:
            return results
        return [self._refuse_truncated(entry) for entry in results]

    def predictions(self, batch: Sequence[Encoded], logits: NDArray[np.float32]) -> list[Prediction | WorkFailedError]:
        """A batch's logits `[batch, labels]` as predictions; a row that is not finite as its error."""
        with np.errstate(invalid="ignore"):  # of what is not finite
            scores = activate(logits, self.task.problem_type, self.bundle.manifest.temperature)
        finite = np.asarray(np.isfinite(logits).all(axis=1))
        return [
            Prediction(self.task, scores[row], logits[row], text.tokens, text.truncated)
            if finite[row]
            else WorkFailedError(f"the model {self.name} gave outputs that are not finite numbers")
            for row, text in enumerate(batch)
        ]

    def _refuse_truncated(self, entry: Encoded | TextError) -> Encoded | TextError:
        if isinstance(entry, Encoded) and entry.truncated:
            return TextError(f"the text has more than {self.encoder.max_length} tokens and truncation is off")
        return entry


def open_codec(path: Path) -> Codec:
    """Verifies the bundle and reads what lies in it beside the model.

    Raises:
        InputError: the directory is no bundle or was changed.
    """
    bundle = Bundle.load(path)
    return Codec(bundle, TextEncoder.load(bundle.path))
