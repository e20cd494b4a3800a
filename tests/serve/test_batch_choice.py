"""Which texts make up a batch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.batching import BatchLimits
from serve.batch_choice import RUN_TOKENS, choose_batch


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60).map(sorted), st.data())
def test_a_batch_holds_the_anchor_within_the_limits(lengths: list[int], data: st.DataObject) -> None:
    anchor = data.draw(st.integers(0, len(lengths) - 1))
    limits = BatchLimits(data.draw(st.integers(1, 40)), data.draw(st.integers(1, 2000)))
    cost = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    chosen = choose_batch(lengths, anchor, limits, cost)
    assert anchor in chosen
    assert len(chosen) == 1 or (len(chosen) <= limits.items and len(chosen) * lengths[chosen[-1]] <= limits.tokens)
    # Each text but the anchor causes less padding than a run of its own would cost.
    padding = sum(lengths[chosen[-1]] - lengths[place] for place in chosen)
    assert padding * cost <= RUN_TOKENS * (len(chosen) - 1)


def test_texts_of_like_length_go_together() -> None:
    assert choose_batch([4, 5, 5, 5, 60], 2, BatchLimits()) == range(0, 4)
    assert choose_batch([4, 5, 5, 5, 60], 4, BatchLimits()) == range(4, 5)
    # Where padding costs nothing, any will do.
    assert choose_batch([4, 5, 5, 5, 60], 2, BatchLimits(), 0) == range(0, 5)
