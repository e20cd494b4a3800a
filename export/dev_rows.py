"""The labelled dev rows that judge a graph and calibrate its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.examples import Examples
from common.labels import Task
from common.metrics import LOWER_IS_BETTER, choose_metric, evaluate
from common.tokenization import Encoded, TextEncoder
from export.calibration import calibrate
from export.proofs import Calibration
from export.served import Served


@dataclass(frozen=True)
class DevRows:
    """The labelled rows that judge.

    Attributes:
        encoded: the texts, tokenized.
        targets: what `Task.targets` gives.
        data: what the manifest says of the table.
        metric: the name of the dev metric.
        calibrated: whether a bundle judged by them is calibrated on them.
        seed: of the calibration's folds.
    """

    encoded: list[Encoded]
    targets: NDArray[Any]
    task: Task
    data: dict[str, Any]
    metric: str
    calibrated: bool
    seed: int

    def calibration(self, logits: NDArray[np.floating]) -> Calibration | None:
        """What a bundle with these logits `[rows, labels]` would be calibrated to."""
        return calibrate(logits, self.targets, self.task, self.data, self.seed) if self.calibrated else None

    def served(self, logits: NDArray[np.floating]) -> Served:
        """How such a bundle would serve them."""
        return Served.by(self.task, self.calibration(logits))

    def value(self, logits: NDArray[np.floating], served: Served) -> float:
        """The dev metric of a graph's logits, served so."""
        return evaluate(served.task, served.scores(logits), self.targets)[self.metric]

    def measured(self, logits: NDArray[np.floating], served: Served, precision: str) -> dict[str, Any]:
        """The dev metric as the manifest has it."""
        value = self.value(logits, served)
        return {"metric": self.metric, "split": self.data["name"], "value": value, "precision": precision}

    def loss(self, before: float, after: float) -> float:
        """Points lost: hundredths of the metric, or per cent of a squared error."""
        if self.metric in LOWER_IS_BETTER:
            return 100 * (after - before) / max(before, 1e-12)
        return 100 * (before - after)


def dev_rows(
    examples: Examples, task: Task, encoder: TextEncoder, metric: str | None, *, calibrated: bool, seed: int
) -> DevRows:
    """
    Args:
        metric: the dev metric's name; None takes the task's default.

    Raises:
        InputError: a label that the task has not, or a metric that does not fit it.
    """
    targets = task.targets(examples.labels, examples.places)
    metric = choose_metric(task, metric)
    return DevRows(encoder.encode(examples.texts), targets, task, examples.describe(), metric, calibrated, seed)
