"""Tokenizers trained on a corpus: what their families need, no special token from text, the same each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, XLNetConfig

from common.errors import InputError
from common.tokenization import TextEncoder
from distill.models import save_tokenizer
from distill.pretraining import tokenizer as module
from distill.pretraining.tokenizer import as_transformers, text_encoder, train_tokenizer
from tests.conftest import make_config, messages
from tests.fresh_process import exit_code

FAMILIES = ("bert", "xlnet")


def _texts() -> list[str]:
    return [row["text"] for row in messages()[:300]]


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """A tokenizer of each family."""
    return {
        family: as_transformers(train_tokenizer(family, _texts, 400, cased=False), family, 32) for family in FAMILIES
    }


def _write_trained(path: Path, family: str) -> None:
    path.write_text(train_tokenizer(family, _texts, 400, cased=False).to_str())


@pytest.mark.parametrize("family", FAMILIES)
def test_each_training_gives_the_same(family: str, trained: dict[str, Any], tmp_path: Path) -> None:
    """The trainers draw their hash seeds anew in each process."""
    path = tmp_path / "tokenizer.json"
    assert exit_code(_write_trained, path, family) == 0
    own = trained[family].backend_tokenizer
    other = Tokenizer.from_file(str(path))
    assert json.loads(own.to_str())["model"] == json.loads(other.to_str())["model"]


def test_bert_has_its_tokens_and_template(trained: dict[str, Any]) -> None:
    tokenizer = trained["bert"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    given = tokenizer("Where is my Order?", "Naïve")
    tokens = tokenizer.convert_ids_to_tokens(given["input_ids"])
    assert tokens[0] == "[CLS]"
    second = tokens.index("[SEP]") + 1
    assert tokens[-1] == "[SEP]"
    assert "".join(tokens[second:-1]).replace("##", "") == "naive"
    assert given["token_type_ids"] == [0] * second + [1] * (len(tokens) - second)
    assert tokenizer.padding_side == "right"
    assert tokenizer.decode(given["input_ids"][1 : second - 1]) == "where is my order?"


def test_xlnet_has_its_tokens_and_template(trained: dict[str, Any]) -> None:
    tokenizer = trained["xlnet"]
    special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    assert tokenizer.convert_ids_to_tokens(range(9)) == special
    config = XLNetConfig()
    for name in ("bos", "eos", "pad"):
        assert getattr(tokenizer, f"{name}_token_id") == getattr(config, f"{name}_token_id")
    given = tokenizer("Where is ``my'' Order?", "Naïve")
    tokens = tokenizer.convert_ids_to_tokens(given["input_ids"])
    first = tokens.index("<sep>") + 1
    assert tokens[-2:] == ["<sep>", "<cls>"]
    assert "".join(tokens[first:-2]) == "▁naive"
    assert given["token_type_ids"] == [0] * first + [1] * (len(tokens) - first - 1) + [2]
    assert tokenizer(["is", "where is my order"], padding=True)["input_ids"][0][0] == tokenizer.pad_token_id
    assert tokenizer.decode(given["input_ids"][: first - 1]).startswith("where is ")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_one_is_what_training_and_serving_read(family: str, trained: dict[str, Any], tmp_path: Path) -> None:
    save_tokenizer(trained[family], tmp_path, 32)
    (tmp_path / "config.json").write_text(json.dumps(make_config(family, 400, 1).to_dict()))
    reloaded, served = AutoTokenizer.from_pretrained(tmp_path), TextEncoder.load(tmp_path)
    texts = _texts()[:20]
    expected = trained[family](texts, padding=True, truncation=True, max_length=32)
    assert reloaded(texts, padding=True, truncation=True)["input_ids"] == expected["input_ids"]
    batch = served.pad(served.encode(texts))
    for name in ("input_ids", "attention_mask"):
        assert batch[name].tolist() == expected[name]
    text = batch["attention_mask"] == 1
    assert (batch["token_type_ids"][text] == np.array(expected["token_type_ids"])[text]).all()
    assert (batch["token_type_ids"][~text] == (3 if family == "xlnet" else 0)).all()
    assert reloaded.model_max_length == served.max_length == 32
    for name in ("cls_token", "sep_token", "pad_token", "mask_token", "unk_token", "padding_side"):
        assert getattr(reloaded, name) == getattr(trained[family], name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cased", [True, False])
def test_capitals(family: str, cased: bool) -> None:
    tokenizer = train_tokenizer(family, lambda: ["Anna sees ANNA and anna"] * 20, 200, cased=cased)
    ids = [tuple(tokenizer.encode(word, add_special_tokens=False).ids) for word in ("Anna", "ANNA", "anna")]
    assert len(set(ids)) == (3 if cased else 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_rare_characters_are_unknown_and_leave_room(family: str) -> None:
    exotic = [f"word {chr(0x4E00 + place)}" for place in range(500)]
    tokenizer = as_transformers(train_tokenizer(family, lambda: _texts() + exotic, 200, cased=False), family, 32)
    assert len(tokenizer) <= 200
    assert tokenizer.unk_token_id in text_encoder(tokenizer)(exotic[-1])
    assert tokenizer.unk_token_id not in text_encoder(tokenizer)("where is my order")


@pytest.mark.parametrize("family", FAMILIES)
@given(text=st.text(max_size=40))
def test_text_gives_no_special_token_and_ids_of_the_vocabulary(family: str, trained: dict[str, Any], text: str) -> None:
    tokenizer = trained[family]
    encode = text_encoder(tokenizer)
    for line in (text, " ".join([*tokenizer.all_special_tokens, text])):
        ids = encode(line)
        assert set(ids).isdisjoint(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
        assert all(0 <= token < len(tokenizer) for token in ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_line_is_encoded_as_a_whole(
    family: str, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = text_encoder(trained[family])
    line = " ".join(_texts()[:40])
    whole = encode(line)
    monkeypatch.setattr(module, "_PIECE_CHARACTERS", 50)
    assert encode(line) == whole
    assert len(encode("x" * 175)) > 0


def test_training_reads_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRAINING_CHARACTERS", 100)
    read: list[str] = []

    def texts() -> Any:
        for text in _texts():
            read.append(text)
            yield text

    train_tokenizer("bert", texts, 200, cased=False)
    passes = read.count(_texts()[0])
    assert sum(map(len, read)) < passes * 300


def test_a_corpus_that_cannot_be_read_says_why() -> None:
    def failing() -> Any:
        yield "good text"
        raise InputError("text.txt, line 2: not UTF-8")

    def from_the_second(times: list[int] = []) -> Any:  # noqa: B006
        times.append(1)
        return iter(["good text"]) if len(times) == 1 else failing()

    given: list[Callable[[], Any]] = [failing, from_the_second]
    for texts in given:
        with pytest.raises(InputError, match=r"^text\.txt, line 2: not UTF-8$"):
            train_tokenizer("bert", texts, 200, cased=False)
