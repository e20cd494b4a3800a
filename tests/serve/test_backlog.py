"""What is owed is counted in seconds of the model that owes it."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from serve.backlog import Backlog
from tests.scheduling import Model, text_of


def models(count: int) -> list[Any]:
    return [Model(number) for number in range(count)]


def test_each_model_works_at_its_own_rate() -> None:
    student, teacher, unknown = models(3)
    backlog = Backlog()
    backlog.ran(student, 500, 5000.0)
    backlog.ran(teacher, 500, 250.0)
    with backlog.admitted(student, [text_of(1, 500)]), backlog.admitted(teacher, [text_of(1, 300), text_of(2, 200)]):
        assert (backlog.tokens, backlog.items) == (1000, 3)
        assert backlog.seconds == pytest.approx(0.1 + 2.0)
        with backlog.admitted(unknown, [text_of(1, 900)]):
            assert backlog.seconds == pytest.approx(2.1)
        # The student's text is one for the teacher after all.
        with backlog.owing(teacher, 250):
            assert (backlog.tokens, backlog.items) == (1000, 3)
            assert backlog.seconds == pytest.approx(3.1)
    assert (backlog.tokens, backlog.items, backlog.seconds) == (0, 0, 0)


def test_a_small_batch_tells_no_rate_but_betters_one() -> None:
    (model,) = models(1)
    backlog = Backlog()
    with backlog.admitted(model, [text_of(1, 1000)]):
        backlog.ran(model, 10, 5.0)
        assert backlog.seconds == 0
        backlog.ran(model, 128, 20.0)
        assert backlog.seconds == pytest.approx(50)
        backlog.ran(model, 10, 5.0)
        assert backlog.seconds == pytest.approx(50)
        backlog.ran(model, 10, 100.0)
        assert backlog.seconds == pytest.approx(10)
        backlog.ran(model, 128, 5.0)
        assert backlog.seconds == pytest.approx(10 / 0.99)


def test_a_model_that_was_replaced_is_forgotten() -> None:
    (model,) = models(1)
    backlog = Backlog()
    backlog.ran(model, 500, 5000.0)
    with backlog.admitted(model, [text_of(1, 500)]):
        pass
    del model
    gc.collect()
    assert not backlog._rates
    assert not backlog._owed
