import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.batches import shuffled_batches, sorted_batches

LENGTHS = st.lists(st.integers(1, 128), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 1000))
def test_every_row_comes_once(lengths: list[int], size: int, seed: int) -> None:
    batches = list(shuffled_batches(lengths, size, torch.Generator().manual_seed(seed)))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert sorted(row for batch in sorted_batches(lengths, size) for row in batch) == list(range(len(lengths)))


def test_the_order_follows_the_seed_alone() -> None:
    lengths = list(range(1, 200))
    first, again, other = (
        list(shuffled_batches(lengths, 8, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_batches_are_of_like_length() -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 128, (1024,), generator=draw).tolist()
    batches = list(shuffled_batches(lengths, 32, draw))
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
