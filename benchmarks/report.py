"""The results told: a table on the terminal, and `report.md` with its plots."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.measure import ENOUGH_FOR_P99, ROLES, ratio
from benchmarks.plots import draw_latency, draw_quality
from common.progress import console

REPORT_FILE = "report.md"

Row = tuple[str, str, str, str]

# Stands for a figure that there is not.
_NONE = "–"


def count(number: int, name: str) -> str:
    """`1 text`, `1,200 texts`."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def same_model(bundles: dict[str, dict[str, Any]]) -> str:
    """A line for two bundles, by role, whose models are the same file; empty for others."""
    student, teacher = (bundles[role]["sha256"] for role in ROLES)
    if student != teacher:
        return ""
    return "Student and teacher hold the same model.onnx: this is a model measured against itself."


def summary_rows(results: dict[str, Any]) -> list[Row]:
    """The figures that matter most, as text: what it is, the student's, the teacher's, their ratio or a remark."""
    student, teacher = (results["bundles"][role] for role in ROLES)
    latency, throughput, process = results["latency"], results["throughput"][-1], results["process"]
    rate, agreement = throughput["texts_per_s"], results["agreement"]
    rows = [
        ("layers", str(student["layers"]), str(teacher["layers"]), _of(student, teacher, "layers")),
        *[
            (name, f"{student[key] / 1e6:.1f} {unit}", f"{teacher[key] / 1e6:.1f} {unit}", _of(student, teacher, key))
            for name, key, unit in (("parameters", "parameters", "M"), ("bundle size", "bytes", "MB"))
        ],
        *_quality_row(results),
        ("agreement with the teacher", _share(agreement), "", agreement["name"]),
        _compared("p50 latency, one text", latency["p50_ms"], "{:.2f} ms"),
        _compared("p99 latency, one text", latency["p99_ms"], "{:.2f} ms"),
        _compared(f"texts/s, batches of {throughput['batch']}", rate, "{:,.0f}", with_range=True),
        _compared("peak memory", process["peak_memory_mb"], "{:,.0f} MB"),
        _compared("start-up", process["start_up_s"], "{:.2f} s"),
    ]
    alone = latency["p50_ms"]["teacher"] / latency["p50_ms"]["student"]
    remark = f"{rate['ratio']:.2f}× in batches of {throughput['batch']}"
    rows.append(("speed-up, one text", f"{alone:.2f}×", "1×", remark))
    return rows


def print_summary(rows: Iterable[Row]) -> None:
    """Prints what `summary_rows` gives as a table."""
    table = Table()
    table.add_column("")
    for name in ROLES:
        table.add_column(name, justify="right")
    table.add_column("student / teacher")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def write_report(results: dict[str, Any], directory: Path) -> Path:
    """Writes `report.md` and the plots that it shows; returns the report's path."""
    latency_plot = draw_latency(results, directory)
    quality_plot = draw_quality(results, directory) if results["quality"] else None
    sections = [
        _introduction(results),
        _table(("", *ROLES, "student / teacher"), summary_rows(results)),
        "## Latency of one text",
        _latency(results),
        f"![Latency by length]({latency_plot})",
        "## Throughput",
        _throughput(results),
        "## Answers",
        _answers(results),
        *([f"![{results['quality']['metric']} against speed]({quality_plot})"] if quality_plot else []),
        "## How it was measured",
        _method(results),
    ]
    path = directory / REPORT_FILE
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def _introduction(results: dict[str, Any]) -> str:
    data, machine = results["data"], results["machine"]
    student, teacher = (results["bundles"][role] for role in ROLES)
    load = machine["load_before"]
    busy = f"; {load} runnable tasks on it in the minute before" if load is not None else ""
    note = same_model(results["bundles"])
    return (
        f"# {student['name']} against {teacher['name']}\n\n"
        f"{count(data['rows'], 'labelled text' if data['labelled'] else 'text')} of {data['name']} "
        f"(sha256 {data['sha256'][:12]}…), {count(results['rounds'], 'round')}, seed {results['seed']}.\n"
        f"{machine['cpu']}, {count(machine['cores'], 'core')}, {count(results['threads'], 'thread')} a model{busy}.\n"
        f"{_engine(results)}, Python {machine['python']}." + (f"\n\n{note}" if note else "")
    )


def _engine(results: dict[str, Any]) -> str:
    if results["engine"] == "onnx":
        return f"ONNX Runtime {results['machine']['onnxruntime']}"
    return f"PyTorch {results['machine']['torch']} on {results['devices']['student']}"


def _latency(results: dict[str, Any]) -> str:
    everything = {"tokens": "all, as they come", "joined": 0, **results["latency"]}
    rows = [
        (
            part["tokens"] + ("*" if part["joined"] else ""),
            str(part["texts"]),
            str(part["measured"]),
            *[_value(part[f"p{rank}_ms"], role, "{:.2f}") for role in ROLES for rank in (50, 90, 99)],
            _times(part["p50_ms"]["ratio"]),
        )
        for part in (everything, *results["latency_by_length"])
    ]
    head = ("tokens", "texts", "calls", *[f"{role} p{rank}" for role in ROLES for rank in (50, 90, 99)], "p50 ratio")
    text = "Milliseconds from the string to the answer, tokenizing included.\n\n" + _table(head, rows)
    if any(part["p99_ms"] is None for part in (everything, *results["latency_by_length"])):
        text += f"\n\n{_NONE}: fewer than {ENOUGH_FOR_P99} calls, too few for a 99th percentile."
    joined = [
        f"{part['joined']} of {part['texts']} at {part['tokens']}"
        for part in results["latency_by_length"]
        if part["joined"]
    ]
    if joined:
        text += (
            f"\n\n\\* The data has too few texts of this length: consecutive texts were joined into one "
            f"({', '.join(joined)} tokens)."
        )
    return text


def _throughput(results: dict[str, Any]) -> str:
    rows = [
        (
            str(part["batch"]),
            str(part["texts"]),
            *[f"{part['texts_per_s'][role]:,.1f}" for role in ROLES],
            _times(part["texts_per_s"]["ratio"]),
            _range(part["texts_per_s"]["ratio_range"]),
        )
        for part in results["throughput"]
    ]
    head = ("batch size", "texts", *[f"{role}, texts/s" for role in ROLES], "ratio", "ratio of single rounds")
    return _table(head, rows) + "\n\nBatches of like length, tokenizing included."


def _answers(results: dict[str, Any]) -> str:
    quality, agreement = results["quality"], results["agreement"]
    text = f"Student and teacher, {agreement['name']}: {_share(agreement)} over {count(agreement['rows'], 'text')}."
    if quality is None:
        return text + " The data has no labels, so neither was measured against the truth."
    student, teacher = (quality[role] for role in ROLES)
    rows = [(name, f"{student[name]:.4f}", f"{teacher[name]:.4f}") for name in student]
    if quality["retention"] is not None:
        text += f" The student keeps {100 * quality['retention']:.1f} % of the teacher's {quality['metric']}."
    return text + "\n\n" + _table((count(quality["rows"], "row"), *ROLES), rows)


def _method(results: dict[str, Any]) -> str:
    process = results["process"]
    longest = "longest text" if process["texts"] == 1 else f"{process['texts']} longest texts in batches"
    lines = [
        "- Both models ran in one process and took turns: in every round each figure was taken of one and then at once "
        "of the other, and the rounds swapped who went first. Both models were warmed up before. Throughput is the "
        "median of the rounds; percentiles are over the calls of all rounds together.",
        f"- The texts of the latencies were drawn from the data with seed {results['seed']}. For throughput they are "
        "groups of neighbours in length, at even distances from the shortest to the longest, as in a long table that "
        "is cut into batches by length. They are as many as the time allowed, and the same for both models.",
        f"- Start-up and peak memory are medians of {process['launches']} fresh processes a model: from the start of "
        "the process to its first answer (Python, imports, verifying and opening the bundle), and the most physical "
        f"memory held while answering the {longest}, libraries included.",
        "- Quality and agreement are over every text of the data.",
    ]
    truncated = [
        f"{role} {bundle['truncated_rows']} (over {bundle['max_length']} tokens)"
        for role, bundle in results["bundles"].items()
        if bundle["truncated_rows"]
    ]
    if truncated:
        lines.append(f"- Truncated rows: {', '.join(truncated)}.")
    return "\n".join(lines)


def _quality_row(results: dict[str, Any]) -> list[Row]:
    quality = results["quality"]
    if quality is None:
        return []
    metric, kept = quality["metric"], quality["retention"]
    student, teacher = (f"{quality[role][metric]:.4f}" for role in ROLES)
    return [
        (
            f"{metric} on {results['data']['name']}",
            student,
            teacher,
            f"{100 * kept:.1f} % kept" if kept is not None else "",
        )
    ]


def _share(agreement: dict[str, Any]) -> str:
    value = agreement["value"]
    return f"{value:.4f}" if "correlation" in agreement["name"] else f"{100 * value:.1f} %"


def _compared(name: str, figure: dict[str, Any] | None, form: str, *, with_range: bool = False) -> Row:
    remark = _times(figure["ratio"]) if figure else ""
    if with_range and figure and figure["ratio_range"]:
        remark += f" ({_range(figure['ratio_range'])})"
    return (name, _value(figure, "student", form), _value(figure, "teacher", form), remark)


def _value(figure: dict[str, Any] | None, role: str, form: str) -> str:
    return form.format(figure[role]) if figure else _NONE


def _of(student: dict[str, Any], teacher: dict[str, Any], key: str) -> str:
    return _times(ratio(student[key], teacher[key]))


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def _range(values: list[float] | None) -> str:
    return "" if values is None else f"{values[0]:.2f}–{values[1]:.2f}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *[list(row) for row in rows]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
