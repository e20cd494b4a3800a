"""`bench` on tiny bundles, from the arguments to the files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench as bench_module
from benchmarks import plots, report
from benchmarks.bench import bench
from benchmarks.process_cost import ProcessCost
from common.errors import InputError
from common.machine import usable_cores

COMPARED = {"student", "teacher", "ratio", "ratio_range"}
LATENCY = {"texts", "measured", "p50_ms", "p90_ms", "p99_ms"}


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where start-up and memory are not the point."""
    monkeypatch.setattr(bench_module, "measure_process", lambda *_: ProcessCost(0.5, 100.0))


@pytest.fixture(scope="module")
def finished(student: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory, messages: list[str]):
    """One whole run on labelled texts: its results and the report's directory."""
    directory = tmp_path_factory.mktemp("bench")
    data = directory / "dev.tsv"
    data.write_text("text\tlabel\n" + "".join(f"{text}\t{'abc'[row % 3]}\n" for row, text in enumerate(messages[:80])))
    results = bench(student, teacher, directory / "report", data=str(data), rounds=3, threads=1)
    return results, directory / "report"


def test_files_are_there_and_hold_the_results(finished: tuple[dict[str, Any], Path]) -> None:
    results, directory = finished
    names = {path.name for path in directory.iterdir()}
    assert names == {"results.json", "report.md", "latency_by_length.png", "accuracy_by_speed.png"}
    assert json.loads((directory / "results.json").read_text()) == results
    assert [path.name for path in directory.parent.iterdir() if path.name.startswith(".")] == []


def test_results_keep_their_schema(finished: tuple[dict[str, Any], Path]) -> None:
    results, _ = finished
    assert list(results) == [
        *(
            "made_by",
            "format_version",
            "machine",
            "engine",
            "devices",
            "threads",
            "seed",
            "rounds",
            "task",
            "data",
            "bundles",
        ),
        *("latency", "latency_by_length", "throughput", "process", "quality", "agreement", "seconds"),
    ]
    assert {"cpu", "cores", "python", "onnxruntime"} <= set(results["machine"])
    assert results["machine"]["cores"] == usable_cores()
    assert results["threads"] == 1
    assert results["task"]["labels"] == ["a", "b", "c"]
    assert results["data"]["name"] == "dev.tsv"
    assert results["data"]["rows"] == 80
    assert len(results["data"]["sha256"]) == 64
    assert {role: bundle["layers"] for role, bundle in results["bundles"].items()} == {"student": 1, "teacher": 2}
    for bundle in results["bundles"].values():
        assert len(bundle["sha256"]) == len(bundle["manifest_sha256"]) == 64
    assert set(results["latency"]) == LATENCY
    for part in results["latency_by_length"]:
        assert set(part) == LATENCY | {"tokens", "from", "to", "joined"}
        assert part["measured"] == 3 * part["texts"]
        assert part["joined"] <= part["texts"]
    assert [part["batch"] for part in results["throughput"]] == [1, 8, 32]
    assert results["throughput"][1]["texts"] >= 64  # eight groups, but all 80 texts are not enough for four of 32
    assert results["throughput"][2]["texts"] == 80
    assert results["latency"]["measured"] >= 100
    parts = (results["latency"], *results["latency_by_length"])
    for part in parts:
        assert (part["p99_ms"] is None) == (part["measured"] < 100)
    figures = [
        *(part[f"p{rank}_ms"] for part in parts for rank in (50, 90, 99) if part[f"p{rank}_ms"]),
        *(part["texts_per_s"] for part in results["throughput"]),
        *(results["process"][name] for name in ("start_up_s", "peak_memory_mb")),
    ]
    for figure in figures:
        assert set(figure) == COMPARED
        assert figure["student"] > 0
        assert figure["ratio"] == pytest.approx(figure["student"] / figure["teacher"], rel=1e-4)
        if figure["ratio_range"]:
            assert figure["ratio_range"][0] <= figure["ratio_range"][1]
    assert all(part["p99_ms"]["ratio_range"] is None for part in parts if part["p99_ms"])


def test_quality_is_over_every_row(finished: tuple[dict[str, Any], Path]) -> None:
    quality = finished[0]["quality"]
    assert (quality["metric"], quality["rows"]) == ("accuracy", 80)
    retention = quality["student"]["accuracy"] / quality["teacher"]["accuracy"]
    assert quality["retention"] == pytest.approx(retention, rel=1e-4)
    assert finished[0]["agreement"]["name"] == "same label"


def test_report_shows_the_same_rows_as_the_terminal(finished: tuple[dict[str, Any], Path]) -> None:
    results, directory = finished
    text = (directory / "report.md").read_text()
    rows = report.summary_rows(results)
    assert [row[0] for row in rows] == [
        *("layers", "parameters", "bundle size", "accuracy on dev.tsv", "agreement with the teacher"),
        *("p50 latency, one text", "p99 latency, one text", "texts/s, batches of 32"),
        *("peak memory", "start-up", "speed-up, one text"),
    ]
    for row in rows:
        assert f"| {' | '.join(row)} |" in text
    assert "(latency_by_length.png)" in text
    assert "(accuracy_by_speed.png)" in text
    rate = results["throughput"][-1]["texts_per_s"]
    low, high = rate["ratio_range"]
    assert rows[7][3] == f"{rate['ratio']:.2f}× ({low:.2f}–{high:.2f})"
    assert "same model.onnx" not in text


@pytest.mark.usefixtures("no_processes")
def test_unlabelled_and_few_texts(student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str]) -> None:
    results = bench(student, teacher, tmp_path / "report", data=table(10), rounds=1, threads=1)
    assert results["quality"] is None
    assert results["agreement"]["rows"] == 10
    assert [part["batch"] for part in results["throughput"]] == [1, 8]
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"results.json", "report.md", "latency_by_length.png"}
    assert "no labels" in (tmp_path / "report" / "report.md").read_text()
    assert results["latency"]["p99_ms"] is None
    assert ("p99 latency, one text", "–", "–", "") in report.summary_rows(results)
    assert "| p99 latency, one text | – | – |  |" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.usefixtures("no_processes")
def test_one_text(student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str]) -> None:
    bench(student, teacher, tmp_path / "report", data=table(1), rounds=1, threads=1)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "\n1 text of texts.jsonl" in text
    assert "1 core, " in text or usable_cores() > 1
    assert ", 1 round, " in text
    assert "over 1 text." in text
    assert "answering the longest text, " in text
    assert "1 texts" not in text
    assert "the 1 " not in text


@pytest.mark.usefixtures("no_processes")
def test_the_same_model_twice_is_said(
    student: Path, tmp_path: Path, table: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = "Student and teacher hold the same model.onnx"
    bench(student, student, tmp_path / "report", data=table(8), rounds=1, threads=1, quiet=True)
    assert capsys.readouterr().out.count(line) == 1
    assert (tmp_path / "report" / "report.md").read_text().count(line) == 1


@pytest.mark.parametrize("speeds", [(100.0, 100.0), (100.0, 96.0), (100.0, 2.0)])
@pytest.mark.parametrize("values", [(0.9, 0.9), (0.84, 0.841), (0.841, 0.84), (0.9, 0.4), (0.4, 0.9)])
def test_values_in_the_plot_stand_apart(
    speeds: tuple[float, float], values: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure) or save(figure, path))
    roles = ("student", "teacher")
    results = {
        "bundles": {role: {"layers": 6} for role in roles},
        "data": {"name": "dev.tsv"},
        "throughput": [{"batch": 32, "texts_per_s": dict(zip(roles, speeds, strict=True))}],
        "quality": {"metric": "accuracy", **{role: {"accuracy": v} for role, v in zip(roles, values, strict=True)}},
    }
    plots.draw_quality(results, tmp_path)
    axes = figures[0].axes[0]
    first, second = (text.get_window_extent() for text in axes.texts)
    assert not first.overlaps(second)
    assert min(first.x0, second.x0) >= axes.bbox.x0
    assert max(first.x1, second.x1) <= figures[0].bbox.x1
    for line in axes.lines:
        x, y = axes.transData.transform(line.get_xydata()[0])
        assert not any(box.x0 < x < box.x1 and box.y0 - 8 < y < box.y1 + 8 for box in (first, second))


@pytest.mark.usefixtures("no_processes")
def test_several_labels(
    student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str], changed: Callable[..., Path]
) -> None:
    def several(config: dict[str, Any]) -> None:
        config["problem_type"] = "multi_label_classification"

    data = table(40, lambda row: ["a", "a|b", "c"][row % 3])
    pair = (changed(student, "config.json", several), changed(teacher, "config.json", several))
    results = bench(*pair, tmp_path / "report", data=data, rounds=1, threads=1)
    assert results["quality"]["metric"] == "micro-f1"
    assert results["agreement"]["name"] == "same set of labels"


@pytest.mark.usefixtures("no_processes")
def test_numbers(tmp_path: Path, table: Callable[..., str], make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle("regression", 1, ("score",))
    results = bench(bundle, bundle, tmp_path / "report", data=table(40, str), rounds=1, threads=1)
    assert results["quality"]["metric"] == "pearson-spearman"
    assert results["agreement"] == {"name": "Pearson correlation", "value": pytest.approx(1.0), "rows": 40}


def _swap_labels(config: dict[str, Any]) -> None:
    config["id2label"] = {"0": "b", "1": "a", "2": "c"}


def _rename_label(config: dict[str, Any]) -> None:
    config["id2label"]["2"] = "d"


def _change_task(config: dict[str, Any]) -> None:
    config["problem_type"] = "multi_label_classification"


def _lose_a_word(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["unseen"] = vocabulary.pop("the")


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("config.json", _swap_labels, "same labels in another order: label 0 is 'b' and 'a'"),
        ("config.json", _rename_label, "different labels; only one of them has: c, d"),
        ("config.json", _change_task, "differ in problem_type"),
        ("tokenizer.json", _lose_a_word, "student and teacher tokenizers differ"),
    ],
)
def test_models_that_cannot_be_compared(
    student: Path,
    teacher: Path,
    tmp_path: Path,
    table: Callable[..., str],
    changed: Callable[..., Path],
    file: str,
    edit: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        bench(changed(student, file, edit), teacher, tmp_path / "report", data=table(8), rounds=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_labels_that_the_models_lack(student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str]) -> None:
    with pytest.raises(InputError, match="'other' is not one of the model's 3"):
        bench(student, teacher, tmp_path / "report", data=table(8, lambda _: "other"), rounds=1)


def test_missing_matplotlib_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    missing = tmp_path / "missing"
    with pytest.raises(ModuleNotFoundError) as caught:
        bench(missing, missing, tmp_path / "report", data="missing.tsv")
    assert caught.value.name == "matplotlib"


def test_a_taken_output_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").write_text("mine")
    missing = tmp_path / "missing"
    for overwrite in (False, True):
        with pytest.raises(InputError, match="choose another output"):
            bench(missing, missing, tmp_path / "report", data="missing.tsv", overwrite=overwrite)
    assert (tmp_path / "report" / "mine.txt").read_text() == "mine"


@pytest.mark.usefixtures("no_processes")
def test_nothing_is_left_when_the_report_fails(
    student: Path, teacher: Path, tmp_path: Path, table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(report, "draw_latency", fail)
    data = table(8)
    with pytest.raises(RuntimeError, match="no ink"):
        bench(student, teacher, tmp_path / "report", data=data, rounds=1, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]
