"""Each metric of each resample is what `common.metrics` gives for the rows drawn."""

from __future__ import annotations

import numpy as np
import pytest

from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from common.metrics import available_metrics, evaluate
from common.resampled_metrics import answers_of, resampled_metric
from common.statistics import draw_examples

ROWS = 24


def _scores_and_targets(task: Task, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores = generator.random((ROWS, len(task.labels))).astype(np.float32)
    if task.problem_type == SINGLE_LABEL:
        # The last label is rare, so that some resamples lack it.
        return scores, generator.choice(
            len(task.labels), ROWS, p=[*[0.95 / (len(task.labels) - 1)] * (len(task.labels) - 1), 0.05]
        )
    if task.problem_type == MULTI_LABEL:
        return scores, (generator.random(scores.shape) < 0.3).astype(np.float32)
    return scores, (scores[:, 0] + generator.normal(0, 0.2, ROWS)).astype(np.float32)


@pytest.mark.parametrize(
    "task",
    [
        Task(SINGLE_LABEL, ("no", "yes")),
        Task(SINGLE_LABEL, ("a", "b", "c", "d")),
        Task(MULTI_LABEL, ("a", "b", "c")),
        Task(REGRESSION, ("score",)),
    ],
    ids=lambda task: f"{task.problem_type}-{len(task.labels)}",
)
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_is_that_of_the_rows_drawn(task: Task, seed: int) -> None:
    scores, targets = _scores_and_targets(task, seed)
    counts = draw_examples(ROWS, 20, seed)
    answers = answers_of(task, scores)
    expected = []
    for drawn in counts.astype(int):
        rows = np.repeat(np.arange(ROWS), drawn)
        expected.append(evaluate(task, scores[rows], targets[rows]))
    for name in available_metrics(task):
        values = resampled_metric(task, name, answers, targets, counts)
        assert values == pytest.approx([metrics[name] for metrics in expected], abs=1e-6), name


def test_constant_answers_are_no_division_by_zero() -> None:
    task = Task(SINGLE_LABEL, ("no", "yes"))
    zeros = np.zeros(ROWS, np.int64)
    counts = draw_examples(ROWS, 10)
    assert (resampled_metric(task, "matthews", zeros, zeros, counts) == 0).all()
    assert (resampled_metric(task, "f1", zeros, zeros, counts) == 0).all()
    number = Task(REGRESSION, ("score",))
    assert (resampled_metric(number, "pearson", np.ones(ROWS), np.arange(ROWS), counts) == 0).all()
