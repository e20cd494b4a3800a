"""What is drawn depends on the space, the seed and the scores alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distill.sweep.search import configurations
from distill.sweep.space import Configuration, Range, Search, Variant

VARIANT = Variant(
    {"layers": (2,), "learning_rate": Range(1e-5, 1e-3, log=True), "epochs": Range(1, 4), "method": ("kd", "pkd-skip")},
    (0, 1),
)


def drawn(
    search: Search, score: Callable[[Configuration], float | None], variant: Variant = VARIANT
) -> list[Configuration]:
    found = []
    proposals = configurations(variant, search)
    answer = None
    while True:
        try:
            found.append(proposals.send(answer))
        except StopIteration:
            return found
        answer = score(found[-1])


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_the_same_scores_draw_the_same_and_each_value_is_in_its_bounds(kind: str) -> None:
    def score(configuration: Configuration) -> float | None:
        # A failed run does not throw the order of the others.
        return None if configuration["epochs"] == 3 else -abs(configuration["learning_rate"] - 1e-4)

    first = drawn(Search(kind, 25, seed=4), score)
    assert first == drawn(Search(kind, 25, seed=4), score)
    assert first != drawn(Search(kind, 25, seed=5), score)
    assert len(first) == 25
    for configuration in first:
        assert list(configuration) == list(VARIANT.choices)
        assert 1e-5 <= configuration["learning_rate"] <= 1e-3
        assert configuration["epochs"] in (1, 2, 3, 4)
        assert type(configuration["epochs"]) is int
        assert configuration["layers"] == 2
    assert {configuration["method"] for configuration in first} == {"kd", "pkd-skip"}


def test_tpe_learns_from_the_scores_and_random_does_not() -> None:
    variant = Variant({"alpha": Range(0.0, 1.0)}, (0,))

    def spread(kind: str) -> float:
        found = drawn(Search(kind, 40, seed=0), lambda configuration: -abs(configuration["alpha"] - 0.3), variant)
        return sum(abs(configuration["alpha"] - 0.3) for configuration in found[20:]) / 20

    assert spread("tpe") < spread("random") / 2
    low = drawn(Search("random", 5), lambda _: 0.0, variant)
    assert low == drawn(Search("random", 5), lambda configuration: configuration["alpha"], variant)


def test_a_grid_is_gone_through_whatever_the_scores() -> None:
    variant = Variant({"layers": (2, 3), "alpha": (0.1, 0.9)}, (0,))
    found = drawn(Search(), lambda configuration: configuration["alpha"], variant)
    assert found == list(variant.grid())
    assert len(found) == 4
