"""Labels as strings in a fixed order, and the three kinds of head: one label, several labels, a number."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, shown

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)

# Between the labels of one row of a multi-label table.
SEPARATOR = "|"
# A multi-label head names every label at or above this probability, unless its bundle has thresholds of its own.
MULTI_LABEL_THRESHOLD = 0.5


@dataclass(frozen=True)
class Task:
    """What a head answers.

    Attributes:
        problem_type: one of `PROBLEM_TYPES`, as in a transformers config.
        labels: the labels in the order of the logits; for regression the one name of the number.
        thresholds: the score from which each label holds, where a text may have several; one half each by default.
    """

    problem_type: str
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.problem_type not in PROBLEM_TYPES:
            raise InputError(f"problem_type is '{self.problem_type}', not one of {', '.join(PROBLEM_TYPES)}")
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise InputError(f"labels must be distinct and at least one, not {list(self.labels)}")
        if self.problem_type == REGRESSION and len(self.labels) > 1:
            raise InputError(
                f"a model with the problem_type '{REGRESSION}' answers with one number, and this one has "
                f"{len(self.labels)} outputs ({shown(', '.join(self.labels), 100)}): models of several numbers are "
                "not supported"
            )
        if self.thresholds and (
            self.problem_type != MULTI_LABEL
            or len(self.thresholds) != len(self.labels)
            or not all(0 < threshold < 1 for threshold in self.thresholds)
        ):
            raise InputError("thresholds must lie between 0 and 1, one for each label of a multi-label task")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Task:
        """The task of a transformers config, read as transformers' pipeline does where problem_type is unset."""
        named = config.get("id2label") or {}
        try:
            id2label = {int(index): str(label) for index, label in named.items()}
        except (AttributeError, ValueError):
            raise InputError("the config's id2label is no map from 0, 1, 2, … to labels") from None
        count = len(id2label) or int(config.get("num_labels") or 2)
        if id2label and set(id2label) != set(range(count)):
            raise InputError(f"the config's id2label must name the labels 0 to {count - 1}, not {sorted(id2label)}")
        labels = tuple(id2label.get(index, f"LABEL_{index}") for index in range(count))
        kind = config.get("problem_type") or SINGLE_LABEL
        # A softmax over one output would always say 1; the pipeline takes a sigmoid there.
        return cls(MULTI_LABEL if kind == SINGLE_LABEL and count == 1 else kind, labels)

    def check_labels(self) -> None:
        """For a model that is to become a bundle.

        Raises:
            InputError: a label that no column of several labels could hold.
        """
        for label in self.labels if self.problem_type == MULTI_LABEL else ():
            if split_labels(label) != [label]:
                raise InputError(
                    f"no table could hold the label '{shown(label)}' of texts that may have several: '{SEPARATOR}' "
                    "separates labels, and blanks around one do not count; rename it in the config's id2label"
                )

    def holds(self, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which labels hold at these scores, `[rows, labels]` both; for a task of several labels."""
        limits = np.array(self.thresholds or [MULTI_LABEL_THRESHOLD] * len(self.labels), np.float32)
        result: NDArray[np.bool_] = scores >= limits
        return result

    def targets(self, values: Sequence[str], places: Sequence[str]) -> NDArray[Any]:
        """Label strings as training targets.

        Returns:
            int64 `[rows]` for one label, float32 `[rows, labels]` for several, float32 `[rows]` for a number.

        Raises:
            InputError: a label that the task has not, or no number, with its place.
        """
        index = {label: position for position, label in enumerate(self.labels)}
        if self.problem_type == REGRESSION:
            return np.array([_number(value, place) for value, place in zip(values, places, strict=True)], np.float32)
        if self.problem_type == SINGLE_LABEL:
            return np.array(
                [_index(value, index, place) for value, place in zip(values, places, strict=True)], np.int64
            )
        targets = np.zeros((len(values), len(self.labels)), np.float32)
        for row, (value, place) in enumerate(zip(values, places, strict=True)):
            for label in named_labels(value, self.labels):
                targets[row, _index(label, index, place)] = 1.0
        return targets


def split_labels(value: str) -> list[str]:
    """The labels of one multi-label value; an empty value has none."""
    return [label.strip() for label in value.split(SEPARATOR) if label.strip()]


def named_labels(value: str, known: Collection[str]) -> list[str]:
    """The labels of one multi-label value; of a model with a single label, 1 says that it holds and 0 that it does not.

    Args:
        known: the model's labels.
    """
    if len(known) == 1 and value in ("0", "1") and value not in known:
        return [*known] * int(value)
    return split_labels(value)


def activate(logits: NDArray[np.floating], problem_type: str, temperature: float = 1.0) -> NDArray[np.float32]:
    """Logits into scores, by what the head's problem_type asks for.

    Args:
        logits: `[batch, labels]`.
        temperature: divides the logits before softmax or sigmoid; a regression output is left as it is.

    Returns:
        `[batch, labels]`: softmax for one label, sigmoid for several, the number itself for regression.
    """
    if problem_type == REGRESSION:
        return np.asarray(logits, np.float32)
    scaled = np.asarray(logits, np.float64) / temperature
    if problem_type == MULTI_LABEL:
        # exp of a non-positive number on both branches, so that no logit overflows.
        small = np.exp(-np.abs(scaled))
        return np.where(scaled >= 0, 1.0 / (1.0 + small), small / (1.0 + small)).astype(np.float32)
    shifted = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)


def _index(label: str, index: dict[str, int], place: str) -> int:
    # A model whose labels were never named calls them LABEL_0, LABEL_1, …; its data calls them 0, 1, …
    position = index.get(label, index.get(f"LABEL_{label}"))
    if position is None:
        known = shown(", ".join(list(index)[:8]), 100) + (", …" if len(index) > 8 else "")
        if len(index) == 1:
            raise InputError(
                f"{place}: the label '{shown(label)}' is not the model's only one ({known}), nor 1 or 0 for whether "
                f'that holds; if the model answers with a number, config.json must say "problem_type": "{REGRESSION}"'
            )
        raise InputError(f"{place}: the label '{shown(label)}' is not one of the model's {len(index)} ({known})")
    return position


def _number(value: str, place: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    # Python reads 1_000 as a number; a table that holds it means something else.
    if math.isnan(number) or "_" in value:
        raise InputError(f"{place}: the label '{shown(value)}' is not a number")
    if abs(number) > float(np.finfo(np.float32).max):
        raise InputError(f"{place}: the label '{shown(value)}' is out of range")
    return number
