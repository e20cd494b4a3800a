"""`bench` on tiny bundles, from the arguments to the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import bench as module
from benchmarks.bench import process_cost, roofline
from benchmarks.bench.bench import bench
from benchmarks.bench.estimates import Estimate
from benchmarks.bench.process_cost import ProcessCost
from benchmarks.bench.report.schema import read_results
from benchmarks.bench.roofline import Roofline
from benchmarks.bench.settings import SCENARIOS, BenchSettings
from common.errors import InputError, WorkFailedError
from common.examples import BY_USUAL_NAMES
from common.machine import usable_cores
from export.bundle import MANIFEST_FILE

SHORT = BenchSettings(scenarios=("single-stream", "multi-stream", "offline"), rounds=3, seconds=0.1, threads=1)
OFFLINE = BenchSettings(scenarios=("offline",), rounds=2, seconds=0.01, threads=1)


@pytest.fixture
def no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where start-up, memory and the machine's peak are not the point."""
    monkeypatch.setattr(
        module, "measure_processes", lambda models, *_, **__: {model.id: [ProcessCost(0.5, 10**8)] for model in models}
    )
    monkeypatch.setattr(module, "measure_peak", lambda threads: Roofline(Estimate(1e11, 0.9e11, 1.1e11), threads))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, messages: list[str]) -> str:
    path = tmp_path_factory.mktemp("data") / "dev.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{'abc'[row % 3]}\n" for row, text in enumerate(messages[:80])))
    return str(path)


@pytest.fixture(scope="module")
def finished(student: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory, labelled: str):
    """One whole run of two students on labelled texts: its results and the report's directory."""
    directory = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_cost, "LAUNCHES", 1)
        patch.setattr(roofline, "_ROUNDS", 1)
        results = bench([student, f"{student}@onnx"], directory / "report", SHORT, teacher=teacher, data=labelled)
    return results, directory / "report"


def test_files_are_there_and_hold_the_results(finished: tuple[dict[str, Any], Path]) -> None:
    results, directory = finished
    assert {"results.json", "report.html", "report.md"} <= {path.name for path in directory.iterdir()}
    assert json.loads((directory / "results.json").read_text()) == results
    assert [path.name for path in directory.parent.iterdir() if path.name.startswith(".")] == []
    assert read_results(directory).teacher.id == "teacher"


def test_all_models_take_part_in_everything(finished: tuple[dict[str, Any], Path]) -> None:
    results, _ = finished
    assert [(model["id"], model["role"], model["layers"]) for model in results["models"]] == [
        ("teacher", "teacher", 2),
        ("student", "student", 1),
        ("student-2", "student", 1),
    ]
    everyone = {"teacher", "student", "student-2"}
    for part in ("quality", "single_stream", "multi_stream", "offline", "cost"):
        assert set(results[part]["models"]) == everyone
    assert set(results["agreement"]["models"]) == everyone - {"teacher"}
    assert set(results["noise"]["warm_up"]) == everyone
    assert set(results["noise"]["rounds"]) == everyone | {"machine"}
    assert results["server"] is None


def test_the_run_is_described(finished: tuple[dict[str, Any], Path]) -> None:
    results, _ = finished
    assert results["machine"]["cores"] == usable_cores()
    assert results["machine"]["pinned_cores"] is None or len(results["machine"]["pinned_cores"]) == 1
    assert results["settings"]["threads"] == 1
    assert results["task"] == {"problem_type": "single_label_classification", "labels": ["a", "b", "c"]}
    assert (results["data"]["name"], results["data"]["rows"], results["data"]["labelled"]) == ("dev.tsv", 80, True)
    assert results["quality"]["rows"] == 80
    assert results["roofline"]["threads"] == 1


def test_too_few_rounds_refuse_a_verdict(finished: tuple[dict[str, Any], Path]) -> None:
    results, directory = finished
    assert results["noise"]["verdict"] == "noisy"
    assert "3 rounds are too few for an interval" in results["noise"]["reasons"]
    assert "3 rounds are too few" in (directory / "report.md").read_text()


def test_one_model_against_itself_agrees_with_itself(finished: tuple[dict[str, Any], Path]) -> None:
    agreement = finished[0]["agreement"]["models"]
    assert agreement["student"] == agreement["student-2"]
    assert finished[0]["quality"]["models"]["student"] == finished[0]["quality"]["models"]["student-2"]


@pytest.mark.usefixtures("no_cost")
def test_a_run_without_labels_and_with_one_text(
    student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str]
) -> None:
    results = bench([student], tmp_path / "report", SHORT, teacher=teacher, data=table(1))
    assert results["quality"] is None
    assert results["agreement"]["models"]["student"]["rows"] == 1
    assert [part["batch"] for part in results["offline"]["models"]["student"]["by_batch"]] == [1]
    assert results["single_stream"]["models"]["student"]["p99_ms"] is None


@pytest.mark.usefixtures("no_cost")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_scenario_alone(
    student: Path,
    teacher: Path,
    tmp_path: Path,
    table: Callable[..., str],
    scenario: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served: dict[str, Any] = {"bound_ms": 50.0, "models": {}}
    monkeypatch.setattr(module, "measure_server", lambda *_, **__: served)
    settings = BenchSettings(scenarios=(scenario,), rounds=1, seconds=0.01, threads=1)
    results = bench([student], tmp_path / "report", settings, teacher=teacher, data=table(10))
    for name in SCENARIOS:
        assert (results[name.replace("-", "_")] is not None) == (name == scenario)


@pytest.mark.usefixtures("no_cost")
def test_several_labels(
    student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str], changed: Callable[..., Path]
) -> None:
    def several(config: dict[str, Any]) -> None:
        config["problem_type"] = "multi_label_classification"

    data = table(40, lambda row: ["a", "a|b", "c"][row % 3])
    students = [changed(student, "config.json", several)]
    results = bench(students, tmp_path / "r", OFFLINE, teacher=changed(teacher, "config.json", several), data=data)
    assert results["quality"]["metric"] == "micro-f1"
    assert results["agreement"]["models"]["student"]["name"] == "same set of labels"


@pytest.mark.usefixtures("no_cost")
def test_numbers(tmp_path: Path, table: Callable[..., str], make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle("regression", 1, ("score",))
    results = bench([bundle], tmp_path / "report", OFFLINE, teacher=bundle, data=table(40, str))
    assert results["quality"]["metric"] == "pearson-spearman"
    assert results["agreement"]["models"]["regression"]["value"]["value"] == pytest.approx(1.0)


@pytest.mark.usefixtures("no_cost")
def test_against_an_earlier_run(
    student: Path, teacher: Path, tmp_path: Path, labelled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {"teacher": teacher, "data": labelled}
    settings = BenchSettings(scenarios=("offline",), rounds=6, seconds=0.01, threads=1)
    bench([student], tmp_path / "old", settings, **run)
    old = tmp_path / "old" / "results.json"
    results = json.loads(old.read_text())
    for name in ("value", "low", "high"):
        results["quality"]["models"]["student"]["metrics"]["accuracy"][name] = 0.99
    old.write_text(json.dumps(results))
    capsys.readouterr()
    with pytest.raises(WorkFailedError, match="worse"):
        bench([student], tmp_path / "new", settings, against=old, **run)
    assert (tmp_path / "new" / "report.html").is_file()
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.usefixtures("no_cost")
def test_other_data_are_no_earlier_run(
    finished: tuple[dict[str, Any], Path], student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str]
) -> None:
    old = finished[1] / "results.json"
    with pytest.raises(InputError):
        bench([student], tmp_path / "new", OFFLINE, teacher=teacher, data=table(10), against=old)
    assert not (tmp_path / "new").exists()


def test_labels_that_the_models_lack(student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str]) -> None:
    with pytest.raises(InputError, match="'other' is not one of the model's 3"):
        bench([student], tmp_path / "report", OFFLINE, teacher=teacher, data=table(8, lambda _: "other"))
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("no_cost")
@pytest.mark.parametrize(("label", "rows"), [("other", None), ("a", 8)])
def test_shipped_labels_count_where_they_are_the_models(
    student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str], label: str, rows: int | None
) -> None:
    results, _ = module.run_bench(
        [student],
        tmp_path / "report",
        OFFLINE,
        teacher=teacher,
        data=table(8, lambda _: label),
        columns=BY_USUAL_NAMES,
        servers=(),
        against=None,
        overwrite=False,
        quiet=True,
        foreign_labels=True,
    )
    assert (results["quality"] and results["quality"]["rows"]) == rows
    assert results["agreement"]["models"]["student"]["rows"] == 8


def test_no_student(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no student is named"):
        bench([], tmp_path / "report", OFFLINE, teacher=teacher, data="missing.tsv")


def test_a_taken_output_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").write_text("mine")
    missing = tmp_path / "missing"
    for overwrite in (False, True):
        with pytest.raises(InputError, match="choose another output"):
            bench([missing], tmp_path / "report", teacher=missing, data="missing.tsv", overwrite=overwrite)
    assert (tmp_path / "report" / "mine.txt").read_text() == "mine"


@pytest.mark.usefixtures("no_cost")
def test_nothing_is_left_when_the_report_fails(
    student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Path:
        raise RuntimeError("no ink")

    monkeypatch.setattr(module, "write_report", fail)
    data = table(8)
    with pytest.raises(RuntimeError, match="no ink"):
        bench([student], tmp_path / "report", OFFLINE, teacher=teacher, data=data)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


@pytest.mark.usefixtures("no_cost")
def test_an_earlier_run_of_other_students_is_refused_before_the_work(
    finished: tuple[dict[str, Any], Path],
    make_bundle: Callable[..., Path],
    teacher: Path,
    tmp_path: Path,
    labelled: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_measure", lambda *_: pytest.fail("measured"))
    stranger = make_bundle("stranger", 1, ("a", "b", "c"))
    with pytest.raises(InputError, match="none of these students; it has student, student-2"):
        bench([stranger], tmp_path / "new", OFFLINE, teacher=teacher, data=labelled, against=finished[1])


@pytest.mark.usefixtures("no_cost")
def test_a_bundle_that_changes_meanwhile_is_no_result(
    student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(student, tmp_path / "copy"))

    def replace(*_: Any, **__: Any) -> dict[str, Any]:
        with (copy / MANIFEST_FILE).open("a") as file:
            file.write("\n")
        return {model: [ProcessCost(0.5, 10**8)] for model in ("teacher", "student")}

    monkeypatch.setattr(module, "measure_processes", replace)
    with pytest.raises(WorkFailedError, match="copy was changed while it was measured"):
        bench([copy], tmp_path / "report", OFFLINE, teacher=teacher, data=table(8))
    assert not (tmp_path / "report").exists()


def test_a_report_in_a_bundle_is_refused(
    student: Path, teacher: Path, table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(InputError, match="lies in the bundle"):
        bench([student], student / "report", OFFLINE, teacher=teacher, data=table(8))
