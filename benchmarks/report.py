"""The results told: a table on the terminal, and `report.md` with its plots."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.measure import ROLES, ratio
from benchmarks.plots import draw_latency, draw_quality
from common.progress import console

REPORT_FILE = "report.md"

Row = tuple[str, str, str, str]


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
        _compared(f"texts/s, batches of {throughput['batch']}", rate, "{:,.0f}"),
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
    return (
        f"# {student['name']} against {teacher['name']}\n\n"
        f"{data['rows']:,} {'labelled ' if data['labelled'] else ''}texts of {data['name']} "
        f"(sha256 {data['sha256'][:12]}…), {_count(results['rounds'], 'round')}, seed {results['seed']}.\n"
        f"{machine['cpu']}, {_count(machine['cores'], 'core')}, {_count(results['threads'], 'thread')} a model{busy}.\n"
        f"Python {machine['python']}, ONNX Runtime {machine['onnxruntime']}."
    )


def _latency(results: dict[str, Any]) -> str:
    everything = {"tokens": "all, as they come", "joined": 0, **results["latency"]}
    rows = [
        (
            part["tokens"] + ("*" if part["joined"] else ""),
            str(part["texts"]),
            str(part["measured"]),
            *[f"{part[f'p{rank}_ms'][role]:.2f}" for role in ROLES for rank in (50, 90, 99)],
            _times(part["p50_ms"]["ratio"]),
        )
        for part in (everything, *results["latency_by_length"])
    ]
    head = ("tokens", "texts", "calls", *[f"{role} p{rank}" for role in ROLES for rank in (50, 90, 99)], "p50 ratio")
    text = "Milliseconds from the string to the answer, tokenizing included.\n\n" + _table(head, rows)
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
    return _table(head, rows) + "\n\nTexts sorted by length, tokenizing included."


def _answers(results: dict[str, Any]) -> str:
    quality, agreement = results["quality"], results["agreement"]
    text = f"Student and teacher, {agreement['name']}: {_share(agreement)} over {agreement['rows']:,} texts."
    if quality is None:
        return text + " The data has no labels, so neither was measured against the truth."
    student, teacher = (quality[role] for role in ROLES)
    rows = [(name, f"{student[name]:.4f}", f"{teacher[name]:.4f}") for name in student]
    if quality["retention"] is not None:
        text += f" The student keeps {100 * quality['retention']:.1f} % of the teacher's {quality['metric']}."
    return text + "\n\n" + _table((f"{quality['rows']:,} rows", *ROLES), rows)


def _method(results: dict[str, Any]) -> str:
    process = results["process"]
    lines = [
        f"- Both models ran in one process and took turns: in each of {_count(results['rounds'], 'round')} each figure "
        "was taken of one and then at once of the other, and the rounds swapped who went first. Figures are medians "
        "over the rounds, percentiles the median of each round's own; both models were warmed up before.",
        f"- The timed texts were drawn from the data with seed {results['seed']}, as many as the time allowed, the "
        "same for both. For throughput they are groups of neighbours in length, as in a long table that is cut into "
        "batches by length.",
        f"- Start-up and peak memory are medians of {process['launches']} fresh processes a model: from the start of "
        "the process to its first answer (Python, imports, verifying and opening the bundle), and the most physical "
        f"memory held while answering the {process['texts']} longest texts in batches, libraries included.",
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


def _compared(name: str, figure: dict[str, Any], form: str) -> Row:
    return (name, form.format(figure["student"]), form.format(figure["teacher"]), _times(figure["ratio"]))


def _of(student: dict[str, Any], teacher: dict[str, Any], key: str) -> str:
    return _times(ratio(student[key], teacher[key]))


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def _range(values: list[float] | None) -> str:
    return "" if values is None else f"{values[0]:.2f}–{values[1]:.2f}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *[list(row) for row in rows]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
