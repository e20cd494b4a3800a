"""Rows of two segments: what is cut, what is exchanged, and what the objective makes of them."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.errors import InputError
from distill.pretraining.settings import PretrainingSettings
from distill.pretraining.xlnet_rows import cut_in_two, one_segment, two_segments
from kernels.xlnet import unfuse
from tests.distill.pretraining.test_permutation import CLS, SEP, _draw, _objective, _sequences


def _rows(lengths: list[int]) -> list[list[int]]:
    """No token stands twice, so that each tells where it comes from."""
    starts = [1000 * row for row in range(len(lengths))]
    return [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]


def test_a_row_by_hand() -> None:
    row = two_segments([11, 12, 13], [21, 22], SEP, CLS)
    assert row.ids == [11, 12, 13, SEP, 21, 22, SEP, CLS]
    assert row.segments == [0, 0, 0, 0, 1, 1, 1, 2]
    assert row.text == [0, 1, 2, 4, 5]
    assert vars(one_segment([11, 12], SEP, CLS)) == {
        "ids": [11, 12, SEP, CLS],
        "segments": [0, 0, 0, 2],
        "text": [0, 1],
    }


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    reused=st.integers(0, 10),
    half=st.integers(0, 6),
    seed=st.integers(0, 2**32),
)
def test_the_second_follows_the_first_or_ends_another_row_of_the_group(
    lengths: list[int], reused: int, half: int, seed: int
) -> None:
    rows, half = _rows(lengths), min(half, len(lengths))
    groups = [range(half), range(half, len(rows))]
    for number, (first, second) in enumerate(cut_in_two(rows, reused, groups, _draw(seed))):
        ids = rows[number]
        assert first == ids[: len(first)]
        if len(ids) - reused < 2:
            assert (first, second) == (ids, [])
            continue
        assert len(first) > reused
        place = len(ids) - len(first)
        if second == ids[len(first) :]:
            continue
        other = second[0] // 1000
        assert other != number
        assert any(other in group and number in group for group in groups)
        assert second == rows[other][-len(second) :]
        assert 1 <= len(second) <= place
        assert second[0] - 1000 * other >= reused


def test_half_of_the_seconds_are_of_another_row_and_cuts_lie_anywhere() -> None:
    rows = _rows([12] * 4)
    draw = _draw()
    drawn = [pair for _ in range(1000) for pair in enumerate(cut_in_two(rows, 2, [range(4)], draw))]
    foreign = [second[0] // 1000 for number, (_, second) in drawn if second[0] // 1000 != number]
    assert len(foreign) / len(drawn) == pytest.approx(0.5, abs=0.04)
    assert all(foreign.count(row) / len(foreign) == pytest.approx(0.25, abs=0.04) for row in range(4))
    cuts = [len(first) for _, (first, _) in drawn]
    assert {cut: cuts.count(cut) for cut in range(3, 12)}.keys() == set(cuts)
    assert all(cuts.count(cut) / len(cuts) == pytest.approx(1 / 9, abs=0.03) for cut in range(3, 12))


@hypothesis_settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 21), min_size=2, max_size=4),
    reuse=st.none() | st.integers(1, 15),
    seed=st.integers(0, 2**32),
)
def test_separators_are_no_targets_and_what_is_remembered_sees_neither_segment(
    lengths: list[int], reuse: int | None, seed: int
) -> None:
    objective = _objective(segments=2, reuse_length=reuse)
    batch = objective.batch(_sequences(lengths), _draw(seed))
    for row, length in enumerate(lengths):
        ids, segments, hidden = (batch[name][row] for name in ("input_ids", "token_type_ids", "perm_mask"))
        used = batch["labels"][row] != -100
        targets = batch["target_mapping"][row][used].argmax(1)
        special = (ids == SEP) | (ids == CLS)
        assert not special[targets].any()
        assert batch["labels"][row][used].tolist() == ids[targets].tolist()
        assert segments[ids == CLS].tolist() == [2]
        assert segments[ids == SEP].tolist() in ([0], [0, 1])
        first = min(reuse or 0, length)
        assert hidden[:first, first:].all()
        assert int(batch["kept"][row]) == (length if reuse is None else first)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_loss_is_that_of_transformers(bidirectional: bool) -> None:
    objective = _objective(segments=2, bidirectional=bidirectional)
    batch = objective.batch(_sequences([21, 17, 12, 20]), _draw(3))
    assert {tuple(row.unique().tolist()) for row in batch["token_type_ids"]} == {(0, 1, 2)}
    stock = unfuse(copy.deepcopy(objective.encoder))
    stock.transformer.bi_data = bidirectional
    names = ("input_ids", "token_type_ids", "perm_mask", "target_mapping")
    given_to_it = {name: batch[name].float() if name == "perm_mask" else batch[name] for name in names}
    with torch.no_grad():
        logits = stock(**given_to_it).logits
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    with torch.no_grad():
        terms = objective(batch)
    assert float(terms["loss"]) == pytest.approx(float(want), abs=1e-5)
    # The segments' encodings are part of it.
    objective.encoder.transformer.layer[0].rel_attn.seg_embed.data.zero_()
    with torch.no_grad():
        assert float(objective(batch)["loss"]) != pytest.approx(float(want), abs=1e-5)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="segments must be 1 or 2"):
        PretrainingSettings("permutation", segments=3)
    with pytest.raises(InputError, match="memory_length needs a reuse_length"):
        PretrainingSettings("permutation", segments=2, memory_length=8)
    with pytest.raises(InputError, match="segments is of use with permutation alone"):
        PretrainingSettings("masked", segments=2)
    with pytest.raises(InputError, match="less the 3 special tokens"):
        _objective(segments=2, reuse_length=22)
