"""The cascade on labelled texts: `python -m benchmarks.cascade STUDENT TEACHER --data DEV --json OUT`.

For each target of agreement the threshold is fitted as the server fits it, on some of the texts, and judged on the
others (folds in turn), so that no figure comes from texts that it was fitted on. The compute is the models' processor
time for those texts, the teacher's for the escalated ones alone, measured in turn with the teacher's for all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.measure import significant
from common.errors import InputError, UnderstudyError
from common.examples import BY_USUAL_NAMES, read_examples
from common.files import write_json
from common.tokenization import Encoded, Text
from serve.cascade import check_pair, fit_threshold, unsure
from serve.engine import Engine, Prediction

TARGETS = (0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 1.0)
# What the cascade promises: this share of the teacher's accuracy at this share of its compute.
LEAST_KEPT, MOST_COMPUTE = 0.998, 0.5


@dataclass(frozen=True)
class Point:
    """What a cascade does on texts that its threshold was not fitted on.

    Attributes:
        target: of agreement, that was fitted for; None for the student alone.
        thresholds: of the folds.
        escalated: share of texts that the teacher answers.
        agreement: share answered as the teacher answers.
        accuracy: share answered rightly.
        kept: accuracy over the teacher's.
        compute: processor time over the teacher's alone.
    """

    target: float | None
    thresholds: list[float]
    escalated: float
    agreement: float
    accuracy: float
    kept: float
    compute: float


def measure(
    student: Engine,
    teacher: Engine,
    texts: Sequence[Text],
    labels: Sequence[str],
    *,
    folds: int,
    rounds: int,
    seed: int,
) -> dict[str, Any]:
    """The points of all targets.

    Args:
        labels: the true ones.
        folds: parts of the texts; each is judged by a threshold from the others.
        rounds: times that the compute is measured.
    """
    encoded = {
        engine: [text for text in engine.prepare(texts) if isinstance(text, Encoded)] for engine in (student, teacher)
    }
    own, other = (engine.run_sorted(encoded[engine]) for engine in (student, teacher))
    fold = np.random.default_rng(seed).permutation(len(texts)) % folds
    teacher_accuracy = _accuracy([answer.answer for answer in other], labels)
    plans: list[tuple[float | None, list[float], list[int]]] = [(None, [], [])]
    for target in TARGETS:
        thresholds: list[float] = []
        escalated: list[int] = []
        for part in range(folds):
            rest, held = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
            fit = fit_threshold([own[row] for row in rest], [other[row] for row in rest], target)
            thresholds.append(fit.threshold)
            escalated += [int(held[row]) for row in unsure([own[row] for row in held], fit.threshold)]
        plans.append((target, thresholds, sorted(escalated)))
    compute = _compute(student, teacher, encoded, [rows for *_, rows in plans], rounds)
    points = []
    for (wanted, fitted, rows), share in zip(plans, compute, strict=True):
        asked = set(rows)
        answers = [(other if row in asked else own)[row].answer for row in range(len(texts))]
        accuracy = _accuracy(answers, labels)
        points.append(
            Point(
                target=wanted,
                thresholds=[round(threshold, 4) for threshold in fitted],
                escalated=significant(len(rows) / len(texts)),
                agreement=significant(_accuracy(answers, [answer.answer for answer in other])),
                accuracy=significant(accuracy),
                kept=significant(accuracy / teacher_accuracy),
                compute=significant(share),
            )
        )
    return {
        "student": _about(student, own, labels),
        "teacher": _about(teacher, other, labels),
        "texts": len(texts),
        "folds": folds,
        "points": [asdict(point) for point in points],
        "held": any(point.kept >= LEAST_KEPT and point.compute <= MOST_COMPUTE for point in points),
    }


def _compute(
    student: Engine, teacher: Engine, encoded: dict[Engine, list[Encoded]], plans: Sequence[Sequence[int]], rounds: int
) -> list[float]:
    """The plans' processor time over the teacher's for all texts: medians of ratios, measured in turn."""
    ratios: list[list[float]] = [[] for _ in plans]
    for _ in range(rounds):
        first = _seconds(student, encoded[student])
        for kept, rows in zip(ratios, plans, strict=True):
            second = _seconds(teacher, [encoded[teacher][row] for row in rows]) if rows else 0.0
            kept.append((first + second) / _seconds(teacher, encoded[teacher]))
    return [median(kept) for kept in ratios]


def _seconds(engine: Engine, encoded: list[Encoded]) -> float:
    started = time.process_time()
    engine.run_sorted(encoded)
    return time.process_time() - started


def _accuracy(answers: Sequence[str], labels: Sequence[str]) -> float:
    return sum(answer == label for answer, label in zip(answers, labels, strict=True)) / len(labels)


def _about(engine: Engine, answers: Sequence[Prediction], labels: Sequence[str]) -> dict[str, Any]:
    manifest = engine.bundle.manifest
    accuracy = significant(_accuracy([answer.answer for answer in answers], labels))
    return {"name": engine.name, "layers": manifest.layers, "precision": manifest.precision, "accuracy": accuracy}


def _print(result: dict[str, Any]) -> None:
    teacher, student = result["teacher"], result["student"]
    print(
        f"{student['name']} ({student['layers']} layers, {student['precision']}, accuracy {student['accuracy']}) under "
        f"{teacher['name']} ({teacher['layers']} layers, {teacher['precision']}, accuracy {teacher['accuracy']}), "
        f"{result['texts']:,} texts, thresholds fitted on other texts than these figures are of"
    )
    print(f"{'target':>7} {'escalated':>10} {'agreement':>10} {'accuracy':>9} {'kept':>8} {'compute':>8}")
    for point in result["points"]:
        target = "alone" if point["target"] is None else f"{point['target']:.1%}"
        print(
            f"{target:>7} {point['escalated']:>10.1%} {point['agreement']:>10.2%} {point['accuracy']:>9.2%} "
            f"{point['kept']:>8.2%} {point['compute']:>7.2f}x"
        )
    verdict = "held" if result["held"] else "MISSED"
    print(f"at least {LEAST_KEPT:.1%} of the teacher's accuracy at {MOST_COMPUTE:.0%} of its compute: {verdict}")


def main() -> None:
    """Parses the arguments, measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description="A student's cascade with its teacher")
    parser.add_argument("student", type=Path, help="the student's bundle")
    parser.add_argument("teacher", type=Path, help="the teacher's bundle")
    parser.add_argument("--data", required=True, help="labelled table of texts")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of the compute")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    given = parser.parse_args()
    try:
        examples = read_examples(given.data, BY_USUAL_NAMES, split="validation")
        student, teacher = Engine.load(given.student), Engine.load(given.teacher)
        check_pair(student, teacher)
        if not 2 <= given.folds <= len(examples):
            raise InputError(f"folds must lie between 2 and the {len(examples)} rows")
        result = measure(
            student,
            teacher,
            examples.texts,
            examples.labels,
            folds=given.folds,
            rounds=given.rounds,
            seed=given.seed,
        )
    except UnderstudyError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    write_json(given.json, {"machine": describe_machine(), "data": examples.describe(), **result})
    _print(result)


if __name__ == "__main__":
    main()
