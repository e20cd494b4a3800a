"""`bench`: a student against its teacher, measured in turn in one run on the same real texts.

`results.json` holds, besides `made_by` and `format_version`:

    machine             cpu, cores (usable), system, load_before (runnable tasks), versions of understudy, python,
                        onnxruntime, tokenizers, torch (null where it is not installed)
    engine              what ran both models: onnx or torch
    devices             of student and teacher
    threads             of each model
    seed, rounds        as given
    task                problem_type and labels
    data                name, sha256, rows, labelled
    bundles             student and teacher, each: name, layers, parameters, precision, max_length (tokens), sha256
                        (of model.onnx), manifest_sha256, bytes (of all files), truncated_rows (of the data)
    latency             texts, measured (calls of each model, all rounds together), p50_ms, p90_ms, p99_ms
    latency_by_length   for each bin: tokens (its name), from, to (tokens; null without end), joined (texts made of
                        several), texts, measured, p50_ms, p90_ms, p99_ms
    throughput          for each batch size: batch, texts, measured, texts_per_s
    process             texts, launches, start_up_s, peak_memory_mb (10^6 bytes)
    quality             metric, rows, student and teacher (each metric by name), retention; null without labels
    agreement           name, value, rows
    seconds             the whole run

A compared figure (`p50_ms`, `texts_per_s`, `start_up_s`, …) is `{"student", "teacher", "ratio", "ratio_range"}`:
medians over the rounds (or launches), student over teacher, and that ratio's extremes among the single rounds.
A latency is one call of the engine with one text, tokenizing included. Its percentiles are no medians: they are over
the calls of all rounds together. `p99_ms` is null with fewer than 100 calls of each model; its `ratio_range` is always
null, since a single round has too few calls.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.measure import ROLES, Comparison
from benchmarks.pair import describe_bundle, open_pair
from benchmarks.process_cost import ProcessCost, measure_process
from benchmarks.quality import answer, compare_answers, compare_with_labels
from benchmarks.report import count, print_summary, same_model, summary_rows, write_report
from benchmarks.speed import measure_speed
from common.errors import InputError
from common.examples import BY_USUAL_NAMES, Columns, Examples, read_examples
from common.files import MADE_BY, check_output, staged_directory, write_json
from common.machine import usable_cores
from common.progress import progress, say
from common.tokenization import Text
from serve.engine import Engine

__all__ = ["bench", "summary_rows"]

FORMAT_VERSION = 1
RESULTS_FILE = "results.json"
# Fresh processes of each model, and the longest texts of the data that each of them answers.
_LAUNCHES = 3
_PROCESS_TEXTS = 32


def bench(
    student: Path,
    teacher: Path,
    output: Path,
    *,
    data: str,
    columns: Columns = BY_USUAL_NAMES,
    rounds: int = 7,
    engine: str = "onnx",
    device: str = "auto",
    threads: int = 0,
    overwrite: bool = False,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures both bundles, prints a table, and writes `results.json`, `report.md` and the plots.

    Args:
        student, teacher: bundles of the same task and tokenizer.
        output: the report's directory.
        data: a table of texts, or `hub:NAME[/CONFIG]` (its validation split); with labels, quality is measured too.
        rounds: measured turns of each model.
        engine, device: what runs both models and where, as in `Engine.load`.
        threads: of each model; 0 takes one a core.
        seed: draws the texts whose time is taken; every text counts for quality and agreement.
        quiet: leaves the table to the caller.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: the bundles cannot be compared, the data cannot be read or has labels that the models lack, or
            the output is taken.
        WorkFailedError: a model cannot be run.
        ModuleNotFoundError: matplotlib is missing; raised before anything is measured.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
    started = time.monotonic()
    check_output(output, directory=True, overwrite=overwrite)
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, not {rounds}")
    threads = threads or usable_cores()
    machine = describe_machine()
    engines = open_pair(student, teacher, engine, device, threads)
    task = engines["teacher"].task
    tasks = {role: engines[role].task for role in ROLES}
    examples = read_examples(data, columns, split="validation", need_label=False)
    targets = task.targets(examples.labels, examples.places) if examples.labels else None
    say(
        f"Measuring {engines['student'].name} against {engines['teacher'].name} in {count(rounds, 'round')} "
        f"on {examples.describe()['name']}, {count(threads, 'thread')} each"
    )
    bundles = {role: describe_bundle(engines[role].bundle) for role in ROLES}
    if note := same_model(bundles):
        say(note)
    answers = answer(engines, examples.texts)
    scores = {role: answers[role].scores for role in ROLES}
    quality = None
    if targets is not None:
        metric = engines["student"].bundle.manifest.measured.get("metric")
        quality = compare_with_labels(tasks, scores, targets, metric)
    process = _measure_processes(
        {"student": student, "teacher": teacher}, engine, device, threads, _longest(engines["teacher"], examples)
    )
    results = {
        **MADE_BY,
        "format_version": FORMAT_VERSION,
        "machine": machine,
        "engine": engine,
        "devices": {role: engines[role].model.device for role in ROLES},
        "threads": threads,
        "seed": seed,
        "rounds": rounds,
        "task": {"problem_type": task.problem_type, "labels": list(task.labels)},
        "data": {**examples.describe(), "labelled": targets is not None},
        "bundles": {role: {**bundles[role], "truncated_rows": answers[role].truncated} for role in ROLES},
        **measure_speed(engines, examples.texts, rounds, seed),
        "process": process,
        "quality": quality,
        "agreement": compare_answers(tasks, scores),
        "seconds": round(time.monotonic() - started, 1),
    }
    with staged_directory(output, overwrite=overwrite) as staging:
        write_json(staging / RESULTS_FILE, results)
        report = write_report(results, staging)
    if not quiet:
        print_summary(summary_rows(results))
    say(f"Report written to {output / report.name}")
    return results


def _measure_processes(
    bundles: dict[str, Path], engine: str, device: str, threads: int, texts: Sequence[Text]
) -> dict[str, Any]:
    """Start-up and peak memory of both bundles, in fresh processes that take turns."""
    costs: dict[str, list[ProcessCost]] = {role: [] for role in ROLES}
    with progress("starting", _LAUNCHES * len(ROLES), "processes") as advance:
        for launch in range(_LAUNCHES):
            for role in ROLES if launch % 2 == 0 else ROLES[::-1]:
                costs[role].append(measure_process(bundles[role], engine, device, threads, texts))
                advance(1)
    return {
        "texts": len(texts),
        "launches": _LAUNCHES,
        **{
            name: Comparison(*([getattr(cost, name) for cost in costs[role]] for role in ROLES)).as_dict()
            for name in ("start_up_s", "peak_memory_mb")
        },
    }


def _longest(engine: Engine, examples: Examples) -> list[Text]:
    """The texts with the most tokens: the batch that takes the most memory."""
    lengths = [encoded.tokens for encoded in engine.encoder.encode(examples.texts)]
    order = sorted(range(len(examples)), key=lambda row: -lengths[row])
    return [examples.texts[row] for row in order[:_PROCESS_TEXTS]]
