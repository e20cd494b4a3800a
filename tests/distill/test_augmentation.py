"""Altered copies: what they may be, that chance alone never decides, and where they go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from common.errors import InputError
from common.labels import SINGLE_LABEL, Task
from distill.augmentation import add_augmented, augmented
from distill.batches import TokenizedSet
from distill.distillation import distill
from distill.models import make_encoder
from distill.settings import DistillationSettings, TrainingSettings
from distill.training_data import TrainingData
from tests.conftest import make_config, make_tokenizer, messages, write_tsv

WORDS = st.lists(st.sampled_from(["where", "is", "my", "order", "number", "nine"]), min_size=1, max_size=12)
TEXTS = st.lists(WORDS.map(" ".join), min_size=1, max_size=4)


def _is_a_masked_piece(made: str, text: str) -> bool:
    new, old = made.split(), text.split()
    places = range(len(old) - len(new) + 1)
    fits = [all(word in ("[MASK]", old[at + n]) for n, word in enumerate(new)) for at in places]
    return any(fits) and (len(new) == len(old) or 1 <= len(new) <= 5)


@given(TEXTS, st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_a_copy_is_a_piece_of_its_text_with_words_masked(texts: list[str], copies: int, seed: int) -> None:
    made = augmented(texts, copies, "[MASK]", seed)
    assert len(made) == copies * len(texts)
    for place, copy in enumerate(made):
        assert _is_a_masked_piece(str(copy), texts[place // copies])


@given(TEXTS, TEXTS, st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_a_rows_copies_do_not_depend_on_the_others(ours: list[str], more: list[str], copies: int, seed: int) -> None:
    alone, among = augmented(ours, copies, "[MASK]", seed), augmented(ours + more, copies + 1, "[MASK]", seed)
    kept = [copy for place, copy in enumerate(among) if place % (copies + 1) < copies]
    assert kept[: len(alone)] == alone


def test_of_a_pair_one_side_is_altered_then_the_other_then_both() -> None:
    first, second = "one two three four " * 20, "five six seven eight " * 20
    made = augmented([(first, second)], 6, "[MASK]", 0)
    assert [pair[0] == first for pair in made] == [False, True, False] * 2
    assert [pair[1] == second for pair in made] == [True, False, False] * 2


def test_the_papers_shares() -> None:
    text = "word " * 40
    made = [str(copy).split() for copy in augmented([text], 4000, "[MASK]", 1)]
    whole = [words for words in made if len(words) == 40]
    assert 1 - len(whole) / len(made) == pytest.approx(0.25, abs=0.03)
    assert sum(words.count("[MASK]") for words in whole) / (40 * len(whole)) == pytest.approx(0.1, abs=0.01)
    assert {len(words) for words in made} == {1, 2, 3, 4, 5, 40}


def test_the_mask_is_one_token() -> None:
    tokenizer = make_tokenizer("bert")
    ids = tokenizer("where is [MASK] order")["input_ids"]
    assert ids.count(tokenizer.mask_token_id) == 1


def test_copies_are_learned_from_without_a_label(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = map(str, small_tables)
    training = TrainingSettings(epochs=1, learning_rate=1e-3, max_length=64)
    settings = DistillationSettings(2, "kd", "teacher-skip", training=training, augment=2)
    log = write_tsv(tmp_path / "log.tsv", [{"text": f"{row['text']} again"} for row in messages()[:10]])
    record = distill(str(bert_teacher), train, dev, tmp_path / "student", settings, unlabelled=str(log))
    copies = record.data["train"]["augmented"]
    # Some copies are their own text: no word was masked and nothing cut.
    assert 96 < copies < 192
    assert len(record.steps) == -(-(96 + 10 + copies) // 32)
    assert record.data["train"]["rows"] == 96


def test_a_tokenizer_without_a_mask_is_refused(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, dev = map(str, small_tables)
    settings = DistillationSettings(2, "kd", "teacher-skip", augment=1)
    tokenizer = AutoTokenizer.from_pretrained(bert_teacher)
    tokenizer.mask_token = None
    monkeypatch.setattr("distill.distillation.load_tokenizer", lambda _source: tokenizer)
    with pytest.raises(InputError, match="the teacher's tokenizer has no mask token"):
        distill(str(bert_teacher), train, dev, tmp_path / "student", settings)
    assert not (tmp_path / "student").exists()


def test_a_copy_is_taken_once_and_never_a_text_of_train_or_dev() -> None:
    tokenizer = make_tokenizer("bert")
    encoder = make_encoder(tokenizer, make_config("bert", 600, 2), 64)
    texts = ["cancel my order", "where is it"]
    train, dev = (TokenizedSet(encoder.encode(part), np.zeros(2)) for part in (texts, ["[MASK] my order", "where"]))
    data = TrainingData(train, dev, encoder, Task(SINGLE_LABEL, ("a", "b")))
    grown = add_augmented(data, texts, 200, "[MASK]", 0).train
    made = grown.encoded[-1]
    less = add_augmented(replace(data, reported=[made]), texts, 200, "[MASK]", 0).train
    assert made not in less.encoded
    assert len(less) == len(grown) - 1
    read = [tuple(text.ids) for text in grown.encoded]
    assert len(read) > 10
    assert len(set(read)) == len(read)
    assert not {tuple(text.ids) for text in data.dev.encoded} & set(read)
