"""`bench`: students against their teacher, measured in interleaved rounds in one run on the same real texts.

`results.json` is described by its schema, `benchmarks.bench.report.schema`, and in docs/bench.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench.agreement import measure_agreement
from benchmarks.bench.contestants import TEACHER, Answers, Contestant, LocalModel, open_models, unique_ids
from benchmarks.bench.cost import costs
from benchmarks.bench.multi_stream import MultiStream
from benchmarks.bench.noise import MACHINE, ReferenceWork, judge_noise
from benchmarks.bench.offline import Offline
from benchmarks.bench.pinning import describe_clock, pinned
from benchmarks.bench.process_cost import measure_processes
from benchmarks.bench.quality import measure_quality
from benchmarks.bench.remote import RemoteModel, RemoteSource
from benchmarks.bench.report.against import (
    Changes,
    check_comparable,
    check_no_regression,
    compare_runs,
    print_changes,
)
from benchmarks.bench.report.schema import FORMAT_VERSION, RESULTS_FILE, parse_results, read_results
from benchmarks.bench.report.summary import print_summary
from benchmarks.bench.report.write import write_report
from benchmarks.bench.roofline import measure_peak
from benchmarks.bench.rounds import take_turns
from benchmarks.bench.sample import Sample
from benchmarks.bench.server import measure_server
from benchmarks.bench.settings import MULTI_STREAM, OFFLINE, SCENARIOS, SERVER, SINGLE_STREAM, BenchSettings
from benchmarks.bench.single_stream import SingleStream
from benchmarks.bench.warm_up import warm_up
from benchmarks.machine import describe_machine
from common.errors import InputError, WorkFailedError
from common.examples import BY_USUAL_NAMES, Columns, Examples, read_examples
from common.files import MADE_BY, check_output, staged_directory, write_json
from common.labels import Task
from common.progress import progress, say
from common.tokenization import Text

# The longest texts of the data that each fresh process answers.
_PROCESS_TEXTS = 32
# By name, in the order in which a round has them; the server scenario has rounds of its own.
_IN_ROUNDS: dict[str, type[SingleStream] | type[MultiStream] | type[Offline]] = {
    SINGLE_STREAM: SingleStream,
    MULTI_STREAM: MultiStream,
    OFFLINE: Offline,
}


def bench(
    students: Sequence[str | Path],
    output: Path,
    settings: BenchSettings | None = None,
    *,
    teacher: str | Path,
    data: str,
    columns: Columns = BY_USUAL_NAMES,
    servers: Sequence[RemoteSource] = (),
    against: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures all models, prints a table, and writes `results.json`, `report.html` and `report.md`.

    Args:
        students: bundles of the teacher's task and tokenizer; `DIRECTORY@torch` names the engine of one.
        output: the report's directory.
        teacher: a bundle, named like a student.
        data: a table of texts, or `hub:NAME[/CONFIG]` (its validation split); with labels, quality is measured too.
        servers: models behind HTTP that take part as students.
        against: the `results.json` of an earlier run, with which this one is compared.
        quiet: leaves the table to the caller.

    Returns:
        What `results.json` holds.

    Raises:
        InputError, WorkFailedError: as `run_bench`; or, when all is written, something is worse than in `against`.
    """
    results, changes = run_bench(
        students,
        output,
        settings or BenchSettings(),
        teacher=teacher,
        data=data,
        columns=columns,
        servers=servers,
        against=against,
        overwrite=overwrite,
        quiet=quiet,
    )
    if changes is not None:
        check_no_regression(changes)
    return results


def run_bench(
    students: Sequence[str | Path],
    output: Path,
    settings: BenchSettings,
    *,
    teacher: str | Path,
    data: str,
    columns: Columns,
    servers: Sequence[RemoteSource],
    against: Path | None,
    overwrite: bool,
    quiet: bool,
    foreign_labels: bool = False,
) -> tuple[dict[str, Any], Changes | None]:
    """As `bench`, but what is worse than before is the caller's to act upon.

    Args:
        foreign_labels: whether a table whose labels the models lack is one of texts alone, rather than an error.

    Returns:
        What `results.json` holds, and what changed since `against`.

    Raises:
        InputError: the bundles cannot be compared, the data cannot be read or has labels that the models lack, the
            output is taken, or `against` is no such file, of other data or of other students.
        WorkFailedError: a model cannot be run, or its bundle was changed meanwhile.
    """
    started = time.monotonic()
    check_output(output, directory=True, overwrite=overwrite)
    earlier = None if against is None else read_results(against)
    if not students and not servers:
        raise InputError("no student is named: give its bundle, or --url for one behind a server")
    machine = describe_machine()
    examples = read_examples(data, columns, split="validation", need_label=False)
    with pinned(settings.model_threads) as cores:
        models = open_models(students, teacher, settings.engine, settings.device, settings.model_threads)
        for model in models:
            if output.resolve().is_relative_to(model.path.resolve()):
                raise InputError(f"{output} lies in the bundle {model.path}: choose another output")
        if foreign_labels and not set(examples.labels) <= set(models[0].task.labels):
            examples = replace(examples, labels=[], label_column=None)
        contestants: list[Contestant] = [*models, *_open_servers(servers, models)]
        if earlier is not None:
            ids = [each.id for each in contestants[1:]]
            check_comparable(earlier, _describe_task(models[0].task), examples.sha256, ids)
        parts = _measure(contestants, models, examples, settings)
        clock = describe_clock(cores)
    results = {
        **MADE_BY,
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(),
        "seconds": round(time.monotonic() - started, 1),
        "machine": {**machine, "pinned_cores": cores, **clock},
        "settings": settings.describe(),
        **parts,
    }
    parsed = parse_results(results)
    changes = None if earlier is None else compare_runs(earlier, parsed)
    with staged_directory(output, overwrite=overwrite) as staging:
        write_json(staging / RESULTS_FILE, results)
        report = write_report(parsed, staging, changes)
    if not quiet:
        print_summary(parsed)
    say(f"Report written to {output / report.name}")
    if changes is not None and not quiet:
        print_changes(changes)
    return results, changes


def _open_servers(servers: Sequence[RemoteSource], models: Sequence[LocalModel]) -> list[RemoteModel]:
    names = [source.model or source.parts.netloc for source in servers]
    ids = unique_ids([*(model.id for model in models[1:]), *names])[len(models) - 1 :]
    return [RemoteModel.open(id, source, models[0].task) for id, source in zip(ids, servers, strict=True)]


def _measure(
    contestants: Sequence[Contestant], models: Sequence[LocalModel], examples: Examples, settings: BenchSettings
) -> dict[str, Any]:
    """The parts of the results that come of the models and the data.

    Args:
        contestants: all that take part, the teacher first.
        models: those of them that are in this process.
    """
    task, threads = models[0].task, settings.model_threads
    targets = task.targets(examples.labels, examples.places) if examples.labels else None
    sample = Sample.of(examples.texts, models, settings.seed)
    data = examples.describe()
    say(
        f"Measuring {', '.join(each.id for each in contestants[1:])} against {models[0].engine.name} "
        f"on {data['name']}: {_count(settings.rounds, 'round')}, {_count(threads, 'thread')} each"
    )
    warm_ups = {each.id: warm_up(each, sample.even) for each in contestants}
    answers = _answer(contestants, examples.texts)
    scenarios = {
        name: kind(contestants, sample, settings.rounds, settings.seconds)
        for name, kind in _IN_ROUNDS.items()
        if name in settings.scenarios
    }
    jobs = [job for scenario in scenarios.values() for job in scenario.jobs]
    turns = take_turns(contestants, jobs, settings.rounds, ReferenceWork())
    left = iter(turns.results)
    results = {name: list(islice(left, len(scenario.jobs))) for name, scenario in scenarios.items()}
    parts = {name: scenario.result(results[name]) for name, scenario in scenarios.items()}
    if SERVER in settings.scenarios:
        parts[SERVER] = measure_server(
            contestants,
            sample.drawn,
            bound_ms=settings.latency_bound_ms,
            rounds=settings.rounds,
            seconds=settings.seconds,
            seed=settings.seed,
        )
    peak = measure_peak(threads)
    processes = measure_processes(models, sample.longest(_PROCESS_TEXTS), device=settings.device)
    passes = results[OFFLINE][0] if OFFLINE in results else {}
    cost = costs(models, processes, passes, sample.lengths, peak, price_per_core_hour=settings.price_per_core_hour)
    scores, tasks = {id: each.scores for id, each in answers.items()}, {each.id: each.task for each in contestants}
    quality = None
    if targets is not None:
        metric = models[0].engine.bundle.manifest.measured.get("metric")
        quality = measure_quality(tasks, scores, targets, metric, settings.seed)
    agreement = {
        each.id: measure_agreement(
            (each.task, task), (scores[each.id], scores[TEACHER]), examples.texts, examples.labels, targets
        )
        for each in contestants[1:]
    }
    return {
        "task": _describe_task(task),
        "data": {
            **{name: data[name] for name in ("name", "sha256", "rows")},
            "labelled": targets is not None,
            "tokens": sample.describe(),
        },
        # Last, since servers have their requests counted.
        "models": [{**each.describe(), "truncated_rows": answers[each.id].truncated} for each in contestants],
        "noise": judge_noise({MACHINE: turns.reference, **turns.worked}, warm_ups),
        "quality": quality,
        "agreement": {"models": agreement},
        **{name.replace("-", "_"): parts.get(name) for name in SCENARIOS},
        "cost": cost,
        "roofline": peak.as_dict(),
    }


def _answer(contestants: Sequence[Contestant], texts: Sequence[Text]) -> dict[str, Answers]:
    """Every model's answers to every text, by model."""
    answers = {}
    with progress("answering", len(contestants), "") as advance:
        for each in contestants:
            answers[each.id] = each.answer(texts)
            if np.isnan(answers[each.id].scores).any(axis=1).all():
                raise WorkFailedError(f"{each.where} answered none of the {len(texts)} texts")
            advance(1)
    return answers


def _command() -> list[str]:
    """What this process was asked, the program by its name alone."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return [name, *sys.argv[1:]]


def _describe_task(task: Task) -> dict[str, Any]:
    return {"problem_type": task.problem_type, "labels": list(task.labels)}


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
