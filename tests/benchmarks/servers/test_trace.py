"""Requests become rates, counts, percentiles and the time of a recovery."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.servers.trace import Fate, Trace


def make_trace(fate: list[int], took: list[float] | float = 0.01, lag: list[float] | float = 0.0) -> Trace:
    """A request every tenth of a second."""
    scheduled = np.arange(len(fate)) / 10
    gone = np.isin(fate, (Fate.LATE, Fate.CROWDED))
    sent = np.where(gone, np.nan, scheduled + lag)
    return Trace(
        seconds=len(fate) / 10,
        scheduled=scheduled,
        sent=sent,
        answered=np.where(np.array(fate) >= 100, sent + took, np.nan),
        fate=np.array(fate, np.int16),
        doubled=np.zeros(len(fate), np.int16),
        retry_after=np.array(fate) == 429,
        opening=np.arange(len(fate)) == 0,
        connections=3,
        cpu_seconds=0.5,
    )


def test_every_fate_is_counted_once() -> None:
    fate = [200, 200, 200, 429, 504, 503, 503, *Fate]
    trace = make_trace(fate)
    figures = trace.figures()
    assert (figures["ok"], figures["refused"], figures["other_statuses"]) == (3, 1, {"503": 2, "504": 1})
    assert figures["not_sent"] == {"late": 1, "no_free_connection": 1}
    assert [figures[kind] for kind in ("wrong", "missing", "connection_errors", "doubled")] == [1, 1, 1, 0]
    assert (figures["offered"], figures["offered_per_s"]) == (12, 10)
    assert figures["sent_per_s"] == pytest.approx(10 * 10 / 12, rel=1e-5)
    assert figures["ok_per_s"] == pytest.approx(2.5)
    assert trace.faults == 6  # three statuses, and the last three fates that went out


def test_second_answers_are_faults() -> None:
    trace = make_trace([200, 429])
    trace.doubled[0] = 2
    assert (trace.faults, trace.figures()["doubled"]) == (2, 2)


def test_latency_counts_from_the_schedule_and_from_the_sending() -> None:
    figures = make_trace([200, 200, 429], took=[0.1, 0.3, 0.02], lag=0.01).figures()
    assert figures["ok_ms"]["p50"] == pytest.approx(210)
    assert figures["ok_ms"]["max"] == pytest.approx(310)
    assert figures["ok_from_sending_ms"]["p50"] == pytest.approx(200)
    assert figures["ok_on_open_connections_ms"]["p50"] == pytest.approx(300)  # the first opened its own
    assert figures["refused_from_sending_ms"]["max"] == pytest.approx(20)
    assert figures["lag_ms"]["p99"] == pytest.approx(10)


def test_refusals_without_retry_after_are_counted() -> None:
    trace = make_trace([429, 429, 200])
    trace.retry_after[0] = False
    assert trace.figures()["refused_without_retry_after"] == 1


def test_a_rate_is_held_without_much_lag_and_nothing_left_out() -> None:
    assert make_trace([200] * 20, lag=[0.0] * 19 + [1.0]).held
    assert not make_trace([200] * 20, lag=[0.0] * 15 + [1.0] * 5).held
    assert not make_trace([200] * 20 + [Fate.LATE]).held
    assert make_trace([200] * 20 + [Fate.CROWDED]).held
    assert make_trace([Fate.CROWDED]).held


def test_a_part_has_the_requests_scheduled_in_it() -> None:
    part = make_trace([200, 429, 429, 200, 200]).part(0.1, 0.3)
    assert (part.fate.tolist(), part.seconds, part.connections) == ([429, 429], pytest.approx(0.2), 3)
    assert part.retry_after.tolist() == [True, True]


@pytest.mark.parametrize(
    ("fate", "took", "expected"),
    [
        ([200] * 6, 0.01, 0.0),
        ([429, 429, 200, 200, 200], 0.01, 0.2),
        ([200, 200, 200, 429, 200, 200, 200], 0.01, 0.4),  # a refusal behind good answers: it had not recovered
        ([200] * 6, [1.0, 1.0, 0.01, 1.0, 0.01, 0.01], None),
        ([200] * 6, [1.0, 1.0, 0.01, 0.01, 0.01, 1.0], 0.2),
        ([Fate.MISSING] * 6, 0.01, None),
        ([200, 200], 0.01, None),
        ([], 0.01, None),
    ],
)
def test_recovery_is_the_first_run_of_usual_answers(
    fate: list[int], took: list[float] | float, expected: float | None
) -> None:
    overload = [429] * 10
    before = [0.01] * 10
    trace = make_trace(overload + fate, took=took if isinstance(took, float) else before + took)
    recovery = trace.recovery(1.0, usual=0.05, run=3)
    assert recovery == (None if expected is None else pytest.approx(expected))
