"""`pretrain` by its flags, from plain text to a model that `finetune` takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from distill.pretraining.settings import PretrainingSettings
from tests.distill.pretraining.tiny import write_config, write_corpus

Run = Callable[..., Any]

SHORT = ("--steps", 3, "--batch-size", 4, "--max-length", 24)


@pytest.fixture
def pretrained(understudy: Run, tmp_path: Path) -> Run:
    """Runs `pretrain` on a small corpus with these flags."""

    def run(*flags: object, corpus: str = "corpus.txt") -> Any:
        return understudy("pretrain", "--corpus", tmp_path / corpus, "-o", tmp_path / "out", *flags)

    write_corpus(tmp_path / "corpus.txt")
    return run


@pytest.mark.parametrize(("objective", "family"), [("masked", "bert"), ("infoword", "bert"), ("permutation", "xlnet")])
def test_from_text_to_a_classifier(
    objective: str,
    family: str,
    pretrained: Run,
    understudy: Run,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path / "config.json", family)
    result = pretrained("--objective", objective, "--config", config, *SHORT)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("Trained a tokenizer of ")
    assert lines[1].startswith(f"Pretraining a new model ({family}, 2 layers, ")
    assert lines[1].endswith(f" by the {objective} objective on 160 lines, documents between blank lines")
    assert [line.split(":")[0] for line in lines[2:5]] == [f"  step {step} of 3" for step in (1, 2, 3)]
    assert lines[5].startswith("Loss ")
    assert lines[5].endswith(f"Written to {tmp_path / 'out'}")
    train, dev = small_tables
    teacher = tmp_path / "teacher"
    given = ("--train", train, "--dev", dev, "--epochs", 1, "-o", teacher)
    assert understudy("finetune", "--model", tmp_path / "out", *given).code == 0
    assert json.loads((teacher / "distillation.json").read_text())["base_model"]["name"] == "out"


SHARED = {
    "steps": 2,
    "batch_size": 4,
    "accumulate": 2,
    "max_length": 20,
    "learning_rate": 0.002,
    "warmup": 0.5,
    "weight_decay": 0.02,
    "clip": 0.5,
    "vocabulary": 200,
    "cased": True,
    "seed": 5,
}
OWN: dict[str, dict[str, Any]] = {
    "permutation": {"span_k": 4, "memory_length": 8, "reuse_length": 10, "bidirectional": True, "segments": 2},
    "infoword": {"mask_share": 0.2, "dim_weight": 0.4, "mlm_loss": "nce"},
}


@pytest.mark.parametrize("objective", OWN)
def test_every_setting_has_its_flag(objective: str, pretrained: Run, tmp_path: Path) -> None:
    names = {name for own in (SHARED, *OWN.values()) for name in own}
    assert names == {entry.name for entry in fields(PretrainingSettings)} - {"objective"}
    values = {"objective": objective, **SHARED, **OWN[objective]}
    config = write_config(tmp_path / "config.json", "xlnet" if objective == "permutation" else "bert")
    flags: list[object] = ["--config", config, "--documents", "line"]
    for name, value in values.items():
        flags += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    result = pretrained(*flags)
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "out" / "pretraining.json").read_text())
    assert record["settings"] == asdict(PretrainingSettings(**values))
    assert record["corpus"]["documents"] == "line"
    assert record["model"]["vocabulary"] <= 200


def test_several_files_are_one_corpus(pretrained: Run, tmp_path: Path) -> None:
    second = write_corpus(tmp_path / "second.txt", 16)
    config = write_config(tmp_path / "config.json")
    result = pretrained("--objective", "masked", "--corpus", second, "--config", config, *SHORT)
    assert result.code == 0, result.err
    assert "on 176 lines" in result.out
    record = json.loads((tmp_path / "out" / "pretraining.json").read_text())
    assert [Path(file["name"]).name for file in record["corpus"]["files"]] == ["corpus.txt", "second.txt"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--objective", "causal"], "objective must be one of masked, permutation, infoword, not 'causal'"),
        (["--steps", 0], "steps must lie between 1 and 1,000,000,000"),
        (["--batch-size", 0], "batch_size must be at least 1"),
        (["--accumulate", 0], "accumulate must be at least 1"),
        (["--learning-rate", "nan"], "learning_rate must lie between 0 and 1"),
        (["--memory-length", 8], "memory_length is of use with permutation alone, and the objective is masked"),
        (["--mlm-loss", "nce"], "mlm_loss is of use with infoword alone, and the objective is masked"),
        (["--objective", "permutation", "--mask-share", 0.2], "mask_share is of use with masked and infoword alone"),
        (["--objective", "infoword", "--span-k", 4], "span_k is of use with permutation alone"),
        (["--clip", 0], "clip must be a number above 0"),
        (["--vocabulary", 5], "vocabulary must lie between 64 and 1,000,000 tokens"),
        (["--documents", "page"], "documents must be one of line, paragraph, not 'page'"),
        (["--model", "none/such"], "'none/such' is neither a directory, nor"),
        (["--config", "none.json"], "none.json: no such file"),
    ],
)
def test_flags_that_will_not_do(flags: list[object], reason: str, pretrained: Run, tmp_path: Path) -> None:
    objective = [] if "--objective" in flags else ["--objective", "masked"]
    result = pretrained(*objective, *flags)
    assert result.code == 2, result
    assert reason in result.err
    assert result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("blank.txt", b"\n\n", "blank.txt: there is no text in the corpus"),
        ("latin.txt", b"fine\ngr\xfcn\n", "latin.txt, line 2: not UTF-8 (byte 0xfc at column 3)"),
        ("none.txt", None, "none.txt: no such file"),
        ("", None, "is a directory, not a file"),
    ],
)
def test_a_corpus_that_will_not_do(
    name: str, content: bytes | None, reason: str, pretrained: Run, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    result = pretrained("--objective", "masked", corpus=name)
    assert result.code == 2, result
    assert reason in result.err
    assert result.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_that_stands_already(pretrained: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter").touch()
    result = pretrained("--objective", "masked")
    assert result.code == 2
    assert result.err == f"understudy: {tmp_path / 'out'} exists: choose another output or pass --overwrite\n"
