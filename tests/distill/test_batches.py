import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.tokenization import Encoded
from distill.batches import TokenizedSet, shuffled_batches, sorted_batches

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


def test_rows_are_named_by_their_lines() -> None:
    encoded = [Encoded([row], [0], False) for row in range(5)]
    places = ["a, b.tsv, line 2", "a, b.tsv, line 10", "hub:x, row 1", "a, b.tsv, line 3"]
    data = TokenizedSet(encoded, np.zeros(3), places)
    assert data.where([3, 1, 4, 2]) == "a, b.tsv, lines 10, 3; hub:x, rows 1; made rows 4"


def test_the_hash_of_a_set_tells_rows_their_order_and_their_targets_apart() -> None:
    def hashes(rows: list[tuple[list[int], list[int]]], targets: list[int]) -> tuple[str, str]:
        data = TokenizedSet([Encoded(ids, types, False) for ids, types in rows], np.asarray(targets))
        return data.tokens_sha256, data.sha256

    one, two = ([1, 2], [0, 0]), ([3], [0])
    base = hashes([one, two], [0, 1])
    assert base == hashes([one, two], [0, 1])
    assert hashes([one, two], [1, 1])[0] == base[0]
    assert hashes([one, two], [1, 1])[1] != base[1]
    others = [[two, one], [one], [([1, 2], [0, 1]), two], [([1], [0]), ([2, 3], [0, 0])]]
    assert len({base[0], *(hashes(rows, [0, 1])[0] for rows in others)}) == 5
