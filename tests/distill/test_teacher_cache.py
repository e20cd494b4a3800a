"""The teacher's answers on disk: the same bits as without, completed after a break, and never used when damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.errors import InputError, WorkFailedError
from common.tokenization import TextEncoder
from distill import teacher as teacher_module
from distill.batches import TokenizedSet
from distill.distillation import distill
from distill.models import load_classifier, load_config, load_tokenizer, make_encoder
from distill.settings import DistillationSettings, TrainingSettings
from distill.sources import find_model
from distill.teacher import Teacher, TeacherTargets, teacher_targets
from distill.teacher_cache import cached_shards, check_cache, default_cache
from tests.conftest import make_model, messages
from tests.fresh_process import exit_code

TEXTS = [row["text"] for row in messages()[:20]]
CPU = torch.device("cpu")
QUICK = DistillationSettings(2, init="teacher-skip", training=TrainingSettings(epochs=1, learning_rate=1e-3))


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_module, "SHARD_ROWS", 8)


def _read(directory: Path, max_length: int = 64) -> tuple[Teacher, TextEncoder]:
    source = find_model(str(directory))
    config = load_config(source)
    return Teacher(source, load_classifier(source, config), CPU), make_encoder(
        load_tokenizer(source), config, max_length
    )


def _answers(directory: Path, texts: list[str], cache: Path | None, max_length: int = 64) -> TeacherTargets:
    teacher, encoder = _read(directory, max_length)
    data = TokenizedSet(encoder.encode(texts), np.zeros(len(texts), np.int64))
    return teacher_targets(teacher, encoder, data, (2, 3), cache)


def _same(first: TeacherTargets, second: TeacherTargets) -> bool:
    rows = list(range(len(first.logits)))
    return torch.equal(first.logits, second.logits) and torch.equal(first.states[rows], second.states[rows])


def _forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object) -> None:
        raise AssertionError("the teacher ran")

    monkeypatch.setattr(teacher_module, "_answer", answer)


def test_the_answers_are_those_of_the_stock_model_text_by_text(bert_teacher: Path, tmp_path: Path) -> None:
    found = _answers(bert_teacher, TEXTS, tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(bert_teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(bert_teacher)
    rows = [13, 2, 19]
    states = found.states[rows]
    assert states.shape == (3, *found.states.shape[1:]) == (3, 2, 32)
    for place, row in enumerate(rows):
        with torch.inference_mode():
            output = stock(**tokenizer(TEXTS[row], return_tensors="pt"), output_hidden_states=True)
        torch.testing.assert_close(found.logits[row], output.logits[0], rtol=0, atol=1e-5)
        for layer, number in enumerate((2, 3)):
            torch.testing.assert_close(states[place, layer], output.hidden_states[number][0, 0], rtol=0, atol=1e-5)


def test_a_cache_gives_the_same_bits_and_runs_the_teacher_once(
    bert_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = _answers(bert_teacher, TEXTS, None)
    assert _same(_answers(bert_teacher, TEXTS, tmp_path), without)
    _forbid(monkeypatch)
    assert _same(_answers(bert_teacher, TEXTS, tmp_path), without)


def test_the_student_has_the_same_bits_with_and_without_a_cache(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, dev = map(str, small_tables)
    weights, measured = [], []
    for name, cache in (("without", None), ("built", tmp_path / "cache"), ("read", tmp_path / "cache")):
        if name == "read":
            _forbid(monkeypatch)
        record = distill(str(bert_teacher), train, dev, tmp_path / name, QUICK, cache=cache)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
        assert record.teacher is not None
        measured.append(record.teacher["dev"])
    assert weights[0] == weights[1] == weights[2]
    assert measured[0] == measured[1] == measured[2]


def _changed_weights(directory: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    with torch.no_grad():
        model.classifier.bias += 1
    model.save_pretrained(directory)


def _changed_config(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))


def _changed_tokenizer(directory: Path) -> None:
    # The padding is other while the ids of all texts stay.
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "[UNK]"}))


@pytest.mark.parametrize("change", [_changed_weights, _changed_config, _changed_tokenizer])
def test_a_teacher_that_changed_is_asked_anew(
    change: Callable[[Path], None], bert_teacher: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bert_teacher, tmp_path / "teacher"))
    before = _answers(copy, TEXTS, tmp_path / "cache")
    change(copy)
    after = _answers(copy, TEXTS, tmp_path / "cache")
    # Other padding has a cache of its own too, though what is hidden behind the mask changes no answer.
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert _same(after, before) == (change is _changed_tokenizer)
    assert _same(after, _answers(copy, TEXTS, None))


def test_other_rows_another_order_or_another_limit_have_a_cache_of_their_own(
    bert_teacher: Path, tmp_path: Path
) -> None:
    for texts, limit in ((TEXTS, 64), (TEXTS[::-1], 64), (TEXTS[:-1], 64), (TEXTS, 6)):
        found = _answers(bert_teacher, texts, tmp_path, limit)
        assert _same(found, _answers(bert_teacher, texts, None, limit))
    assert len(list(tmp_path.iterdir())) == 4


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _claim_other_teacher(path: Path) -> None:
    index = json.loads(path.read_text())
    index["about"]["teacher"] = "0" * 64
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("name", "damage", "computed"),
    [
        ("00001.npy", _flip, 1),
        ("00001.npy", lambda path: path.write_bytes(path.read_bytes()[:-100]), 1),
        ("00001.npy", lambda path: path.write_bytes(b""), 1),
        ("00001.npy", Path.unlink, 1),
        ("index.json", lambda path: path.write_text('{"about": '), 3),
        ("index.json", lambda path: path.write_text("[]"), 3),
        ("index.json", lambda path: path.write_text('{"sha256": {}}'), 3),
        ("index.json", _claim_other_teacher, 3),
    ],
)
def test_what_is_damaged_is_said_and_computed_again(
    name: str,
    damage: Callable[[Path], object],
    computed: int,
    bert_teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _answers(bert_teacher, TEXTS, tmp_path)
    whole = {path.name: path.read_bytes() for path in tmp_path.glob("*/*")}
    (damaged,) = tmp_path.glob(f"*/{name}")
    damage(damaged)
    runs = []
    answer = teacher_module._answer
    monkeypatch.setattr(teacher_module, "_answer", lambda *given: runs.append(1) or answer(*given))  # type: ignore[func-returns-value]
    capsys.readouterr()
    found = _answers(bert_teacher, TEXTS, tmp_path)
    assert len(runs) == computed
    assert f"{name} is damaged: the teacher's answers" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*/*")} == whole
    assert _same(found, _answers(bert_teacher, TEXTS, None))


def _answer_and_die(directory: Path, cache: Path) -> None:
    """In a process of its own: is killed by SIGKILL when it has written the second shard, not yet in its place."""
    save, written = np.save, []

    def deadly_save(file: Any, *given: Any, **options: Any) -> None:
        save(file, *given, **options)
        written.append(file)
        if len(written) == 2:
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    teacher_module.SHARD_ROWS = 8
    np.save = deadly_save
    _answers(directory, TEXTS, cache)


def test_a_build_that_was_killed_is_completed_with_the_same_bits(bert_teacher: Path, tmp_path: Path) -> None:
    whole = _answers(bert_teacher, TEXTS, tmp_path / "whole")
    assert exit_code(_answer_and_die, bert_teacher, tmp_path / "half") == -signal.SIGKILL
    (half,) = (tmp_path / "half").iterdir()
    assert sorted(path.name for path in half.glob("*.npy*")) == ["00000.npy", "00001.npy.partial"]
    first = (half / "00000.npy").stat()
    assert _same(_answers(bert_teacher, TEXTS, tmp_path / "half"), whole)
    assert (half / "00000.npy").stat().st_mtime_ns == first.st_mtime_ns
    assert not list(half.glob("*.partial"))


def test_two_processes_build_one_cache(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
import numpy as np
from distill.teacher_cache import cached_shards
def compute(rows):
    time.sleep(0.2)
    print("computed", rows.start, flush=True)
    return np.arange(rows.start, rows.stop, dtype="<f4")
shards = cached_shards(Path(sys.argv[1]), {"teacher": "t"}, [range(0, 4), range(4, 8)], compute)
print("sum", sum(float(shard.sum()) for shard in shards), flush=True)
"""
    arguments = [sys.executable, "-c", script, str(tmp_path)]
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("sum 28.0" in out for out in said)
    assert "".join(said).count("computed") == 2


def test_a_directory_that_is_not_writable_is_refused_before_any_work(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("distill.distillation.find_model", lambda *_: pytest.fail("work began"))
    train, dev = map(str, small_tables)
    with pytest.raises(InputError, match=r"is no writable directory.* choose another with --cache, or pass --no-cache"):
        distill(str(bert_teacher), train, dev, tmp_path / "out", QUICK, cache=tmp_path / "file" / "cache")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="is no writable directory"):
        check_cache(tmp_path / "cache")


def test_a_full_disk_is_one_error_and_what_was_done_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = np.save

    def full(file: Any, array: NDArray[Any], **options: Any) -> None:
        if array[0] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array, **options)

    def compute(rows: range) -> NDArray[Any]:
        return np.arange(rows.start, rows.stop, dtype="<f4")

    monkeypatch.setattr("distill.teacher_cache.np.save", full)
    with pytest.raises(WorkFailedError, match=r"No space left on device.*--no-cache"):
        cached_shards(tmp_path, {"teacher": "t"}, [range(0, 4), range(4, 8)], compute)
    assert sorted(path.name for path in tmp_path.glob("*/*.npy*")) == ["00000.npy"]


def test_the_default_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for value, expected in (
        ("/var/caches", "/var/caches/understudy/teacher"),
        ("relative", "/home/somebody/.cache/understudy/teacher"),
        ("", "/home/somebody/.cache/understudy/teacher"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert str(default_cache()) == expected


def test_who_has_no_home_must_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(InputError, match="there is no home directory to cache in: pass --cache DIR or --no-cache"):
        default_cache()


def test_the_teacher_of_another_family_has_its_width_and_layers(tmp_path: Path) -> None:
    teacher = make_model(tmp_path / "xlnet", "xlnet", 3)
    found = _answers(teacher, TEXTS, tmp_path / "cache")
    assert _same(found, _answers(teacher, TEXTS, None))
    (shard,) = (tmp_path / "cache").glob("*/00000.npy")
    assert np.load(shard)["states"].shape == (8, 3, 32)
