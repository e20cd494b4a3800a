"""What the study consists of: tasks, methods and their settings, the order of its cells, targets, public figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common.examples import Columns
from distill.settings import DistillationSettings, TrainingSettings

TEACHER = "teacher"
TEACHER_LAYERS = 6
DEPTHS = (3, 2)
SEEDS = (0, 1, 2, 3, 4)

# Of `best`, in every task: on held-out parts it beat half of it on two of three tasks (docs/distillation.md).
BEST_RATE = 2e-4
# The methods as they are published, and our own recipe. What they name goes before the task's budget.
METHODS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("finetune", "kd", "pkd-last", "pkd-skip")},
    "best": {"method": "best", "learning_rate": BEST_RATE},
}
# `best` starts from the teacher's layers, the others from the pre-trained model's: these tell how much that alone does.
CONTROLS: dict[str, dict[str, Any]] = {
    f"{name}-teacher-start": {"method": name, "init": "teacher-skip"} for name in ("finetune", "kd", "pkd-skip")
}

# MiniLM-L6-H384 on SST-2's dev rows as its authors publish it (Wang et al. 2020, arXiv 2002.10957).
PUBLIC_TEACHER = ("SST-2", 0.915)
# Share that PKD-Skip keeps of BERT-base's score on GLUE's test rows at half its depth: 92.0 / 94.3, 79.9 / 85.2 and
# 65.5 / 69.1 (Sun et al. 2019, table 1), rounded.
PAPER_KEPT = {"SST-2": 0.976, "MRPC": 0.94, "RTE": 0.948}


@dataclass(frozen=True)
class TaskPlan:
    """One task of the study.

    Attributes:
        train, dev: files in the data directory; without `dev` it is cut off train.
        columns: which columns hold what.
        metric: picks epochs and is reported.
        training: of the teachers, and of all of their students: the same epochs, rate and batch for every method, but
            for the rate of `best`.
        tried: what else there is for the part held out of train to choose `training` from.
        train_rows: how many rows of train a fixed slice has; None takes all.
        seeds: of the students, each with a teacher of its own.
        targets: least share of the teacher's dev metric that `best` is to keep, by depth.
    """

    name: str
    train: str
    dev: str | None
    columns: Columns
    metric: str
    training: TrainingSettings
    tried: tuple[TrainingSettings, ...] = ()
    train_rows: int | None = None
    seeds: tuple[int, ...] = SEEDS
    targets: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class Cell:
    """One student of the study; `method` is a key of `METHODS` or `CONTROLS`."""

    task: str
    layers: int
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}, {self.layers} layers, {self.method}, seed {self.seed}"


_SENTENCE = Columns("sentence", None, "label")
_PAIR = Columns("sentence1", "sentence2", "label")
_TEXT = Columns("text", None, "label")
_SERVED = {3: 0.99, 2: 0.96}


_Budget = tuple[int, float, int]


def _plan(
    name: str, columns: Columns, chosen: _Budget, tried: Sequence[_Budget], metric: str = "accuracy", **others: Any
) -> TaskPlan:
    """
    Args:
        chosen, tried: epochs, learning rate and rows a batch.
    """
    own, *beside = (
        TrainingSettings(epochs=epochs, learning_rate=rate, batch_size=rows, max_length=128, metric=metric)
        for epochs, rate, rows in (chosen, *tried)
    )
    files = {"train": f"{name}/train.tsv", "dev": f"{name}/dev.tsv", **others}
    return TaskPlan(name=name, columns=columns, metric=metric, training=own, tried=tuple(beside), **files)


# From small to large: what a cell costs is about rows times tokens a row.
TASKS = {
    plan.name: plan
    for plan in (
        _plan("SICK-NLI", _PAIR, (6, 1e-4, 32), [(6, 5e-5, 32)], targets={3: 0.975}),
        _plan("CoLA", _SENTENCE, (6, 5e-5, 32), [(6, 1e-4, 32)], "matthews", targets={3: 0.96}),
        # On its 249 held-out rows 1e-4 gave 0.618 and 0.578, 5e-5 gave 0.610, 0.594 and 0.602: not told apart.
        _plan("RTE", _PAIR, (8, 5e-5, 16), [(8, 1e-4, 16)], targets={3: 0.96}),
        _plan("MRPC", _PAIR, (8, 5e-5, 16), [(8, 1e-4, 16)], targets={3: 0.975}),
        _plan("Banking77", _TEXT, (8, 2e-4, 32), [(8, 1e-4, 32)], dev=None, targets=_SERVED),
        _plan("CLINC150", _TEXT, (8, 2e-4, 32), [(8, 1e-4, 32)], dev="CLINC150/val.tsv", targets=_SERVED),
        # On a CPU a cell takes half an hour.
        _plan("SST-2", _SENTENCE, (3, 1e-4, 32), [(3, 5e-5, 32)], targets=_SERVED),
    )
}


def teacher_training(plan: TaskPlan, seed: int) -> TrainingSettings:
    """How the teacher of a seed's students is fine-tuned: with the same seed."""
    return replace(plan.training, seed=seed)


def settings_of(cell: Cell, plan: TaskPlan) -> DistillationSettings:
    """A cell's settings: its method's recipe, with the task's budget in place of the recipe's."""
    budget = {name: value for name, value in vars(plan.training).items() if name != "seed"}
    # A student reads what its teacher reads.
    own = {**METHODS, **CONTROLS}[cell.method]
    return DistillationSettings.from_flat({**budget, **own, "layers": cell.layers, "seed": cell.seed})


def cells(tasks: Sequence[TaskPlan], depths: Sequence[int], methods: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """The cells in the order in which they are run, so that the table fills evenly.

    The first seed of everything comes before the second of anything; of one seed the deeper students come first, and
    the methods before the controls.
    """
    return list(_ordered(tasks, depths, methods, seeds))


def _ordered(
    tasks: Sequence[TaskPlan], depths: Sequence[int], methods: Sequence[str], seeds: Sequence[int]
) -> Iterator[Cell]:
    groups = [[method for method in methods if method in kind] for kind in (METHODS, CONTROLS)]
    for seed in seeds:
        for group in groups:
            for depth in depths:
                for plan in tasks:
                    if seed in plan.seeds:
                        yield from (Cell(plan.name, depth, method, seed) for method in group)
