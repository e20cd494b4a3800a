"""What a sweep's rows say: means with their intervals, tests between methods, shares of the teacher's metric."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import durable_file, write_json
from common.metrics import LOWER_IS_BETTER
from common.resampled_metrics import resampled_metric
from common.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Comparison,
    Interval,
    bootstrap_interval,
    compare,
    draw_examples,
    holm,
    t_interval,
)
from distill.sweep.results import Results, Row
from distill.sweep.runs import Measured, Setting
from distill.sweep.speed import Speed

TEACHER = "teacher"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class Outcome:
    """One configuration over its seeds.

    Attributes:
        settings: all of them but the seed.
        keys, values: of each of `seeds`, the row and its dev metric.
        failed: the seeds whose runs failed.
        score: mean over seeds of the metric that configurations are chosen by, the higher the better.
        over_seeds: t interval, the dev table's examples taken as given.
        overall: bootstrap interval over seeds and examples.
        kept: the share of the teacher's metric, with its bootstrap interval; None where a share means nothing.
    """

    settings: dict[str, Any]
    architecture: str
    parameters: int
    seeds: list[int]
    keys: list[str]
    values: list[float]
    failed: list[int]
    score: float
    over_seeds: Interval
    overall: Interval
    kept: Interval | None


@dataclass(frozen=True)
class Contest:
    """The best configurations of two methods (or other values of the setting compared) for one kind of student.

    Attributes:
        seeds: those that both have.
        p_adjusted: the bootstrap's p, put right for the number of contests (Holm).
    """

    architecture: str
    first: Any
    second: Any
    seeds: list[int]
    comparison: Comparison
    p_adjusted: float


@dataclass(frozen=True)
class Summary:
    """A sweep summed up.

    Attributes:
        chosen_on: what picked epochs and configurations: `dev`, which flatters its figures a little, or `holdout`.
        teacher: its dev metric.
        compared: the setting that `contests` compare.
        outcomes: every configuration that has a student.
        best: for each kind of student and value of `compared` the best of the outcomes that no seed failed.
        speeds: of each kind of student, and of the `teacher`.
    """

    metric: str
    chosen_on: str
    dev: str
    rows: int
    failed: int
    teacher: float
    compared: str
    outcomes: list[Outcome]
    best: list[Outcome]
    contests: list[Contest]
    speeds: dict[str, Speed]


class _Resampled:
    """The dev metric of each run on the same resamples of the examples."""

    def __init__(self, setting: Setting, metric: str):
        self._setting = setting
        self._metric = metric
        self._counts = draw_examples(len(setting.dev))

    def of(self, answers: NDArray[Any]) -> NDArray[np.float64]:
        """`[resamples]`."""
        return resampled_metric(self._setting.task, self._metric, answers, self._setting.targets, self._counts)


def summarise(
    rows: Sequence[Row],
    results: Results,
    setting: Setting,
    metric: str,
    compared: str,
    teacher: Measured,
    speeds: dict[str, Speed],
) -> Summary:
    """Sums the rows up, and writes `summary.json` beside them."""
    resampled = _Resampled(setting, metric)
    of_teacher = resampled.of(teacher.answers)
    of_runs = {row.key: resampled.of(results.answers(row.key)) for row in rows if row.dev is not None}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row.configuration, sort_keys=True), []).append(row)
    outcomes = [
        _outcome(group, of_runs, metric, teacher.metrics[metric], of_teacher)
        for group in groups.values()
        if any(row.dev is not None for row in group)
    ]
    best = _best(outcomes, compared)
    contests = [
        _contest(first, second, of_runs, compared)
        for first, second in itertools.combinations(best, 2)
        if first.architecture == second.architecture and set(first.seeds) & set(second.seeds)
    ]
    adjusted = holm([contest.comparison.p_bootstrap for contest in contests])
    summary = Summary(
        metric=metric,
        chosen_on="dev" if setting.chosen_on == setting.dev.source else "holdout",
        dev=setting.dev.describe()["name"],
        rows=len(setting.dev),
        failed=len({row.key for row in rows if row.failed is not None}),
        teacher=teacher.metrics[metric],
        compared=compared,
        outcomes=outcomes,
        best=best,
        contests=[replace(contest, p_adjusted=p) for contest, p in zip(contests, adjusted, strict=True)],
        speeds=speeds,
    )
    with durable_file(results.directory / SUMMARY_FILE) as path:
        write_json(path, {"confidence": CONFIDENCE, "resamples": RESAMPLES, **asdict(summary)})
    return summary


def _outcome(
    group: Sequence[Row],
    resampled: Mapping[str, NDArray[np.float64]],
    metric: str,
    teacher: float,
    of_teacher: NDArray[np.float64],
) -> Outcome:
    """
    Args:
        group: the rows of one configuration; a random search may have drawn it twice.
        resampled: the metric of each run on each resample, by its key.
    """
    runs = {row.settings["seed"]: row for row in group}
    done = [(seed, row, row.dev, row.chosen_on) for seed, row in sorted(runs.items()) if row.dev and row.chosen_on]
    seeds, rows, dev, chosen_on = (list(part) for part in zip(*done, strict=True))
    values = [metrics[metric] for metrics in dev]
    draws = np.stack([resampled[row.key] for row in rows])
    # There is no share of an error, nor of a metric that is 0 or may be drawn so.
    shared = metric not in LOWER_IS_BETTER and min(teacher, of_teacher.min()) > 0
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return Outcome(
        settings=rows[0].configuration,
        architecture=rows[0].architecture,
        parameters=rows[0].parameters,
        seeds=seeds,
        keys=[row.key for row in rows],
        values=values,
        failed=sorted(runs.keys() - set(seeds)),
        score=sign * float(np.mean([metrics[metric] for metrics in chosen_on])),
        over_seeds=t_interval(values),
        overall=bootstrap_interval(values, draws),
        kept=bootstrap_interval(np.array(values) / teacher, draws / of_teacher) if shared else None,
    )


def _best(outcomes: Sequence[Outcome], compared: str) -> list[Outcome]:
    """The best by kind of student and value of the setting compared; one with a failed seed is none."""
    best: dict[tuple[str, Any], Outcome] = {}
    for outcome in outcomes:
        group = (outcome.architecture, outcome.settings[compared])
        if not outcome.failed and (group not in best or outcome.score > best[group].score):
            best[group] = outcome
    return list(best.values())


def _contest(first: Outcome, second: Outcome, resampled: Mapping[str, NDArray[np.float64]], compared: str) -> Contest:
    seeds = sorted(set(first.seeds) & set(second.seeds))
    pairs = [(first.seeds.index(seed), second.seeds.index(seed)) for seed in seeds]
    observed = [first.values[own] - second.values[other] for own, other in pairs]
    draws = np.stack([resampled[first.keys[own]] - resampled[second.keys[other]] for own, other in pairs])
    result = compare(observed, draws)
    return Contest(
        first.architecture, first.settings[compared], second.settings[compared], seeds, result, result.p_bootstrap
    )
