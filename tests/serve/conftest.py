"""Fixtures of the tests of serving."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serve import scheduler as scheduler_module


@pytest.fixture(scope="module")
def quick_clock() -> Iterator[None]:
    """What is late is noticed soon."""
    usual, scheduler_module._CLOCK_SECONDS = scheduler_module._CLOCK_SECONDS, 0.002
    yield
    scheduler_module._CLOCK_SECONDS = usual
