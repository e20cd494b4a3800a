"""The noise verdict on machines that drift, and on those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.bench.noise import LIMIT, MACHINE, ReferenceWork, judge_noise, spread
from benchmarks.bench.warm_up import WarmUp

WARM = {"teacher": WarmUp(20, settled=True), "student": WarmUp(24, settled=True)}


def judge(machine: np.ndarray, teacher: np.ndarray | None = None, student: np.ndarray | None = None):
    steady = np.ones(len(machine))
    series = {MACHINE: machine, "teacher": steady if teacher is None else teacher}
    return judge_noise({**series, "student": steady if student is None else student}, WARM)


def test_spread_is_the_standard_deviation_of_a_normal_machine() -> None:
    generator = np.random.default_rng(0)
    assert spread(generator.normal(1, 0.07, 100_000)) == pytest.approx(0.07, rel=0.02)
    assert spread(1000 * generator.normal(1, 0.07, 100_000)) == pytest.approx(0.07, rel=0.02)


def test_a_steady_machine_gives_a_verdict() -> None:
    noise = judge(np.random.default_rng(0).normal(1, 0.02, 9))
    assert (noise["verdict"], noise["reasons"]) == ("steady", [])
    assert noise["spread"] < LIMIT
    assert noise["warm_up"] == {"teacher": 20, "student": 24}


@pytest.mark.parametrize(
    "machine",
    [np.linspace(1, 2, 9), np.array([1.0] * 5 + [1.5] * 4), np.array([1.0, 1.4] * 4 + [1.0])],
    ids=["drift", "step", "alternating"],
)
def test_a_machine_that_changes_is_noisy(machine: np.ndarray) -> None:
    noise = judge(machine)
    assert noise["verdict"] == "noisy"
    assert "reference work" in noise["reasons"][0]
    assert noise["spread"] > LIMIT
    assert np.median(noise["rounds"][MACHINE]) == pytest.approx(1)


def test_two_disturbed_rounds_of_nine_are_no_noise() -> None:
    assert judge(np.array([1.0, 5.0, 1.01, 0.99, 1.0, 3.0, 1.0, 1.0, 1.0]))["verdict"] == "steady"


def test_one_models_noise_is_named() -> None:
    noise = judge(np.ones(9), student=np.linspace(1, 2, 9))
    assert len(noise["reasons"]) == 1
    assert noise["reasons"][0].startswith("student took from 0.67 to 1.33")


def test_a_model_that_is_not_warm_and_few_rounds_give_no_verdict() -> None:
    cold = {**WARM, "student": WarmUp(7, settled=False)}
    noise = judge_noise({MACHINE: [1.0, 1.0, 1.0], "teacher": [2.0] * 3, "student": [1.0] * 3}, cold)
    assert noise["verdict"] == "noisy"
    assert noise["reasons"] == [
        "student was still getting faster after 7 calls to warm up",
        "3 rounds are too few for an interval",
    ]


def test_the_reference_work_takes_time_and_leaves_its_numbers_alone() -> None:
    work = ReferenceWork()
    before = work._numbers.copy()
    assert work() > 0
    np.testing.assert_array_equal(work._numbers, before)
