"""What changed since an earlier run, and whether anything is worse beyond noise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, get_args

from rich.box import SIMPLE_HEAD
from rich.table import Table as TerminalTable
from rich.text import Text

from benchmarks.bench.report.blocks import Block, Details, Section, Table
from benchmarks.bench.report.comparable import Figure, Kind, comparable_figures
from benchmarks.bench.report.figures import NONE, Entry, count, entry, percent, readable
from benchmarks.bench.report.schema import Model, Results
from benchmarks.bench.report.schema_parts import Estimate
from common.errors import InputError, WorkFailedError, shown
from common.progress import console, say
from common.statistics import CONFIDENCE

# Two runs of the very same program differ by as much, through where the system laid their memory (Mytkowicz et al.
# 2009, "Producing wrong data without doing anything obviously wrong"), and an interval within one run does not see it.
LEAST_CHANGE = 0.03

# Of `machine`: what may change a figure and is no other machine.
_VERSIONS = ("understudy", "python", "onnxruntime", "tokenizers", "torch")

Outcome = Literal["worse", "better", "the same", "not judged"]
_CHANGED: tuple[Outcome, ...] = ("worse", "better")
_TIMED: tuple[Kind, ...] = ("speed", "speed-up")
_HEAD = ("figure", "old", "new", "change", "beyond noise")


@dataclass(frozen=True)
class Change:
    """One figure of one model in both runs.

    Attributes:
        old, new: value and interval; `new` is a dash where the figure was lost.
        by: of the new over the old, less 1; None where either is 0 or lost.
        outcome: worse or better only beyond noise.
    """

    model: str
    figure: str
    old: Entry
    new: Entry
    by: float | None
    outcome: Outcome


@dataclass(frozen=True)
class Changes:
    """One run against an earlier one.

    Attributes:
        since: when the earlier one was made.
        notes: what differs between the two runs themselves, in sentences.
    """

    since: str
    notes: list[str]
    changes: list[Change]

    @property
    def regressions(self) -> list[Change]:
        """What is worse beyond noise."""
        return [change for change in self.changes if change.outcome == "worse"]


def check_comparable(old: Results, task: dict[str, Any], data_sha256: str, students: Collection[str]) -> None:
    """Refuses an earlier run of something else.

    Args:
        task, data_sha256, students: of the run that is to be compared with it; the students by their ids.

    Raises:
        InputError: the data or the task is another, or no student is in both.
    """
    if old.data.sha256 != data_sha256:
        raise InputError(
            f"the earlier run was on other data ({shown(old.data.name)}, sha256 {shown(old.data.sha256[:12])}…): "
            f"only runs on the same data can be compared"
        )
    if (old.task.problem_type, old.task.labels) != (task["problem_type"], list(task["labels"])):
        raise InputError("the earlier run was of another task: problem_type or labels differ")
    if not {model.id for model in old.students} & set(students):
        names = ", ".join(shown(model.id) for model in old.students)
        raise InputError(f"the earlier run has none of these students; it has {names or 'none at all'}")


def compare_runs(old: Results, new: Results) -> Changes:
    """Each figure that both runs have.

    A change is beyond noise if the interval of the difference leaves out 0; one of speed must besides be greater than
    either run's own spread, than what the machine's reference work changed by, and than LEAST_CHANGE. On another
    machine, or with another number of threads, only ratios to the teacher, quality and sizes are compared; against
    another teacher no ratios.

    Raises:
        InputError: they are of other data or another task, or share no student.
    """
    check_comparable(old, new.task.model_dump(), new.data.sha256, [model.id for model in new.students])
    kinds: set[Kind] = set(get_args(Kind))
    notes = list(_versions(old, new))
    if other := _other_machine(old, new):
        kinds.discard("speed")
        notes.append(f"Another machine or setting ({other}): of speed, only ratios to the teacher are compared.")
    if old.teacher.sha256 != new.teacher.sha256:
        kinds -= {"kept", "speed-up"}
        notes.append("The teacher is another model: what is measured against it is not compared.")
    for run, name in ((old, "earlier"), (new, "new")):
        if run.noise.verdict == "noisy":
            notes.append(f"The {name} run was too noisy: changes of speed are not judged.")
    models = {model.id: model for model in new.models}
    for model in old.models:
        notes.extend(_model_notes(model, models.get(model.id)))
    before = comparable_figures(old)
    after = {key: figure for key, figure in comparable_figures(new).items() if figure.kind in kinds and key in before}
    judge = _Judge(old, new, after.values())
    changes = [judge.change(*key, before[key], figure) for key, figure in after.items()]
    return Changes(old.created, notes, [change for change in changes if change is not None])


def print_changes(changes: Changes) -> None:
    """Prints what changed beyond noise, the worse last, and how many figures did not."""
    say(f"Against the run of {changes.since}:")
    for note in changes.notes:
        say(f"  {note}")
    changed = [change for change in changes.changes if change.outcome in _CHANGED]
    if changed:
        table = TerminalTable(*_HEAD, box=SIMPLE_HEAD)
        for row in _table(sorted(changed, key=lambda change: change.outcome == "worse")).rows:
            table.add_row(*[Text("\n".join(cell.lines())) for cell in row])
        console.print(table)
    say(f"  {_tally(changes)}")


def check_no_regression(changes: Changes) -> None:
    """
    Raises:
        WorkFailedError: something is worse beyond noise.
    """
    worse = changes.regressions
    if worse:
        named = "; ".join(
            f"{shown(change.model)}: {change.figure} {change.old.text} → {change.new.text}" for change in worse[:3]
        )
        more = f"; and {len(worse) - 3} more" if len(worse) > 3 else ""
        raise WorkFailedError(f"{count(len(worse), 'figure')} worse than before, beyond noise: {named}{more}")


def changes_section(changes: Changes) -> Section:
    """The changes as a section of the report."""
    blocks: list[Block] = [_tally(changes), *changes.notes]
    changed = [change for change in changes.changes if change.outcome in _CHANGED]
    rest = [change for change in changes.changes if change.outcome not in _CHANGED]
    if changed:
        blocks.append(_table(changed))
    if rest:
        blocks.append(Details(f"{count(len(rest), 'figure')} without a change beyond noise", _table(rest)))
    return Section(f"What changed since {readable(changes.since)}", blocks)


class _Judge:
    """Tells a change from noise.

    Args:
        figures: all that are judged. With so many at once some would leave their intervals by chance, so these are
            widened until all of a family, speed or answers, hold together (Dunn 1961).
    """

    def __init__(self, old: Results, new: Results, figures: Collection[Figure]):
        timed = sum(figure.kind in _TIMED for figure in figures)
        self._reach = {True: _widened(timed), False: _widened(len(figures) - timed)}
        self._is_noisy = "noisy" in (old.noise.verdict, new.noise.verdict)
        spread = max(LEAST_CHANGE, old.noise.spread, new.noise.spread)
        machine = 0.0
        if old.roofline and new.roofline:
            slower, faster = sorted(run.roofline.peak_flops_per_s.value for run in (old, new) if run.roofline)
            machine = faster / slower - 1 if slower > 0 else math.inf
        # A ratio to the teacher, taken in the same round, is not touched by what the whole machine changed by.
        self._least: dict[Kind, float] = {
            "size": LEAST_CHANGE,
            "speed": max(spread, machine),
            "speed-up": spread,
        }

    def change(self, model: str, name: str, old: Figure, new: Figure) -> Change | None:
        """What became of a figure; None where there was none before."""
        if old.estimate is None:
            return None
        before = entry(old.estimate, old.form)
        if new.estimate is None:
            return Change(model, name, before, Entry(NONE), None, "not judged" if self._is_noisy else "worse")
        by = new.estimate.value / old.estimate.value - 1 if old.estimate.value else None
        outcome = self._outcome(old.estimate, new.estimate, by, new)
        return Change(model, name, before, entry(new.estimate, new.form), by, outcome)

    def _outcome(self, old: Estimate, new: Estimate, by: float | None, figure: Figure) -> Outcome:
        is_timed = figure.kind in _TIMED
        difference = _difference(old, new, self._reach[is_timed], exact=figure.kind == "size")
        if difference is None or (is_timed and self._is_noisy):
            return "not judged"
        low, high = difference
        if low <= 0 <= high or (by is not None and abs(by) <= self._least.get(figure.kind, 0.0)):
            return "the same"
        return "better" if (low > 0) == figure.higher_is_better else "worse"


def _widened(figures: int) -> float:
    """What a 95 % interval's halves are multiplied by so that all of so many hold at once."""
    normal, tail = NormalDist(), (1 - CONFIDENCE) / 2
    return normal.inv_cdf(1 - tail / max(1, figures)) / normal.inv_cdf(1 - tail)


def _difference(old: Estimate, new: Estimate, reach: float, *, exact: bool) -> tuple[float, float] | None:
    """The interval of new less old, from the two intervals (Newcombe 1998, method 10; Zou and Donner 2008).

    It takes the two as independent. Answers to the same texts are not, so that it errs to the wide side for them.

    Args:
        reach: what the interval's two halves are multiplied by.
        exact: the figures are known exactly, without an interval.
    """
    change = new.value - old.value
    if exact:
        return change, change
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return None
    return (
        change - reach * math.hypot(new.value - new.low, old.high - old.value),
        change + reach * math.hypot(new.high - new.value, old.value - old.low),
    )


def _versions(old: Results, new: Results) -> Iterator[str]:
    before, after = old.machine.facts(), new.machine.facts()
    for name in _VERSIONS:
        if before.get(name) != after.get(name):
            yield f"{name}: {readable(str(before.get(name)))} → {readable(str(after.get(name)))}."


def _other_machine(old: Results, new: Results) -> str:
    """What differs, empty where it is the same machine."""
    pairs = [
        ("", old.machine.cpu, new.machine.cpu),
        ("cores ", old.machine.cores, new.machine.cores),
        ("threads ", old.settings.threads, new.settings.threads),
    ]
    return ", ".join(readable(f"{name}{one} → {other}") for name, one, other in pairs if one != other)


def _model_notes(old: Model, new: Model | None) -> Iterator[str]:
    name = readable(old.id)
    if new is None:
        yield f"{name} was in the earlier run alone."
        return
    for what, before, after in (
        ("place", old.where, new.where),
        ("engine", old.engine, new.engine),
        ("device", old.device, new.device),
        ("precision", old.precision, new.precision),
    ):
        if before != after:
            yield f"{name}: {what} {readable(str(before))} → {readable(str(after))}."
    if old.role == "student" and old.sha256 != new.sha256:
        yield f"{name}: the model's file is another."


def _table(changes: Sequence[Change]) -> Table:
    rows = []
    for change in changes:
        by = NONE if change.by is None else f"{'+' if change.by >= 0 else '−'}{percent(abs(change.by))}"
        named = Entry(readable(change.figure), (readable(change.model),))
        rows.append([named, change.old, change.new, Entry(by), Entry(change.outcome)])
    return Table(_HEAD, rows)


def _tally(changes: Changes) -> str:
    outcomes = Counter(change.outcome for change in changes.changes)
    return (
        f"{count(len(changes.changes), 'figure')} compared: {outcomes['worse']:,} worse beyond noise, "
        f"{outcomes['better']:,} better beyond noise, {outcomes['the same']:,} the same, "
        f"{outcomes['not judged']:,} not judged."
    )
