"""Words remembered: the same tokens as the library's, whatever the text."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer, Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from common.tokenization import TextEncoder
from common.word_cache import _MOST_WORDS, WordCache

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_PIECES = [
    *(
        "a",
        "##a",
        "b",
        "##b",
        "ab",
        "##ab",
        "abc",
        "A",
        "Ab",
        "##B",
        "é",
        "e",
        "##e",
        "##é",
        "ß",
        "ss",
        "##s",
        "σ",
        "ς",
    ),
    *(
        "un",
        "##able",
        "able",
        "1",
        "##1",
        "12",
        ",",
        ".",
        "[",
        "]",
        "!",
        "-",
        "_",
        "中",
        "文",
        "i",
        "##i",
        "̇",
        "k",
        "mask",
    ),
    *("the", "film", "was", "##ed", "good", "don", "'", "t"),
]
# What BERT's rules treat unlike each other: spaces, control and format characters, accents alone, punctuation, CJK.
_ODD = " \t\n\r\v\f\x1c\x7f\x85\xa0\u200b\u200d\u2028\u3000\ufeff\ufffdéÉßẞσςΣİıKÅ中文。，-_'[]\u0301\u0327💡abAB1"
_TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(st.sampled_from(_ODD), max_size=40),
    st.lists(
        st.sampled_from(["ab", "unable", "Éab", "film,", "don't", "a" * 120, "[MASK]", " ", "\n"]), max_size=12
    ).map(" ".join),
)


def _tokenizer(**rules: bool) -> Tokenizer:
    vocabulary = {piece: number for number, piece in enumerate([*_SPECIAL, *_PIECES])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(**rules)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(_SPECIAL)
    return tokenizer


_RULES = [
    {"lowercase": True},
    {"lowercase": False},
    {"lowercase": True, "strip_accents": False},
    {"lowercase": False, "strip_accents": True},
    {"lowercase": True, "handle_chinese_chars": False},
]
_TOKENIZERS = [_tokenizer(**rules) for rules in _RULES]
_CACHES = [WordCache.of(tokenizer) for tokenizer in _TOKENIZERS]


@settings(max_examples=400)
@given(_TEXTS)
@example("a\vb \x1c c\x85d\xa0e")
@example("\u0301a b\u0301 \u0327")
@example("ΑΣ Σ ΑΣ,")
def test_the_ids_are_the_librarys(text: str) -> None:
    for tokenizer, cache in zip(_TOKENIZERS, _CACHES, strict=True):
        assert cache is not None
        ids = cache.ids(text)
        if ids is not None:
            assert ids == tokenizer.encode(text, add_special_tokens=False).ids


@settings(max_examples=200)
@given(st.one_of(_TEXTS, st.tuples(_TEXTS, _TEXTS)), st.integers(4, 24), st.booleans())
def test_encoding_is_the_librarys(text: str | tuple[str, str], limit: int, cut_left: bool) -> None:
    library = Tokenizer.from_str(_TOKENIZERS[0].to_str())
    library.enable_truncation(limit, strategy="longest_first", direction="left" if cut_left else "right")
    encoder = TextEncoder(_TOKENIZERS[0], max_length=limit, pad_id=0, pad_type_id=0, pad_left=False, cut_left=cut_left)
    expected = library.encode(*text) if isinstance(text, tuple) else library.encode(text)
    for _ in range(2):  # the second time from the cache
        [encoded] = encoder.encode([text])
        assert encoded.ids == expected.ids
        assert encoded.type_ids == expected.type_ids
        assert encoded.truncated == bool(expected.overflowing)


def test_usual_texts_do_not_need_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = _CACHES[0]
    assert cache is not None
    for text in ("The film was good,\tdon't!\n", "Éab 中文", "A-B_1"):
        assert cache.ids(text) is not None
        monkeypatch.setattr(cache, "_new", lambda word: pytest.fail(f"{word} was not remembered"))
        assert cache.ids(text) is not None
        monkeypatch.undo()


def test_a_special_token_in_the_text_is_left_to_the_library() -> None:
    cache = _CACHES[0]
    assert cache is not None
    assert cache.ids("the [MASK] film") is None


def test_memory_has_an_end() -> None:
    cache = WordCache.of(_TOKENIZERS[0])
    assert cache is not None
    for number in range(_MOST_WORDS + 100):
        cache.ids(f"w{number}")
    cache.ids("x" * 90)
    assert len(cache._pieces) < _MOST_WORDS
    assert "x" * 90 not in cache._pieces


def _other(change: str) -> Tokenizer:
    tokenizer = _tokenizer()
    match change:
        case "normalizer":
            tokenizer.normalizer = Lowercase()
        case "uncleaned":
            tokenizer.normalizer = BertNormalizer(clean_text=False)
        case "added word":
            tokenizer.add_tokens([AddedToken("covid", normalized=True)])
        case "template":
            tokenizer.post_processor = TemplateProcessing(
                single="$A [SEP]", pair="$A [SEP] $B", special_tokens=[("[SEP]", 3)]
            )
    return tokenizer


@pytest.mark.parametrize("change", ["normalizer", "uncleaned", "added word", "template"])
def test_other_rules_are_the_librarys(change: str) -> None:
    assert WordCache.of(_other(change)) is None


def test_real_sentences(teacher_bundle: Path) -> None:
    encoder = TextEncoder.load(teacher_bundle)
    table = Path(__file__).parents[2] / "demo" / "data" / "dev.tsv"
    with table.open(encoding="utf-8", newline="") as lines:
        texts = [row[0] for row in csv.reader(lines, delimiter="\t")][1:]
    library = Tokenizer.from_file(str(teacher_bundle / "tokenizer.json"))
    library.no_padding()
    library.enable_truncation(encoder.max_length)
    assert [entry.ids for entry in encoder.encode(texts)] == [entry.ids for entry in library.encode_batch(texts)]
