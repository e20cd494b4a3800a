"""The labelled dev rows that judge a graph and calibrate its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.examples import Examples
from common.labels import Task, activate
from common.metrics import LOWER_IS_BETTER, choose_metric, evaluate
from common.tokenization import Encoded, TextEncoder


@dataclass(frozen=True)
class DevRows:
    """The labelled rows that judge.

    Attributes:
        encoded: the texts, tokenized.
        targets: what `Task.targets` gives.
        data: what the manifest says of the table.
        metric: the name of the dev metric.
    """

    encoded: list[Encoded]
    targets: NDArray[Any]
    task: Task
    data: dict[str, Any]
    metric: str

    def value(self, logits: NDArray[np.floating]) -> float:
        """The dev metric of a graph's logits."""
        return evaluate(self.task, activate(logits, self.task.problem_type), self.targets)[self.metric]

    def loss(self, before: float, after: float) -> float:
        """Points lost: hundredths of the metric, or per cent of a squared error."""
        if self.metric in LOWER_IS_BETTER:
            return 100 * (after - before) / max(before, 1e-12)
        return 100 * (before - after)


def dev_rows(examples: Examples, task: Task, encoder: TextEncoder, metric: str | None) -> DevRows:
    """
    Args:
        metric: the dev metric's name; None takes the task's default.

    Raises:
        InputError: a label that the task has not, or a metric that does not fit it.
    """
    targets = task.targets(examples.labels, examples.places)
    return DevRows(encoder.encode(examples.texts), targets, task, examples.describe(), choose_metric(task, metric))
