"""Which texts are measured."""

from __future__ import annotations

import random

import pytest

from benchmarks.bench.texts import LengthBin, bins_by_length, evenly, neighbours
from common.tokenization import Text, TextEncoder


def _bins(texts: list[Text], encoder: TextEncoder, seed: int = 0) -> dict[str, LengthBin]:
    lengths = [encoded.tokens for encoded in encoder.encode(texts)]
    return {part.name: part for part in bins_by_length(texts, lengths, encoder, random.Random(seed))}


def test_every_real_text_is_in_its_bin(messages: list[str], encoder: TextEncoder) -> None:
    bins = _bins(list(messages), encoder)
    real = [text for part in bins.values() for text in part.texts[: len(part.texts) - part.joined]]
    assert sorted(map(str, real)) == sorted(messages)
    for part in bins.values():
        for encoded in encoder.encode(part.texts):
            assert part.low <= encoded.tokens <= (part.high or encoder.max_length)


def test_texts_are_joined_where_the_data_is_too_short(encoder: TextEncoder) -> None:
    texts: list[Text] = [f"my parcel number {number} is late" for number in range(12)]
    bins = _bins(texts, encoder)
    assert list(bins) == ["≤16", "17–32", "33–64"]  # nothing beyond the encoder's 64 tokens
    assert bins["≤16"].joined == 0
    longer = bins["33–64"]
    assert longer.joined == len(longer.texts) > 0
    first = str(longer.texts[0])
    assert sum(str(text) in first for text in texts) >= 2
    assert not any(encoded.truncated for encoded in encoder.encode(longer.texts))


def test_bins_follow_the_seed(messages: list[str], encoder: TextEncoder) -> None:
    texts: list[Text] = list(messages)
    assert _bins(texts, encoder, 1) == _bins(texts, encoder, 1)
    assert _bins(texts, encoder, 1) != _bins(texts, encoder, 2)


def test_pairs_are_joined_side_by_side(encoder: TextEncoder) -> None:
    pairs: list[Text] = [("where is it", "lost"), ("too late", "a delay")]
    joined = _bins(pairs, encoder)["17–32"].texts[0]
    assert isinstance(joined, tuple)
    assert "where is it" in joined[0]
    assert "a delay" in joined[1]


def test_one_text_makes_a_bin(encoder: TextEncoder) -> None:
    assert "≤16" in _bins(["hello"], encoder)


def test_neighbours_are_groups_of_like_length() -> None:
    texts: list[Text] = [str(length) for length in range(100)]
    random.Random(0).shuffle(texts)
    lengths = [int(str(text)) for text in texts]
    assert neighbours(texts, lengths, 10, 2) == [str(length) for length in (*range(20, 30), *range(70, 80))]
    assert neighbours(texts, lengths, 10, 1) == [str(length) for length in range(45, 55)]
    assert neighbours(texts, lengths, 10, 99) == [str(length) for length in range(100)]
    assert neighbours(["b", "a"], [2, 1], 32, 1) == ["a", "b"]


def test_neighbours_resemble_the_texts() -> None:
    for count in (260, 352, 1000):
        texts: list[Text] = [str(length) for length in range(count)]
        for groups in (4, 8):
            chosen = [int(str(text)) for text in neighbours(texts, range(count), 32, groups)]
            assert len(set(chosen)) == 32 * groups
            assert sum(chosen) / len(chosen) == pytest.approx((count - 1) / 2, abs=1)
            assert max(chosen) > 0.85 * count


@pytest.mark.parametrize("count", [3, 12, 17, 40, 100])
def test_any_beginning_of_an_even_order_stands_for_all(count: int) -> None:
    draw = random.Random(0)
    sizes = draw.sample(range(10_000), 500)
    order = evenly(range(500), sizes)
    assert sorted(order) == list(range(500))
    ranks = sorted(sorted(sizes).index(sizes[item]) for item in order[:count])
    assert all(abs(rank / 500 - (place + 0.5) / count) < 1.2 / count for place, rank in enumerate(ranks))


def test_texts_without_tokens_are_not_joined_for_ever(encoder: TextEncoder) -> None:
    assert list(_bins([" ", "\u200b"], encoder)) == ["≤16"]
