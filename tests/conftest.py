"""Small models of several families, tables and bundles that the tests share."""

from __future__ import annotations

import csv
import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command has it

import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLNetConfig,
)

from demo.messages import DEV, TRAIN
from distill.pretraining.tokenizer import train_tokenizer
from tests.made_once import Factory, made_once, traced_once  # noqa: F401  (a fixture)
from tests.s3 import s3, s3_server  # noqa: F401  (fixtures)

INTENTS = ("cancel_order", "damaged_item", "login_problem")


@pytest.fixture(scope="session", autouse=True)
def _few_threads_from_the_start() -> None:
    """For fixtures of a wider scope than a test too: bits are compared that depend on the number."""
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(2)


@dataclass(frozen=True)
class CommandResult:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def understudy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., CommandResult]:
    """Runs the command in this process, with a cache directory of its own."""
    from understudy.cli import main

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))

    def run(*arguments: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return CommandResult(int(end.value.code or 0), printed.out, printed.err)

    return run


def messages(path: Path = TRAIN) -> list[dict[str, str]]:
    """The shipped messages."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def write_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A TSV file of rows with the same columns."""
    lines = ["\t".join(rows[0]), *("\t".join(str(value) for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@functools.cache
def word_pieces(count: int) -> list[str]:
    """WordPieces of the shipped messages, no special tokens among them.

    The library's own trainer breaks ties by a hash that each process draws anew, so that its models would answer
    otherwise in each run of the tests.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    texts = [row["text"] for row in messages()]
    vocabulary = train_tokenizer("bert", lambda: texts, count + len(special), cased=False).get_vocab()
    return [token for token in sorted(vocabulary, key=vocabulary.__getitem__) if token not in special]


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A small lower-casing tokenizer of the shipped messages, with the family's special tokens."""
    cls, sep, pad = ("<s>", "</s>", "<pad>") if family == "roberta" else ("[CLS]", "[SEP]", "[PAD]")
    if family == "xlnet":
        cls, sep, pad = "<cls>", "<sep>", "<pad>"
    # RoBERTa's positions are counted from the padding id, so that id is 1 as in the published models.
    special = [cls, pad, "[UNK]", sep, "[MASK]"] if family == "roberta" else [pad, "[UNK]", cls, sep, "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *word_pieces(600 - len(special))])}
    tokenizer = Tokenizer(tokenizer_models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    ids = [(token, tokenizer.token_to_id(token)) for token in (cls, sep)]
    if family == "xlnet":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A:0 {sep}:0 {cls}:2", pair=f"$A:0 {sep}:0 $B:1 {sep}:1 {cls}:2", special_tokens=ids
        )
    elif family == "roberta":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} {sep} $B {sep}", special_tokens=ids
        )
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0", pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1", special_tokens=ids
        )
    plain = family in ("roberta", "distilbert")
    left = {"padding_side": "left", "pad_token_type_id": 3} if family == "xlnet" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        cls_token=cls,
        sep_token=sep,
        pad_token=pad,
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"] + ([] if plain else ["token_type_ids"]),
        **left,
    )


def make_config(family: str, vocab: int, layers: int, **head: Any) -> Any:
    """A config of 32 units and 4 heads."""
    sizes = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    match family:
        case "bert":
            return BertConfig(**sizes, max_position_embeddings=128, **head)
        case "roberta":
            return RobertaConfig(**sizes, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1, **head)
        case "electra":
            return ElectraConfig(**sizes, embedding_size=16, max_position_embeddings=128, **head)
        case "distilbert":
            return DistilBertConfig(
                vocab_size=vocab, dim=32, n_layers=layers, n_heads=4, hidden_dim=64, max_position_embeddings=128, **head
            )
        case "xlnet":
            return XLNetConfig(
                vocab_size=vocab, d_model=32, n_layer=layers, n_head=4, d_inner=64, pad_token_id=0, **head
            )
    raise ValueError(family)


def make_model(
    directory: Path,
    family: str = "bert",
    layers: int = 4,
    labels: Sequence[str] = INTENTS,
    problem_type: str | None = "single_label_classification",
    *,
    pretrained: bool = False,
    scale: float = 4.0,
    seed: int = 7,
) -> Path:
    """Writes a random model in the Hub's layout: a classifier, or with `pretrained` its encoder alone.

    `scale` widens the head's weights, so that a random model's answers differ from text to text.
    """
    tokenizer = make_tokenizer(family)
    torch.manual_seed(seed)
    head = (
        {}
        if pretrained
        else {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            "problem_type": problem_type,
        }
    )
    config = make_config(family, len(tokenizer), layers, **head)
    model = (AutoModel if pretrained else AutoModelForSequenceClassification).from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                weight.mul_(scale if not name.endswith("embeddings.weight") else 1.0)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def small_tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Train (96 rows) and dev (48 rows) tables of three intents, cut off the shipped messages."""
    directory = tmp_path_factory.mktemp("tables")
    parts = []
    for name, path, count in (("train", TRAIN, 32), ("dev", DEV, 16)):
        rows = [row for row in messages(path) if row["label"] in INTENTS]
        chosen = [row for label in INTENTS for row in [row for row in rows if row["label"] == label][:count]]
        parts.append(write_tsv(directory / f"{name}.tsv", chosen))
    return parts[0], parts[1]


@pytest.fixture(scope="session")
def bert_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained-like BERT encoder of four layers."""
    return make_model(tmp_path_factory.mktemp("models") / "base", pretrained=True, scale=1.0)


@pytest.fixture(scope="session")
def bert_teacher(tmp_path_factory: pytest.TempPathFactory, bert_base: Path, small_tables: tuple[Path, Path]) -> Path:
    """A teacher fine-tuned for one epoch."""
    from distill.finetuning import finetune
    from distill.settings import TrainingSettings

    output = tmp_path_factory.mktemp("models") / "teacher"
    train, dev = map(str, small_tables)
    finetune(str(bert_base), train, dev, output, TrainingSettings(epochs=1, learning_rate=1e-3, max_length=64))
    return output


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: Factory) -> Path:
    """A bundle of a random single-label BERT."""
    make = partial(export_bundle, family="bert", labels=INTENTS, problem_type="single_label_classification")
    return made_once(tmp_path_factory, "bundle", make)


@pytest.fixture(scope="session")
def multi_label_bundle(tmp_path_factory: Factory) -> Path:
    """A bundle of a random multi-label BERT."""
    make = partial(export_bundle, family="bert", labels=INTENTS, problem_type="multi_label_classification")
    return made_once(tmp_path_factory, "multi_label_bundle", make)


@pytest.fixture(scope="session")
def regression_bundle(tmp_path_factory: Factory) -> Path:
    """A bundle of a random BERT with one output."""
    make = partial(export_bundle, family="bert", labels=("score",), problem_type="regression")
    return made_once(tmp_path_factory, "regression_bundle", make)


@pytest.fixture(scope="session", params=["bert", "roberta", "xlnet"])
def weights_bundle(request: pytest.FixtureRequest, tmp_path_factory: Factory) -> Path:
    """A bundle of a random classifier with its weights inside, of several families."""
    make = partial(
        export_bundle, family=request.param, labels=INTENTS, problem_type="single_label_classification",
        with_weights=True,
    )  # fmt: skip
    return made_once(tmp_path_factory, f"weights_bundle_{request.param}", make)


@pytest.fixture(scope="session")
def student_bundle(tmp_path_factory: Factory) -> Path:
    """A bundle of a random BERT that gives each label to some of the shipped messages."""
    make = partial(
        export_bundle, family="bert", labels=INTENTS, problem_type="single_label_classification", layers=4, scale=20,
        seed=1,
    )  # fmt: skip
    return made_once(tmp_path_factory, "student_bundle", make)


@pytest.fixture(scope="session")
def teacher_bundle(tmp_path_factory: Factory) -> Path:
    """As `student_bundle`, with weights of its own and the labels in another order."""
    make = partial(
        export_bundle, family="bert", labels=INTENTS[::-1], problem_type="single_label_classification", layers=4,
        scale=20, seed=2,
    )  # fmt: skip
    return made_once(tmp_path_factory, "teacher_bundle", make)


def export_bundle(
    directory: Path,
    family: str,
    labels: Sequence[str],
    problem_type: str,
    *,
    layers: int = 2,
    scale: float = 4.0,
    seed: int = 7,
    with_weights: bool = False,
) -> Path:
    """Exports a random model; the model itself stays beside the bundle as `model`."""
    from export.exporting import export
    from export.settings import ExportSettings

    model = make_model(directory / "model", family, layers, labels, problem_type, scale=scale, seed=seed)
    settings = ExportSettings(with_weights=with_weights)
    export(model, directory / "bundle", checked_on=str(DEV), settings=settings)
    return directory / "bundle"
