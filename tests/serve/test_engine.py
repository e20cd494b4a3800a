"""The engine against transformers' own pipeline on the same weights, for each kind of head."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline

from common.batching import BatchLimits, cut_batches
from common.errors import InputError, TextError, WorkFailedError
from common.machine import usable_cores
from demo.messages import DEV
from serve.engine import Engine, Prediction
from tests.conftest import INTENTS, export_bundle, messages

TEXTS = [row["text"] for row in messages(DEV)[:24]]


def _answers(engine: Engine, texts: list[object]) -> list[Prediction]:
    answers = engine.classify(texts)
    assert all(isinstance(answer, Prediction) for answer in answers)
    return answers  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["bundle", "multi_label_bundle", "regression_bundle"])
def test_scores_are_the_pipelines(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    reference = pipeline("text-classification", model=str(path.parent / "model"), device="cpu")
    expected = reference(TEXTS, top_k=None, truncation=True)
    for answer, wanted in zip(_answers(Engine.load(path), list(TEXTS)), expected, strict=True):
        scores = dict(answer.ranked())
        assert answer.label == wanted[0]["label"]
        assert scores == pytest.approx({entry["label"]: entry["score"] for entry in wanted}, abs=1e-5)


def test_pairs_are_the_pipelines(bundle: Path) -> None:
    reference = pipeline("text-classification", model=str(bundle.parent / "model"), device="cpu")
    pairs = list(zip(TEXTS[:8], TEXTS[8:16], strict=True))
    expected = [reference({"text": first, "text_pair": second}, top_k=None, truncation=True) for first, second in pairs]
    for answer, wanted in zip(_answers(Engine.load(bundle), list(pairs)), expected, strict=True):
        assert dict(answer.ranked()) == pytest.approx({entry["label"]: entry["score"] for entry in wanted}, abs=1e-5)


def test_a_head_of_one_output_without_problem_type_is_read_as_the_pipeline_does(tmp_path: Path) -> None:
    path = export_bundle(tmp_path, "bert", ("yes",), None)  # type: ignore[arg-type]
    reference = pipeline("text-classification", model=str(path.parent / "model"), device="cpu")
    answer = _answers(Engine.load(path), [TEXTS[0]])[0]
    assert answer.score == pytest.approx(reference(TEXTS[0])[0]["score"], abs=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=40), st.integers(1, 9))
def test_answers_keep_their_order_and_do_not_depend_on_neighbours(bundle: Path, texts: list[str], size: int) -> None:
    engine = Engine.load(bundle, limits=BatchLimits(items=size, tokens=200))
    alone = {text: _answers(engine, [text])[0] for text in set(texts)}
    for text, answer in zip(texts, _answers(engine, list(texts)), strict=True):
        assert answer.label == alone[text].label
        np.testing.assert_allclose(answer.scores, alone[text].scores, atol=1e-6)


@given(st.lists(st.integers(1, 600), max_size=200), st.integers(1, 40), st.integers(1, 3000))
def test_batches_hold_every_row_once_within_the_limits(lengths: list[int], items: int, tokens: int) -> None:
    batches = list(cut_batches(lengths, BatchLimits(items, tokens)))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or (len(batch) <= items and len(batch) * longest <= tokens)


def test_what_cannot_be_classified_is_an_error_in_its_place(bundle: Path) -> None:
    texts = [TEXTS[0], "", "  \n", None, 3, "a\0b", "\ud800", "x" * 100_001, ("a", ""), ["a", "b"], TEXTS[1]]
    answers = Engine.load(bundle).classify(texts)
    assert [isinstance(answer, Prediction) for answer in answers] == [True, *[False] * 9, True]
    reasons = [str(answer) for answer in answers if isinstance(answer, TextError)]
    assert reasons[0] == "empty text"
    assert "100,001 bytes; the limit is 100,000" in reasons[6]
    with pytest.raises(InputError, match="this is one text"):
        Engine.load(bundle).classify("My parcel is late")


def test_truncation_is_reported_or_refused(bundle: Path) -> None:
    engine = Engine.load(bundle)
    long = "parcel " * 300
    answer = _answers(engine, [long])[0]
    assert answer.truncated
    assert answer.tokens == engine.encoder.max_length == 128
    assert not _answers(engine, [TEXTS[0]])[0].truncated
    refused = engine.classify([long, TEXTS[0]], truncate=False)
    assert isinstance(refused[0], TextError)
    assert isinstance(refused[1], Prediction)


def test_top_k_raw_scores_and_chosen(bundle: Path, multi_label_bundle: Path) -> None:
    answer = _answers(Engine.load(bundle), [TEXTS[0]])[0]
    assert answer.ranked(2) == answer.ranked()[:2]
    raw = dict(answer.ranked(raw=True))
    exponentials = {label: np.exp(value) for label, value in raw.items()}
    total = sum(exponentials.values())
    assert dict(answer.ranked()) == pytest.approx(
        {label: value / total for label, value in exponentials.items()}, abs=1e-6
    )
    assert answer.chosen == [answer.label]
    several = _answers(Engine.load(multi_label_bundle), list(TEXTS))
    for each in several:
        assert each.chosen == [label for label, score in zip(INTENTS, each.scores, strict=True) if score >= 0.5]
        assert each.answer == "|".join(each.chosen)
    assert {len(each.chosen) for each in several} != {1}


def test_outputs_that_are_no_numbers_are_never_served(bundle: Path) -> None:
    engine = Engine.load(bundle)

    class Broken:
        engine, device = "onnx", "cpu"

        def run(self, batch):  # type: ignore[no-untyped-def]
            return np.full((len(batch), 3), np.nan, np.float32)

    engine.model = Broken()
    with pytest.raises(WorkFailedError, match="not finite"):
        engine.classify([TEXTS[0]])


def test_a_bundle_with_a_changed_byte_is_refused(bundle: Path, tmp_path: Path) -> None:
    for file in bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = bytearray((tmp_path / "model.onnx").read_bytes())
    model[1000] ^= 255
    (tmp_path / "model.onnx").write_bytes(model)
    with pytest.raises(InputError, match=r"model\.onnx does not match"):
        Engine.load(tmp_path)


def test_serving_and_scoring_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; import serve.server, serve.scoring.score, understudy.serving_commands;"
        "from understudy import Engine;"
        "print([name for name in ('torch', 'transformers', 'onnx', 'datasets', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lanes_answer_as_one_does(bundle: Path) -> None:
    plain, laned = Engine.load(bundle), Engine.load(bundle, lanes=min(2, usable_cores()))
    expected = {text: _answers(plain, [text])[0].logits for text in TEXTS}
    batches = [TEXTS[:5], TEXTS[5:6], TEXTS[6:20], TEXTS[20:]] * 6
    with ThreadPoolExecutor(2) as threads:
        for texts, answers in zip(
            batches, threads.map(lambda batch: _answers(laned, list(batch)), batches), strict=True
        ):
            for text, answer in zip(texts, answers, strict=True):
                assert answer.logits == pytest.approx(expected[text], abs=1e-5)


@pytest.mark.parametrize("lanes", [0, -1, 10_000])
def test_lanes_beyond_the_machine_are_refused(lanes: int, bundle: Path) -> None:
    with pytest.raises(InputError, match="lanes must lie between 1 and"):
        Engine.load(bundle, lanes=lanes)
