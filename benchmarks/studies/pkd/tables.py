"""The report's tables, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from benchmarks.studies.pkd.conclusions import budget, contests_of, seed_counts, target_verdict, verdict
from benchmarks.studies.pkd.plan import CONTROLS, DEPTHS, METHODS, PAPER_KEPT, PUBLIC_TEACHER, TEACHER_LAYERS
from benchmarks.studies.pkd.summary import CONTESTS, TaskSummary
from common.statistics import Interval, holm
from distill.settings import TrainingSettings

_NONE = "–"


def progress(tasks: Sequence[TaskSummary], methods: Iterable[str]) -> str:
    """How many cells of these methods are there: `3 of 40`."""
    known = set(methods)
    made = sum(len(runs.values) for task in tasks for (_, name), runs in task.students.items() if name in known)
    made += sum(cell.method in known for task in tasks for cell in task.failed)
    missing = sum(cell.method in known for task in tasks for cell in task.missing)
    return f"{made:,} of {made + missing:,}"


def teachers(tasks: Sequence[TaskSummary]) -> Iterator[str]:
    """How good each task's teachers are, and how they were trained."""
    yield "| task | metric | on dev | commonest label | on the held-out part | settings | beside them, on that part |"
    yield "|---|---|---|---|---|---|---|"
    for task in tasks:
        name, metric = task.plan.name, task.plan.metric
        own = [_NONE] * 3
        if task.lead is not None:
            chosen_on = fmean(map(task.chosen_on, task.teachers.values()))
            mean = f"{_interval(task.lead.mean, '.4f')} {len(task.teachers)}×"
            own = [mean, f"{task.commonest:.4f}", f"{chosen_on:.4f}"]
        yield _row(name, metric, *own, budget(task.plan.training), "; ".join(_tried(task)) or _NONE)
    name, public = PUBLIC_TEACHER
    yield ""
    yield (
        f"All are all-MiniLM-L6-v2 fine-tuned, which was trained on from MiniLM-L6-H384 to tell how similar texts are: "
        f"that helps with topics more than with inference. For comparison: MiniLM-L6-H384 itself is published at "
        f"{100 * public:.1f} on {name}'s dev rows."
    )


def students(tasks: Sequence[TaskSummary], depth: int) -> Iterator[str]:
    """What the students of one depth reach, and which share of their teacher's that is."""
    for title, methods in (("The methods:", tuple(METHODS)), ("The same from the teacher's layers:", tuple(CONTROLS))):
        shown = [task for task in tasks if any((depth, method) in task.students for method in methods)]
        if not shown:
            yield from (f"{title} no cells yet.", "")
            continue
        yield from (
            f"{title} the metric on dev.",
            "",
            _row("task", "teacher", *methods),
            "|---" * (2 + len(methods)) + "|",
        )
        for task in shown:
            found = [task.students.get((depth, method)) for method in methods]
            values = [_NONE if runs is None else f"{_interval(runs.mean, '.3f')} {len(runs.values)}×" for runs in found]
            yield _row(task.plan.name, _NONE if task.lead is None else f"{task.lead.mean.mean:.3f}", *values)
        yield from ("", "Share of the teacher's:", "")
        paper = ["paper"] if depth * 2 == TEACHER_LAYERS and methods == tuple(METHODS) else []
        yield _row("task", *methods, *paper)
        yield "|---" * (1 + len(methods) + len(paper)) + "|"
        for task in shown:
            kept = [task.kept(depth, method) for method in methods]
            figure = PAPER_KEPT.get(task.plan.name)
            beside = [_NONE if figure is None else f"{100 * figure:.1f} %"] if paper else []
            yield _row(task.plan.name, *(_NONE if share is None else _share(share) for share in kept), *beside)
        yield ""


def contests(tasks: Sequence[TaskSummary]) -> Iterator[str]:
    """Each pair of methods on each task, and over all tasks that have both."""
    found = [
        made for depth in DEPTHS for first, second in CONTESTS for made in contests_of(tasks, depth, first, second)
    ]
    if not found:
        yield "None yet."
        return
    adjusted = holm([entry.result.p_bootstrap for entry in found])
    yield "| layers | first − second | task | seeds | points | p | p (Holm) | first against second |"
    yield "|---|---|---|---|---|---|---|---|"
    for entry, p_adjusted in zip(found, adjusted, strict=True):
        where = entry.tasks[0] if len(entry.tasks) == 1 else f"mean of {len(entry.tasks)} tasks"
        yield _row(
            str(entry.layers),
            f"{entry.first} − {entry.second}",
            where,
            seed_counts(entry),
            _interval(entry.result.difference, "+.1f", scale=100),
            f"{entry.result.p_bootstrap:.3f}",
            f"{p_adjusted:.3f}",
            verdict(entry),
        )


def targets(tasks: Sequence[TaskSummary]) -> Iterator[str]:
    """Each target with what `best` keeps."""
    yield "Of the method `best`, mean over seeds, as a share of the teacher's dev metric."
    yield ""
    yield "| task | layers | at least | kept | seeds | |"
    yield "|---|---|---|---|---|---|"
    for task in tasks:
        for depth, least in task.plan.targets.items():
            kept, runs = task.kept(depth, "best"), task.students.get((depth, "best"))
            yield _row(
                task.plan.name,
                str(depth),
                f"{100 * least:.1f} %",
                _NONE if kept is None else _share(kept),
                f"{0 if runs is None else len(runs.values)} of {len(task.plan.seeds)}",
                target_verdict(task, depth),
            )


def missing(tasks: Sequence[TaskSummary]) -> Iterator[str]:
    """The cells without a row, by their seeds."""
    for task in tasks:
        if task.outdated:
            yield f"{task.plan.name}: {task.outdated} cells have rows of earlier settings alone, which do not count.\n"
        if task.failed:
            yield f"{task.plan.name}: left the finite numbers: {'; '.join(map(str, task.failed))}.\n"
    if not any(task.missing for task in tasks):
        yield "None."
        return
    methods = (*METHODS, *CONTROLS)
    yield from (_row("task", "layers", *methods), "|---" * (2 + len(methods)) + "|")
    for task in tasks:
        for depth in DEPTHS:
            alike = [cell for cell in task.missing if cell.layers == depth]
            if alike:
                seeds = ([cell.seed for cell in alike if cell.method == method] for method in methods)
                yield _row(task.plan.name, str(depth), *(_seeds(group) for group in seeds))


def _tried(task: TaskSummary) -> Iterator[str]:
    """The other settings of the plan, and those that it had before."""
    known = {TrainingSettings(**row.settings): row.chosen_on or {} for row in task.tried}
    for training in {**dict.fromkeys(task.plan.tried), **known}:
        chosen_on = known.get(training, {}).get(task.plan.metric)
        yield f"{budget(training)}: {'not run yet' if chosen_on is None else f'{chosen_on:.4f}'}"


def _seeds(seeds: Sequence[int]) -> str:
    whole = len(seeds) > 1 and seeds[-1] - seeds[0] == len(seeds) - 1
    return f"{seeds[0]}–{seeds[-1]}" if whole else ", ".join(map(str, seeds)) or _NONE


def _interval(interval: Interval, form: str, *, scale: float = 1) -> str:
    mean, low, high = (f"{scale * value:{form}}" for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})"


def _share(share: Interval) -> str:
    return f"{100 * share.mean:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _row(*entries: str) -> str:
    return f"| {' | '.join(entries)} |"
