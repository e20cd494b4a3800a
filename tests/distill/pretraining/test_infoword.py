"""InfoWord: which n-grams are cut and compared, its losses in float64, and what is left of it without DIM."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from common.errors import InputError
from distill.pretraining.infoword import DeepInfoMax, InfoWordObjective, candidates, words_of_others
from distill.pretraining.masked import MaskedObjective
from distill.pretraining.ngrams import LONGEST, SHORTEST, Words, draw_ngrams
from distill.pretraining.settings import PretrainingSettings
from tests.distill.pretraining.small_models import TOKENIZERS, drawn, segments, small_model, texts

SETTINGS = PretrainingSettings("infoword", max_length=64, dim_weight=0.6)
BERT = TOKENIZERS["bert"]
WORDS = Words(BERT)
DIM = DeepInfoMax(small_model(), BERT)
INSIDE = [token for token in range(len(BERT)) if BERT.convert_ids_to_tokens(token).startswith("##")]
TEXT = [token for token in range(5, len(BERT)) if token not in INSIDE]
# Rows of words of one to a few sub-words, with special tokens strewn in.
ROWS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(TEXT), st.lists(st.sampled_from(INSIDE), max_size=3)).map(lambda w: [w[0], *w[1]]),
        st.sampled_from([[BERT.cls_token_id], [BERT.sep_token_id], [BERT.mask_token_id], [BERT.pad_token_id]]),
    ),
    max_size=40,
).map(lambda words: list(itertools.chain.from_iterable(words)))
SEEDS = st.integers(0, 2**32)


@settings(deadline=None)
@given(ROWS)
def test_words_are_whole_and_leave_nothing_out_but_special_tokens(row: list[int]) -> None:
    words = WORDS.of(row)
    covered = [place for word in words for place in word]
    assert covered == [place for place, token in enumerate(row) if token not in WORDS.special]
    for word in words:
        assert all(row[place] in INSIDE for place in word[1:])
        # What stands before a rest of a word is no part of a word, or else that word would have had it.
        assert row[word.start] not in INSIDE or word.start == 0 or row[word.start - 1] in WORDS.special


@settings(deadline=None)
@given(ROWS, st.floats(0.01, 0.9), SEEDS)
def test_ngrams_are_whole_words_apart_from_each_other_and_spend_the_share(
    row: list[int], share: float, seed: int
) -> None:
    words = WORDS.of(row)
    ngrams = draw_ngrams(words, share, drawn(seed))
    places = [place for ngram in ngrams for place in ngram]
    assert len(places) == len(set(places))
    assert not {row[place] for place in places} & WORDS.special
    inside = [[word for word in words if word.start in ngram] for ngram in ngrams]
    for ngram, own in zip(ngrams, inside, strict=True):
        assert [place for word in own for place in word] == list(ngram)
        assert SHORTEST <= len(own) <= LONGEST
    left = len(words) - sum(map(len, inside))
    budget = share * sum(map(len, words))
    if len(words) < 2:
        assert not ngrams
        return
    assert left >= 1
    assert len(places) >= budget or left == 1
    assert len(places) - len(ngrams[-1]) < budget


def test_lengths_are_of_a_normal_distribution() -> None:
    words = [range(place, place + 1) for place in range(40)]
    counts = Counter(len(draw_ngrams(words, 0.01, drawn(seed))[0]) for seed in range(4000))
    for length in range(1, 11):
        below, above = length - 5.5, length - 4.5
        share = (math.erf(above / math.sqrt(2)) - math.erf(below / math.sqrt(2))) / 2
        assert counts[length] / 4000 == pytest.approx(share, abs=0.03)
    assert counts.keys() <= set(range(1, 11))


def test_ngrams_begin_anywhere() -> None:
    words = [range(place, place + 1) for place in range(12)]
    found = {draw_ngrams(words, 0.1, drawn(seed))[0] for seed in range(400)}
    assert {ngram.start for ngram in found if len(ngram) == 5} == set(range(8))


@pytest.mark.parametrize(
    ("model", "cut", "begins"),
    [
        (models.BPE({"▁a": 0, "b": 1, "▁c": 2}, []), pre_tokenizers.Metaspace(), [True, False, True]),
        (models.BPE({"Ġa": 0, "b": 1, "Ġc": 2}, []), pre_tokenizers.ByteLevel(), [True, False, True]),
        (models.WordLevel({"a": 0, "b": 1, "c": 2}), pre_tokenizers.Whitespace(), [True, True, True]),
    ],
)
def test_other_tokenizers_mark_words_in_other_ways(model: Any, cut: Any, begins: list[bool]) -> None:
    backend = Tokenizer(model)
    backend.pre_tokenizer = cut
    words = Words(PreTrainedTokenizerFast(tokenizer_object=backend)).of([0, 1, 2])
    assert [place in {word.start for word in words} for place in range(3)] == begins


def test_tokens_that_do_not_tell_words_apart_are_refused() -> None:
    backend = Tokenizer(models.BPE({"a": 0}, []))
    with pytest.raises(InputError, match="BPE"):
        Words(PreTrainedTokenizerFast(tokenizer_object=backend))


@settings(deadline=None, max_examples=50)
@given(st.lists(ROWS.filter(bool), min_size=1, max_size=4), SEEDS)
def test_views_hide_the_ngrams_and_show_them_alone(rows: list[list[int]], seed: int) -> None:
    # Half of the rows stand twice, so that the same text comes from several sentences.
    rows = rows + rows[: len(rows) // 2]
    framed = [[BERT.cls_token_id, *row, BERT.sep_token_id] for row in rows]
    longest = max(map(len, framed))
    ids = torch.tensor([row + [BERT.pad_token_id] * (longest - len(row)) for row in framed])
    views = DIM.views(ids, drawn(seed))
    alone = [line[mask.bool()].tolist() for line, mask in zip(views["local_ids"], views["local_mask"], strict=True)]
    ngrams = [line[1:-1] for line in alone]
    assert all(line[0] == BERT.cls_token_id and line[-1] == BERT.sep_token_id for line in alone)
    for number, row in enumerate(ids.tolist()):
        changed = [place for place, token in enumerate(views["global_ids"][number].tolist()) if token != row[place]]
        own = [ngram for ngram, sentence in zip(ngrams, views["sentence"].tolist(), strict=True) if sentence == number]
        assert sorted(row[place] for place in changed) == sorted(itertools.chain.from_iterable(own))
        assert all(views["global_ids"][number, place] == BERT.mask_token_id for place in changed)
        assert all(any(row[at : at + len(ngram)] == ngram for at in range(len(row))) for ngram in own)

    stands = candidates(views["sentence"], views["text"])
    for one, other in itertools.product(range(len(ngrams)), repeat=2):
        apart = views["sentence"][one] != views["sentence"][other] and ngrams[one] != ngrams[other]
        assert stands[one, other] == (one == other or apart)


def test_a_word_of_the_positives_own_sequence_or_text_is_no_negative() -> None:
    words, elsewhere = words_of_others([[7, 9, 9], [9, 5], [7]])
    assert words.tolist() == [5, 7, 9]
    assert elsewhere.tolist() == [[1, 1, 1], [0, 2, 2], [1, 1, 3]]


def _log_sum(values: list[float]) -> float:
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))


@torch.no_grad()
@pytest.mark.parametrize("mlm_loss", ["softmax", "nce"])
def test_the_losses_are_the_papers_in_float64(mlm_loss: str) -> None:
    model = small_model().eval()
    objective = InfoWordObjective(model, BERT, replace(SETTINGS, mlm_loss=mlm_loss, mask_share=0.3)).eval()
    rows = [row.ids for row in texts(count=12).rows]
    # Longer rows with several n-grams, and three of two words, of which two must have the same n-gram.
    sequences = segments([*(one + other for one, other in zip(rows[::2], rows[1::2], strict=True)), *[TEXT[:2]] * 3])
    batch = objective.batch(sequences, drawn(3))
    terms = {name: value.item() for name, value in objective(batch).items()}

    exact = copy.deepcopy(model).double()
    logits = exact(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    length = batch["input_ids"].shape[1]
    mlm = []
    for place, label in zip(batch["places"].tolist(), batch["labels"].tolist(), strict=True):
        row, column = divmod(place, length)
        scores = logits[row, column].tolist()
        if mlm_loss == "softmax":
            rivals = scores
        else:
            others = [token for number, other in enumerate(sequences.rows) if number != row for token in other.ids]
            rivals = [scores[label], *(scores[token] for token in others if token != label)]
        mlm.append(_log_sum(rivals) - scores[label])

    def vector(row: list[int]) -> torch.Tensor:
        return exact.bert(torch.tensor([row])).last_hidden_state[0, 0]

    hidden, sentences = batch["global_ids"].tolist(), batch["sentence"].tolist()
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    bodies = [line[mask.bool()].tolist() for line, mask in zip(batch["local_ids"], batch["local_mask"], strict=True)]
    dim, gains = [], []
    for number, body in enumerate(bodies):
        whole = vector(hidden[sentences[number]][: lengths[sentences[number]]])
        rivals = [float(whole @ vector(body))]
        for other, rival in enumerate(bodies):
            if sentences[other] != sentences[number] and rival != body:
                rivals.append(float(whole @ vector(rival)))
        dim.append(_log_sum(rivals) - rivals[0])
        gains.append(math.log(len(rivals)) - dim[-1])

    expected = {
        "mlm": sum(mlm) / len(mlm),
        "dim": sum(dim) / len(dim),
        "mutual_information": sum(gains) / len(gains),
        "targets": len(mlm),
    }
    expected["loss"] = expected["mlm"] + 0.6 * expected["dim"]
    assert terms == pytest.approx(expected, rel=2e-5, abs=1e-5)
    assert len(bodies) > len(sequences.rows)
    assert len(set(map(tuple, bodies))) < len(bodies)


def _trained(kind: type[MaskedObjective], chosen: PretrainingSettings) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The weights after ten steps, with dropout, and the losses on the way."""
    objective = kind(small_model(), BERT, chosen)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    torch.manual_seed(5)
    draw, losses = drawn(6), []
    for _ in range(10):
        terms = objective(objective.batch(texts(), draw))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    return objective.encoder.state_dict(), losses


def test_without_dim_it_is_the_masked_language_model_to_the_bit() -> None:
    weights, losses = _trained(InfoWordObjective, replace(SETTINGS, dim_weight=0.0))
    plain, plain_losses = _trained(MaskedObjective, PretrainingSettings("masked", max_length=64))
    assert losses == plain_losses
    assert all(torch.equal(weights[name], value) for name, value in plain.items())
    other, _ = _trained(InfoWordObjective, SETTINGS)
    assert any(not torch.equal(other[name], value) for name, value in plain.items())


def test_dim_learns_to_tell_ngrams_apart() -> None:
    objective = InfoWordObjective(small_model(), BERT, SETTINGS)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    sequences, estimates = texts(count=12), []
    for step in range(30):
        terms = objective(objective.batch(sequences, drawn(step)))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        estimates.append(terms["mutual_information"].item())
    assert sum(estimates[-10:]) / 10 > sum(estimates[:10]) / 10 + 0.5


def test_a_batch_without_ngrams_or_without_rivals_has_no_dim_and_trains_on() -> None:
    objective = InfoWordObjective(small_model(), BERT, SETTINGS)
    for rows in ([[100], [120]], [[100, 120, 130, 140]]):
        terms = objective(objective.batch(segments(rows), drawn(0)))
        assert terms["dim"].item() == terms["mutual_information"].item() == 0
        terms["loss"].backward()
        assert torch.equal(terms["loss"], terms["mlm"])


def test_half_precision_around_it_leaves_the_products_in_full() -> None:
    objective = InfoWordObjective(small_model(), BERT, SETTINGS).eval()
    batch = objective.batch(texts(), drawn(0))
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(batch)
    assert all(terms[name].dtype == torch.float32 for name in ("loss", "mlm", "dim", "mutual_information"))


def test_an_encoder_that_reads_the_last_token_is_refused() -> None:
    model, tokenizer = small_model("xlnet"), TOKENIZERS["xlnet"]
    with pytest.raises(InputError, match="'xlnet'"):
        InfoWordObjective(model, tokenizer, SETTINGS)
    InfoWordObjective(model, tokenizer, replace(SETTINGS, dim_weight=0.0))


@pytest.mark.parametrize("wrong", [{"batch_size": 1}, {"batch_size": 1, "dim_weight": 0.0, "mlm_loss": "nce"}])
def test_a_batch_of_one_row_has_no_negatives(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="batch_size"):
        replace(SETTINGS, **wrong)
    replace(SETTINGS, batch_size=1, dim_weight=0.0)


def test_each_process_needs_two_rows_to_compare() -> None:
    replace(SETTINGS, batch_size=6).check_processes(3)
    for comparing in (SETTINGS, replace(SETTINGS, dim_weight=0.0, mlm_loss="nce")):
        with pytest.raises(InputError, match=r"in each of 2 processes: batch_size must be at least 4$"):
            replace(comparing, batch_size=3).check_processes(2)
    plain = replace(SETTINGS, batch_size=3, dim_weight=0.0)
    plain.check_processes(3)
    with pytest.raises(InputError, match="leaves no row in each of 4 processes"):
        plain.check_processes(4)
