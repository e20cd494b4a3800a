"""Tokenizers read texts as their file says, whatever class they are loaded by, and so do the copies of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.errors import InputError
from common.files import read_json, write_json
from common.tokenization import TextEncoder
from distill.models import load_classifier, load_config, load_tokenizer, make_encoder, save_tokenizer
from distill.sources import find_model
from tests.conftest import make_model

TEXTS = [
    "Hello World, ORDER not arrived",
    "ＭＹ ＯＲＤＥＲ ａｒｒｉｖｅｄ",
    "Où est ma COMMANDE café",
    "order-late  12 damaged…",
]
Edit = Callable[[dict[str, Any]], None]


def _composed(file: dict[str, Any]) -> None:
    file["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, file["normalizer"]]}


def _no_normalizer(file: dict[str, Any]) -> None:
    file["normalizer"] = None


def _short_words(file: dict[str, Any]) -> None:
    file["model"]["max_input_chars_per_word"] = 4


def _split_at_spaces(file: dict[str, Any]) -> None:
    file["pre_tokenizer"] = {"type": "WhitespaceSplit"}


def _segments_swapped(file: dict[str, Any]) -> None:
    file["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
    }


def _unchanged(_file: dict[str, Any]) -> None:
    pass


def _assert_read_as_the_file_says(source: Path, copy: Path) -> None:
    raw = Tokenizer.from_file(str(source / "tokenizer.json"))
    raw.no_padding()
    raw.no_truncation()
    expected = [raw.encode(text).ids for text in TEXTS]
    found = find_model(str(source))
    tokenizer = load_tokenizer(found)
    encoded = make_encoder(tokenizer, load_config(found), 128).encode(TEXTS)
    assert [entry.ids for entry in encoded] == expected
    copy.mkdir()
    save_tokenizer(tokenizer, copy, 128)
    write_json(copy / "config.json", read_json(source / "config.json"))
    assert [entry.ids for entry in TextEncoder.load(copy).encode(TEXTS)] == expected
    assert AutoTokenizer.from_pretrained(copy)(TEXTS)["input_ids"] == expected


@pytest.mark.parametrize("name", ["BertTokenizerFast", "ElectraTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize(
    "edit", [_unchanged, _composed, _no_normalizer, _short_words, _split_at_spaces, _segments_swapped]
)
def test_what_the_file_adds_to_a_class_is_kept(edit: Edit, name: str, tmp_path: Path) -> None:
    source = make_model(tmp_path / "model", "bert", layers=1)
    file = json.loads((source / "tokenizer.json").read_text())
    edit(file)
    (source / "tokenizer.json").write_text(json.dumps(file))
    write_json(
        source / "tokenizer_config.json", read_json(source / "tokenizer_config.json") | {"tokenizer_class": name}
    )
    _assert_read_as_the_file_says(source, tmp_path / "copy")


def test_a_sentencepiece_normalizer_is_kept(tmp_path: Path) -> None:
    """As published DeBERTas have one, which their class has no place for."""
    pieces = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0)]
    pieces += [(piece, -2.0) for piece in ("▁hello", "▁order", "▁1", "▁", "...")]
    pieces += [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz12."] + [("[MASK]", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([piece for piece, _ in pieces if piece.startswith("[")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    source = tmp_path / "model"
    source.mkdir()
    tokenizer.save(str(source / "tokenizer.json"))
    names = {name: f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    write_json(
        source / "tokenizer_config.json",
        {"tokenizer_class": "DebertaV2TokenizerFast", **{f"{name}_token": token for name, token in names.items()}},
    )
    write_json(source / "config.json", {"model_type": "deberta-v2", "vocab_size": len(pieces)})
    (source / "model.safetensors").write_bytes(b"")
    _assert_read_as_the_file_says(source, tmp_path / "copy")


def test_the_settings_beside_the_file_say_whether_case_matters(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model", "bert", layers=1)
    settings = read_json(source / "tokenizer_config.json")
    for lower in (True, False):
        write_json(
            source / "tokenizer_config.json", settings | {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
        )
        backend = load_tokenizer(find_model(str(source))).backend_tokenizer
        assert (backend.normalizer.normalize_str("ABC") == "abc") is lower


def test_memory_that_does_not_hold_a_model_is_not_the_models_fault(
    bert_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find_model(str(bert_teacher))
    loading = "from_pretrained"
    monkeypatch.setattr(AutoModelForSequenceClassification, loading, lambda *_, **__: torch.empty(1 << 50))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        load_classifier(source, load_config(source))
    monkeypatch.setattr(AutoModelForSequenceClassification, loading, lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match="is no text classifier that can be loaded: division by zero"):
        load_classifier(source, load_config(source))
