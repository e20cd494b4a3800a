"""The last lines of a GPU run: which targets are met, and the headline times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.attention_baselines import FUSED
from benchmarks.gpu.targets import BOTH, FORWARD, PASSES

# Columns of the headline table: a ratio's name and its head.
_RATIOS = {
    "over_flash": "/flash",
    "over_cudnn": "/cudnn",
    "common_over": "eager/",
    "projecting_once": "once",
    "kernel": "kernel",
    "best_other_over": "other/",
}


def summary_lines(report: dict[str, Any]) -> list[str]:
    """A report of `benchmarks.relative_attention` as lines of text: headline table, targets, and what is missing."""
    device = report["machine"]["device"]
    lines = [f"relative_attention on {device}, {report['heads']} heads of {report['d_head']}:", *headline(report)]
    if device == "cpu":
        lines.append("a CPU's times at toy sizes: they try the path and say nothing of the targets, which are a GPU's")
    lines += target_lines(report["targets"])
    lines += missing_lines(report["records"])
    if report["stopped"]:
        count = sum(len(case["implementations"]) for case in report["not_reached"])
        lines.append(f"stopped: {report['stopped']}; measurements not reached: {count}")
    return lines


def headline(report: dict[str, Any]) -> list[str]:
    """The first batch of each dtype, by length: relative_attention's median in µs and its ratios.

    '/flash' and '/cudnn' are its time over theirs; 'eager/' and 'other/' the common and the best other one's over its;
    'once' what projecting the positions once gains the common one, and 'kernel' what the kernel gains beyond.
    """
    if not report["records"]:
        return ["nothing was measured"]
    batch = report["records"][0]["batch"]
    medians = {
        (record["dtype"], record["length"], work): record[work].get("median_ms")
        for record in report["records"]
        for work in PASSES
        if record["batch"] == batch and record["implementation"] == FUSED
    }
    rows = [["dtype", "pass", "B", "T", "µs", *_RATIOS.values(), "best other"]]
    order = {FORWARD: "fwd", BOTH: "fwd+bwd"}
    chosen = [entry for entry in report["ratios"] if entry["batch"] == batch]
    for entry in sorted(chosen, key=lambda e: (e["dtype"] != chosen[0]["dtype"], e["pass"] != FORWARD, e["length"])):
        median = medians.get((entry["dtype"], entry["length"], entry["pass"]))
        rows.append(
            [
                entry["dtype"], order[entry["pass"]], str(batch), str(entry["length"]),
                "–" if median is None else f"{1e3 * median:.1f}",
                *("–" if entry[name] is None else f"{entry[name]:.2f}" for name in _RATIOS),
                entry["best_other"] or "–",
            ]
        )  # fmt: skip
    return table(rows)


def target_lines(targets: Sequence[dict[str, Any]]) -> list[str]:
    """One line a target and pass: in how many cases it is met, and the worst one."""
    lines = []
    for key in dict.fromkeys((t["target"], t["pass"], t["asked"]) for t in targets):
        measured = [t for t in targets if (t["target"], t["pass"], t["asked"]) == key and t["met"] is not None]
        met = sum(t["met"] for t in measured)
        name = f"{key[0]}, {key[1]}, {key[2]}"
        if not measured:
            lines.append(f"target  {name}: not measured")
            continue
        sign = 1 if key[2].startswith("at most") else -1
        worst = max(measured, key=lambda t: sign * t["measured"])
        where = f"{worst['dtype']} B={worst['batch']}" + (f" T={worst['length']}" if worst["length"] else "")
        lines.append(f"target  {name}: met in {met} of {len(measured)}; worst {worst['measured']:.2f} at {where}")
    return lines


def missing_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each implementation, pass and reason for which there is no time."""
    cases: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        for work in PASSES:
            done = record[work]
            if done["status"] != "timed":
                key = (record["implementation"], work, done["status"], done.get("reason", ""))
                cases.setdefault(key, []).append(f"{record['dtype']} B={record['batch']} T={record['length']}")
    lines = []
    for (name, work, status, reason), where in cases.items():
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        lines.append(f"no time  {name}, {work}: {status}{': ' if reason else ''}{reason[:90]} ({where[0]}{more})")
    return lines


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text, the first of them heads, in columns: numbers to the right of theirs, words to the left."""
    columns = []
    for column in zip(*rows, strict=True):
        width = max(map(len, column))
        numbers = all(cell == "–" or cell.replace(".", "", 1).isdigit() for cell in column[1:])
        columns.append([cell.rjust(width) if numbers else cell.ljust(width) for cell in column])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
