"""Replayed batches give the answers of the classifier itself; the recorder here only remembers, as a graph does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from kernels.packed_classifier import PackedClassifier
from serve import cuda_graphs
from serve.cuda_graphs import GraphedClassifier, Shape

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier() -> PackedClassifier:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    return PackedClassifier(BertForSequenceClassification(config), max_length=128)


def batch(*lengths: int) -> tuple[Tensor, Tensor, Tensor, int]:
    rng = torch.Generator().manual_seed(sum(lengths))
    tokens = sum(lengths)
    ids, types = (torch.randint(high, (tokens,), generator=rng) for high in (60, 2))
    return ids, types, torch.tensor([0, *lengths]).cumsum(0).int(), max(lengths)


class Recorder:
    """Runs again what it was given, into the same memory; counts what it recorded."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        memory = function().clone()
        return lambda: memory.copy_(function())


def test_answers_stay_and_shapes_are_recorded_at_their_second_coming(classifier: PackedClassifier) -> None:
    recorder = Recorder()
    graphed = GraphedClassifier(classifier, CPU, recorder)
    # All of one shape but the last, with fewer and fewer tokens and texts in it.
    batches = [batch(9, 7, 8), batch(9, 8, 7), batch(10, 8, 5), batch(9, 3, 5), batch(11, 5, 2), batch(40)]
    kept = []
    with torch.inference_mode():
        for given in batches:
            kept.append(graphed(*given))
    assert recorder.recorded == 1
    with torch.inference_mode():
        for got, given in zip(kept, batches, strict=True):  # an answer is not overwritten by the next replay
            torch.testing.assert_close(got, classifier(*given), rtol=0, atol=1e-6)


def test_the_shape_not_used_for_longest_goes_first(
    classifier: PackedClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    recorder = Recorder()
    graphed = GraphedClassifier(classifier, CPU, recorder)
    small, middle, large = batch(5), batch(30), batch(90)
    with torch.inference_mode():
        for given in (small, small, middle, middle, small, large, large):
            graphed(*given)
        assert recorder.recorded == 3
        graphed(*small)
        assert recorder.recorded == 3
        graphed(*middle)
        assert recorder.recorded == 4


def test_a_shape_that_cannot_be_recorded_runs_without_a_graph(
    classifier: PackedClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def refuse(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        tries.append(function)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphed, given = GraphedClassifier(classifier, CPU, refuse), batch(9, 7)
    with torch.inference_mode():
        for _ in range(4):
            torch.testing.assert_close(graphed(*given), classifier(*given))
    assert len(tries) == 1
    assert "no CUDA graph for" in caplog.text


def test_a_family_without_segments() -> None:
    def lengths(ids: Tensor, types: Tensor | None, ends: Tensor, _longest: int) -> Tensor:
        assert types is None
        return ends.diff()[:, None] + ids[0]

    graphed = GraphedClassifier(lengths, CPU, Recorder())
    for _ in range(3):
        assert graphed(torch.full((5,), 2), None, torch.tensor([0, 3, 5]).int(), 3).tolist() == [[5], [4]]


@given(tokens=st.integers(1, 100_000), texts=st.integers(1, 4096), longest=st.integers(1, 8192))
def test_a_shape_holds_its_batch_and_little_more(tokens: int, texts: int, longest: int) -> None:
    shape = Shape.around(tokens, texts, longest)
    assert tokens <= shape.tokens <= max(16, 1.5 * tokens)
    assert texts <= shape.texts < 2 * texts
    assert longest <= shape.max_length <= max(16, 1.5 * longest)
    assert Shape.around(*shape) == shape
