"""Tiny bundles of one task: a teacher of two layers and a student of one, with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from common.examples import BY_USUAL_NAMES, read_examples
from common.tokenization import TextEncoder
from demo.messages import DEV
from export.bundle import Bundle
from tests.conftest import word_pieces

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_LENGTH = 64


@pytest.fixture(scope="session")
def messages() -> list[str]:
    """The shipped dev messages, without their labels."""
    return [str(text) for text in read_examples(str(DEV), BY_USUAL_NAMES).texts]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A WordPiece tokenizer of the messages."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *word_pieces(600 - len(SPECIAL))])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    return tokenizer


@pytest.fixture(scope="session")
def encoder(tokenizer: Tokenizer) -> TextEncoder:
    return TextEncoder(tokenizer, max_length=MAX_LENGTH, pad_id=0, pad_type_id=0, pad_left=False)


@pytest.fixture(scope="session")
def make_bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Exports a random BERT of some layers; regression where it has one label."""
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

    from export.exporting import export

    def make(name: str, layers: int, labels: tuple[str, ...]) -> Path:
        set_seed(layers)
        config = BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=MAX_LENGTH,
            initializer_range=0.3,  # so that random models answer differently from text to text
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            problem_type="regression" if len(labels) == 1 else "single_label_classification",
        )
        directory = tmp_path_factory.mktemp(name)
        BertForSequenceClassification(config).save_pretrained(directory / "model")
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
        ).save_pretrained(directory / "model")
        export(directory / "model", directory / name, checked_on=str(DEV))
        return directory / name

    return make


@pytest.fixture(scope="session")
def teacher(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle("teacher", 2, ("a", "b", "c"))


@pytest.fixture(scope="session")
def student(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle("student", 1, ("a", "b", "c"))


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a bundle in which one JSON file was edited and hashed anew."""

    def change(bundle: Path, file: str, edit: Callable[[dict], None]) -> Path:
        copy = tmp_path / f"changed-{bundle.name}"
        shutil.copytree(bundle, copy)
        manifest = Bundle.load(copy).manifest
        content = json.loads((copy / file).read_text())
        edit(content)
        (copy / file).write_text(json.dumps(content))
        manifest.write(copy)
        return copy

    return change


@pytest.fixture
def table(tmp_path: Path, messages: list[str]) -> Callable[..., str]:
    """Writes the first messages as a table; `label` names the label of each row."""

    def write(rows: int, label: Callable[[int], str] | None = None) -> str:
        path = tmp_path / "texts.jsonl"
        lines = [{"text": text} | ({"label": label(row)} if label else {}) for row, text in enumerate(messages[:rows])]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path)

    return write
