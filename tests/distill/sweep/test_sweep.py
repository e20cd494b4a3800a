"""Sweeps end to end on small models: rows, resuming, refusals, summary and picture."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InputError, WorkFailedError
from common.statistics import t_interval
from distill.distillation import distill
from distill.sources import weights_sha256
from distill.sweep.results import ROWS, Results, Row
from distill.sweep.space import make_settings
from distill.sweep.sweep import sweep
from tests.conftest import make_model, write_tsv
from tests.fresh_process import exit_code

GRID = """
[settings]
layers = 2
epochs = 2
learning_rate = 5e-3
init = "teacher-skip"
seed = [0, 1]
method = ["finetune", "kd"]
"""


@pytest.fixture(scope="module", autouse=True)
def _speed_at_a_glance() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.sweep.speed._ROUNDS", 1)
        patch.setattr("distill.sweep.speed._LONE_TEXTS", 4)
        yield


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.toml"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, bert_teacher: Path, small_tables: tuple[Path, Path]) -> Path:
    """The directory of the whole grid, undisturbed."""
    directory = tmp_path_factory.mktemp("sweeps")
    (directory / "space.toml").write_text(GRID)
    train, dev = map(str, small_tables)
    sweep(directory / "space.toml", str(bert_teacher), train, dev, directory / "out")
    return directory / "out"


def rows(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "results.jsonl").read_text().splitlines()
    return [{**json.loads(line), "wall_time_s": 0} for line in lines]


def test_a_row_is_what_distilling_gives(
    finished: Path, bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    found = rows(finished)
    assert [(row["settings"]["method"], row["settings"]["seed"]) for row in found] == [
        ("finetune", 0),
        ("finetune", 1),
        ("kd", 0),
        ("kd", 1),
    ]
    row = found[3]
    configuration = {"layers": 2, "epochs": 2, "learning_rate": 5e-3, "init": "teacher-skip", "method": "kd"}
    settings = make_settings(configuration, seed=1)
    record = distill(str(bert_teacher), *map(str, small_tables), tmp_path / "student", settings)
    assert row["settings"] == settings.describe()
    assert row["dev"] == row["chosen_on"] == record.best
    assert row["weights_sha256"] == weights_sha256(tmp_path / "student")
    answers = np.load(finished / "answers" / f"{row['key']}.npy")
    assert answers.shape == (48,)
    assert not (finished / "students" / row["key"]).exists()


def test_the_summary_tells_means_intervals_tests_and_speed(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    found = rows(finished)
    assert [outcome["settings"]["method"] for outcome in summary["best"]] == ["finetune", "kd"]
    for outcome, runs in zip(summary["outcomes"], (found[:2], found[2:]), strict=True):
        values = [run["dev"]["accuracy"] for run in runs]
        assert outcome["values"] == values
        assert outcome["over_seeds"] == pytest.approx(vars(t_interval(values)))
        assert outcome["overall"]["mean"] == pytest.approx(np.mean(values))
        assert outcome["overall"]["low"] <= np.mean(values) <= outcome["overall"]["high"]
        assert outcome["kept"]["mean"] == pytest.approx(np.mean(values) / summary["teacher"])
    (contest,) = summary["contests"]
    assert (contest["first"], contest["second"]) == ("finetune", "kd")
    means = [outcome["overall"]["mean"] for outcome in summary["outcomes"]]
    assert contest["comparison"]["difference"]["mean"] == pytest.approx(means[0] - means[1])
    assert contest["p_adjusted"] == contest["comparison"]["p_bootstrap"]
    assert set(summary["speeds"]) == {found[0]["architecture"], "teacher"}
    assert all(speed["latency_s"] > 0 < speed["texts_per_s"] for speed in summary["speeds"].values())
    assert (finished / "frontier.png").read_bytes().startswith(b"\x89PNG")


def _sweep_and_die(*given: Any) -> None:
    """In a process of its own: is killed by SIGKILL while it writes the third row."""
    add = Results.add

    def deadly_add(self: Results, row: Row, answers: Any = None) -> None:
        if len(self._rows) == 2:
            with (self.directory / ROWS).open("ab") as file:
                file.write(b'{"key": "torn')
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        add(self, row, answers)

    Results.add = deadly_add  # type: ignore[method-assign]
    sweep(*given)


def test_a_killed_sweep_goes_on_and_ends_with_the_same_rows(
    finished: Path,
    bert_teacher: Path,
    small_tables: tuple[Path, Path],
    space: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    given = (space, str(bert_teacher), *map(str, small_tables), output)
    assert exit_code(_sweep_and_die, *given) == -signal.SIGKILL
    assert (output / "results.jsonl").read_bytes().endswith(b'{"key": "torn')
    assert (output / "summary.json").exists() is False
    sweep(*given)
    said = capsys.readouterr().out
    assert "4 runs, 2 done before" in said
    assert "[1/4]" not in said
    assert "[3/4]" in said
    assert rows(output) == rows(finished)


def test_a_changed_table_or_teacher_is_refused(
    finished: Path, bert_teacher: Path, small_tables: tuple[Path, Path], space: Path, tmp_path: Path
) -> None:
    from tests.conftest import make_model

    train, dev = small_tables
    before = (finished / "results.jsonl").read_bytes()
    shorter = tmp_path / "dev.tsv"
    shorter.write_text("".join(dev.read_text().splitlines(keepends=True)[:-1]))
    other = make_model(tmp_path / "other")
    for teacher, table, name in ((bert_teacher, shorter, "dev"), (other, dev, "teacher")):
        with pytest.raises(InputError, match=f"is a sweep of a changed '{name}'"):
            sweep(space, str(teacher), str(train), str(table), finished)
    for file, change, name in (
        ("config.json", {"layer_norm_eps": 1e-3}, "config"),
        ("tokenizer_config.json", {"model_max_length": 9}, "tokenizer"),
    ):
        copy = Path(shutil.copytree(bert_teacher, tmp_path / name))
        content = json.loads((copy / file).read_text())
        (copy / file).write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match=f"is a sweep of a changed '{name}'"):
            sweep(space, str(copy), str(train), str(dev), finished)
    with pytest.raises(InputError, match="is a sweep of a changed 'holdout'"):
        sweep(space, str(bert_teacher), str(train), str(dev), finished, holdout=0.25)
    assert (finished / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "more", "reason"),
    [
        ("settings = {layers = 2, lr = 1e-4}", [], "'lr' is an unknown setting"),
        ("settings = {layers = [2, 4], init = 'teacher-skip'}", [], "asked for 4, the teacher has 4"),
        (
            "settings = {layers = 2, init = 'teacher-skip', metric = ['accuracy', 'f1']}",
            [],
            "'metric' must be the same",
        ),
        ("settings = {layers = 2, init = 'teacher-skip', metric = 'mse'}", [], "the metric 'mse' does not fit"),
        (
            "settings = {layers = 2, init = 'teacher-skip', relation_weight = 1, relation_layer = [4, 5]}",
            [],
            "1 to 4, not 5",
        ),
        (
            "settings = {layers = 2, init = 'teacher-skip', relation_weight = 1, relation_heads = [4, 5]}",
            [],
            "width 32 and the student's 32; 5 does not",
        ),
        (
            "settings = {layers = 2, method = 'kd', init = 'teacher-skip', relation_weight = 1, relations = 'minilm', "
            "width = 16, heads = [4, 2]}",
            [],
            "the teacher has 4, the student 2",
        ),
        (GRID, ["--holdout", "1"], "--holdout is a share"),
        (GRID, ["--holdout", "0.01"], "too few rows to hold 0.01 of them out"),
        (GRID, ["--compare", "lr"], "'lr' is no setting"),
        (GRID, ["--compare", "seed"], "'seed' cannot be compared"),
        (GRID, ["--compare", "layers"], "'layers' cannot be compared: tests are between students of one kind"),
        (GRID.replace('"finetune", "kd"', '"kd", "finetune"'), ["--unlabelled", "x"], "--unlabelled needs a loss with"),
        (
            "settings = {layers = 2}\nvariants = [{init = 'teacher-skip'}, {base = 'no/model'}]",
            [],
            "'no/model' is neither a directory",
        ),
        (GRID, ["--cache", "x", "--no-cache"], "exclude each other"),
    ],
)
def test_bad_arguments_are_one_line_before_anything_runs(
    content: str,
    more: list[str],
    reason: str,
    understudy: Callable[..., Any],
    bert_teacher: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "space.toml").write_text(content)
    train, dev = small_tables
    result = understudy(
        *("sweep", tmp_path / "space.toml", "--teacher", bert_teacher, "--train", train, "--dev", dev),
        *("-o", tmp_path / "out", *more),
    )
    assert result.code == 2
    assert reason in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_with_a_holdout_the_dev_table_only_reports(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "space.toml"
    space.write_text('settings = {layers = 2, epochs = 1, init = "teacher-skip", learning_rate = 1e-3}')
    train, dev = map(str, small_tables)
    summary = sweep(space, str(bert_teacher), train, dev, tmp_path / "out", holdout=0.25, keep_students=True)
    assert summary.chosen_on == "holdout"
    (row,) = rows(tmp_path / "out")
    parts = [(tmp_path / "out" / "split" / f"{name}.jsonl").read_text().splitlines() for name in ("train", "holdout")]
    texts = {json.loads(line)["text"] for part in parts for line in part}
    assert len(texts) == len({line.split("\t")[0] for line in Path(train).read_text().splitlines()[1:]})
    labels = [json.loads(line)["label"] for line in parts[1]]
    assert {labels.count(label) for label in labels} == {8}
    record = json.loads((tmp_path / "out" / "students" / row["key"] / "distillation.json").read_text())
    assert (record["data"]["train"]["rows"], record["data"]["dev"]["rows"]) == (72, 24)
    assert record["best_dev"] == row["chosen_on"]
    labels = [line.split("\t")[1] for line in Path(dev).read_text().splitlines()[1:]]
    answers = np.load(tmp_path / "out" / "answers" / f"{row['key']}.npy")
    assert row["dev"]["accuracy"] == np.mean([record["labels"][answer] for answer in answers] == np.array(labels))
    assert "flatters" not in capsys.readouterr().out


def test_with_a_holdout_no_run_learns_from_dev_texts(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    space = tmp_path / "space.toml"
    space.write_text('settings = {layers = 2, epochs = 1, init = "teacher-skip", method = "kd"}')
    train, dev = map(str, small_tables)
    texts = [line.split("\t")[0] for line in Path(dev).read_text().splitlines()[1:]]
    unlabelled = write_tsv(tmp_path / "texts.tsv", [{"text": text} for text in [*texts, "one of its own"]])
    more = {"unlabelled": str(unlabelled), "holdout": 0.25, "keep_students": True}
    sweep(space, str(bert_teacher), train, dev, tmp_path / "out", **more)
    (row,) = rows(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "students" / row["key"] / "distillation.json").read_text())
    assert record["data"]["unlabelled"]["in_dev"] == len(texts)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (InputError("these do not go together"), "these do not go together"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has"), "out of memory (tried"),
    ],
)
def test_a_run_that_cannot_be_made_is_a_row_and_the_others_go_on(
    fault: Exception,
    told: str,
    bert_teacher: Path,
    small_tables: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from distill.sweep import runs

    real = runs.distill

    def refusing(*arguments: Any, **options: Any) -> Any:
        if arguments[4].method == "finetune":
            raise fault
        return real(*arguments, **options)

    monkeypatch.setattr(runs, "distill", refusing)
    space = tmp_path / "space.toml"
    space.write_text('settings = {layers = 2, epochs = 1, init = "teacher-skip", method = ["finetune", "kd"]}')
    summary = sweep(space, str(bert_teacher), *map(str, small_tables), tmp_path / "out")
    assert [(row["settings"]["method"], row["failed"]) for row in rows(tmp_path / "out")] == [("kd", None)]
    assert (summary.failed, len(summary.outcomes)) == (1, 1)
    assert f"failed: {told}" in capsys.readouterr().out
    monkeypatch.setattr(runs, "distill", real)
    again = sweep(space, str(bert_teacher), *map(str, small_tables), tmp_path / "out")
    assert (again.failed, len(again.outcomes)) == (0, 2)


def test_mutual_information_of_xlnet_is_refused_before_anything_runs(
    small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    space = tmp_path / "space.toml"
    space.write_text('settings = {layers = 2, method = "kd", init = "teacher-skip", dim_weight = [0, 0.5]}')
    teacher = make_model(tmp_path / "teacher", "xlnet")
    with pytest.raises(InputError, match="the head of 'xlnet' reads the last one"):
        sweep(space, str(teacher), *map(str, small_tables), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_of_a_base_that_changed_are_not_used(
    bert_base: Path, bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    base = Path(shutil.copytree(bert_base, tmp_path / "base"))
    space = tmp_path / "space.toml"
    space.write_text(f'settings = {{layers = 2, epochs = 1, method = "finetune", base = "{base}"}}')
    given = (space, str(bert_teacher), *map(str, small_tables), tmp_path / "out")
    sweep(*given)
    sweep(*given)
    assert len(rows(tmp_path / "out")) == 1
    make_model(base, pretrained=True, scale=2.0)
    sweep(*given)
    first, second = rows(tmp_path / "out")
    assert first["settings"] == second["settings"]
    assert first["weights_sha256"] != second["weights_sha256"]


def test_a_random_search_draws_each_variant_and_keeps_what_failed(
    bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "space.toml"
    space.write_text(
        """
        search = {kind = "random", trials = 2}
        settings = {layers = [1, 2], epochs = 1, init = "teacher-skip", seed = [0, 1]}
        [[variants]]
        method = "kd"
        learning_rate = {low = 1e-4, high = 1e-3, log = true}
        [[variants]]
        method = "finetune"
        learning_rate = {low = 0.98, high = 0.99}
        """
    )
    from distill.sweep import runs

    train, dev = map(str, small_tables)
    real = runs.distill

    def diverging(*arguments: Any, **options: Any) -> Any:
        if arguments[4].method == "finetune":
            raise runs.DivergedError("the loss is nan at step 3")
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "distill", diverging)
        summary = sweep(space, str(bert_teacher), train, dev, tmp_path / "out")
        found = rows(tmp_path / "out")
        assert len(found) == 8
        assert summary.failed == 4
        assert {outcome.settings["method"] for outcome in summary.outcomes} == {"kd"}
        assert "failed: the loss is nan at step 3" in capsys.readouterr().out
        # Rows that are there are not trained again, and the same points are drawn.
        patch.setattr(runs, "distill", None)
        sweep(space, str(bert_teacher), train, dev, tmp_path / "out")
        assert rows(tmp_path / "out") == found
        space.write_text(space.read_text().replace('method = "kd"', 'method = "finetune"'))
        patch.setattr(runs, "distill", diverging)
        with pytest.raises(WorkFailedError, match="no run ended with a student; the first: the loss is nan"):
            sweep(space, str(bert_teacher), train, dev, tmp_path / "other")
    shutil.rmtree(tmp_path / "out")
