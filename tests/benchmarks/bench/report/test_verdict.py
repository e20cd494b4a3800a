"""The verdict's words and the table of the main figures."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.bench.report.schema import Results, parse_results
from benchmarks.bench.report.summary import print_summary, summary_rows
from benchmarks.bench.report.verdict import noise_sentence, report_title, verdicts
from tests.benchmarks.bench.factory import estimate, make_results, remote


def _sentences(results: Results) -> str:
    (verdict,) = verdicts(results)
    return "\n".join([verdict.headline, *verdict.loses, *verdict.gains])


def _ratios(results: dict[str, Any], value: float, low: float, high: float) -> dict[str, Any]:
    """The same results with other ratios of the student's times."""
    results["single_stream"]["models"]["student"]["ratio_p50"] = {"value": value, "low": low, "high": high}
    return results


def test_what_is_lost_and_gained_is_said_with_intervals() -> None:
    results = parse_results(make_results())
    said = _sentences(results)
    assert said.splitlines()[0] == (
        "student: 2.00× as fast as the teacher (one text at a time), keeps 98.3 % of the teacher's accuracy."
    )
    assert "Accuracy 0.9083 against 0.9243: 98.3 % (97.0 to 99.5 %) is kept." in said
    assert "the student alone is right 15 times" in said.lower()
    assert "Same label as the teacher: 95.1 % (93.4 to 96.3 %) of 872 texts." in said
    assert "One text at a time: 2.00× (1.96 to 2.04×) as fast (p50 4.00 ms against 8.00 ms)." in said
    assert "Random arrivals, p99 within 50 ms: 2.00× (1.95 to 2.05×) as many" in said
    assert "69.3 MB on disk against 90.6 MB, 180 MB of memory at most against 220 MB." in said
    assert "A million texts cost 0.0556 against 0.111." in said
    assert noise_sentence(results).startswith("The machine was steady")


def test_a_slower_student_is_not_sold_as_a_faster_one() -> None:
    said = _sentences(parse_results(_ratios(make_results(), 2.0, 1.9, 2.1)))
    assert "student: 0.50× as fast as the teacher" in said


def test_a_difference_within_noise_is_none() -> None:
    said = _sentences(parse_results(_ratios(make_results(), 0.98, 0.9, 1.05)))
    assert "student: no difference in speed that this run can tell" in said
    assert "which is no difference that this run can tell" in said


def test_a_noisy_run_refuses_the_verdict_on_speed_alone() -> None:
    results = parse_results(make_results(noisy=True))
    said = _sentences(results)
    assert "no verdict on speed" in said
    assert " as fast" not in said
    assert "A million texts" not in said  # follows from speed
    assert "keeps 98.3 %" in said
    assert "on disk" in said
    assert noise_sentence(results).startswith("NO VERDICT ON SPEED")
    rows = dict(summary_rows(results))
    assert rows["p50 of one text"][1].notes[-1].endswith("as fast, noisy")


@pytest.mark.parametrize(("p", "said"), [(0.0488, "is beyond chance"), (0.3, "cannot be told from chance")])
def test_mcnemar_decides_on_the_difference_in_quality(p: float, said: str) -> None:
    results = make_results()
    results["agreement"]["models"]["student"]["mcnemar"]["p"] = p
    assert said in _sentences(parse_results(results))


@pytest.mark.parametrize(("high", "said"), [(0.99, "is beyond chance"), (1.01, "cannot be told from chance")])
def test_without_it_the_interval_of_the_retention_does(high: float, said: str) -> None:
    results = make_results()
    results["agreement"]["models"]["student"]["mcnemar"] = None
    results["quality"]["models"]["student"]["retention"] = {"value": 0.98, "low": 0.97, "high": high}
    assert said in _sentences(parse_results(results))


def test_without_labels_the_loss_is_said_to_be_unknown() -> None:
    said = _sentences(parse_results(make_results(labelled=False)))
    assert "has no labels" in said
    assert "same label as the teacher: 95.1 %" in said.splitlines()[0]


def test_numbers_are_told_by_their_correlation() -> None:
    results = make_results(labelled=False)
    results["agreement"]["models"]["student"].update(
        name="Pearson correlation", value=estimate(0.97), mcnemar=None, agreed={}, confusion=[]
    )
    assert "Pearson correlation: 0.9700 (0.9506 to 0.9894) of 872 texts." in _sentences(parse_results(results))


def test_without_scenarios_there_is_still_quality() -> None:
    results = make_results(scenarios=())
    results.update(cost=None, roofline=None)
    (verdict,) = verdicts(parse_results(results))
    assert verdict.headline == "student: keeps 98.3 % of the teacher's accuracy."


def test_the_table_leaves_out_what_nobody_has() -> None:
    names = [name for name, _ in summary_rows(parse_results(make_results(labelled=False, scenarios=("offline",))))]
    assert "all texts at once" in names
    assert not {"accuracy", "p50 of one text", "p50 of 8 texts"} & set(names)


def test_every_row_of_the_table_has_an_entry_for_each_model() -> None:
    for results in (make_results(3), remote(make_results(2))):
        rows = summary_rows(parse_results(results))
        assert {len(entries) for _, entries in rows} == {len(results["models"])}


def test_the_terminal_shows_table_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    results = make_results(2)
    results["models"][1]["precision"] = "[bold]int8"  # no markup of rich's
    print_summary(parse_results(results))
    printed = capsys.readouterr().out
    assert "[bold]int8" in printed
    assert "student-2: 4.00× as fast" in printed
    assert report_title(parse_results(results)) == "student, student-2 against teacher"


def test_models_that_are_right_on_the_same_rows_have_no_difference_to_test() -> None:
    results = make_results()
    results["agreement"]["models"]["student"]["mcnemar"] = {"student_only": 0, "teacher_only": 0, "p": 1.0}
    said = _sentences(parse_results(results))
    assert "Student and teacher are right on the same ones of 872 rows." in said
    assert "McNemar" not in said


def test_a_quiet_machine_is_not_blamed_for_too_few_rounds() -> None:
    results = make_results(noisy=True)
    results["noise"].update(spread=0.02, reasons=["3 rounds are too few for an interval"])
    said = noise_sentence(parse_results(results))
    assert said.startswith("NO VERDICT ON SPEED: 3 rounds are too few for an interval.")
    assert "too noisy" not in said
    assert "quiet machine" not in said
