"""Models of different limits: lengths are those of the one that reads most."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer

from benchmarks.bench.sample import Sample
from common.tokenization import Text, TextEncoder

SHORT, LONG = 12, 40


def model(tokenizer: Tokenizer, limit: int) -> Any:
    encoder = TextEncoder(tokenizer, max_length=limit, pad_id=0, pad_type_id=0, pad_left=False)
    return SimpleNamespace(engine=SimpleNamespace(encoder=encoder))


@pytest.fixture(params=[(SHORT, LONG), (LONG, SHORT)])
def models(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> list[Any]:
    return [model(tokenizer, limit) for limit in request.param]


def tokens(tokenizer: Tokenizer, text: Text) -> int:
    """Of the whole text, by the tokenizer itself."""
    return len(tokenizer.encode(*text) if isinstance(text, tuple) else tokenizer.encode(text))


@pytest.fixture
def texts(tokenizer: Tokenizer) -> list[Text]:
    texts: list[Text] = [" ".join(["late"] * count) for count in range(1, 60)]
    counts = [tokens(tokenizer, text) for text in texts]
    assert min(counts) < SHORT < LONG < max(counts)
    return texts


def test_lengths_are_those_that_the_longest_limit_leaves(
    models: list[Any], tokenizer: Tokenizer, texts: list[Text]
) -> None:
    sample = Sample.of(texts, models, 0)
    assert sample.lengths == [min(tokens(tokenizer, text), LONG) for text in texts]
    assert sample.describe()["max"] == LONG
    assert sample.longest(1)[0] in [text for text in texts if tokens(tokenizer, text) >= LONG]


def test_a_shorter_limit_leaves_what_its_own_encoder_says(models: list[Any], texts: list[Text]) -> None:
    pairs: list[Text] = [(str(text), str(other)) for text, other in zip(texts, reversed(texts), strict=True)]
    for data in (texts, pairs):
        lengths = Sample.of(data, models, 0).lengths
        for each in models:
            encoder = each.engine.encoder
            own = [encoded.tokens for encoded in encoder.encode(data)]
            assert own == [min(length, encoder.max_length) for length in lengths]


def test_no_joined_text_is_longer_than_any_model_reads(models: list[Any], texts: list[Text]) -> None:
    few = texts[:3]
    joined = [text for part in Sample.of(few, models, 0).bins for text in part.texts if text not in few]
    assert joined
    for each in models:
        assert not any(encoded.truncated for encoded in each.engine.encoder.encode(joined))


def test_texts_beyond_the_shortest_limit_have_their_own_bin(
    models: list[Any], tokenizer: Tokenizer, texts: list[Text]
) -> None:
    bins = {part.name: part.texts for part in Sample.of(texts, models, 0).bins}
    assert sorted(map(str, bins["33–64"])) == sorted(str(text) for text in texts if tokens(tokenizer, text) > 32)
