"""What the study consists of: encoders and how each is pretrained, tasks and how each is fine-tuned, seeds, targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.studies.pkd.plan import TASKS as TABLES
from benchmarks.studies.pkd.plan import TaskPlan
from distill.pretraining.settings import PretrainingSettings
from distill.settings import TrainingSettings

SEEDS = (0, 1, 2, 3, 4)
# Of fine-tuning: the part held out of train chooses for each encoder and task, on the first seed.
RATES = (2e-4, 6e-4)

# Short documents make short rows, most of them a sentence. Ten passes over the corpus.
ROWS = 256
STEPS = 4_800
_COMMON = {"steps": STEPS, "batch_size": ROWS, "max_length": 64, "learning_rate": 1e-3, "seed": 0}


@dataclass(frozen=True)
class EncoderPlan:
    """One encoder: four layers of width 256, the command's built-in sizes.

    Attributes:
        family: `bert` or `xlnet`.
        settings: of its pretraining; those of one family start from the same random weights and tokenizer.
        pretrained: False leaves it at these random weights.
    """

    name: str
    family: str
    settings: PretrainingSettings
    pretrained: bool = True


def _encoder(name: str, family: str, objective: str, *, pretrained: bool = True) -> EncoderPlan:
    return EncoderPlan(name, family, PretrainingSettings(objective, **_COMMON), pretrained)  # type: ignore[arg-type]


ENCODERS = {
    plan.name: plan
    for plan in (
        _encoder("bert-none", "bert", "masked", pretrained=False),
        _encoder("bert-masked", "bert", "masked"),
        _encoder("bert-infoword", "bert", "infoword"),
        _encoder("xlnet-none", "xlnet", "permutation", pretrained=False),
        _encoder("xlnet-permutation", "xlnet", "permutation"),
    )
}
# What is compared: first against second.
CONTESTS = (
    ("bert-masked", "bert-none"),
    ("bert-infoword", "bert-none"),
    ("xlnet-permutation", "xlnet-none"),
    ("bert-infoword", "bert-masked"),
    ("xlnet-permutation", "bert-masked"),
)
# Points of the metric by which pretraining is to beat random weights.
TARGETS = {"Banking77": 5.0}


@dataclass(frozen=True, order=True)
class Cell:
    """One fine-tuned classifier."""

    encoder: str
    task: str
    rate: float
    seed: int

    def __str__(self) -> str:
        return f"{self.encoder}, {self.task}, rate {self.rate:g}, seed {self.seed}"


def _task(name: str, epochs: int, train_rows: int | None = None, source: str | None = None) -> TaskPlan:
    """
    Args:
        source: the task whose tables it has; its own.
    """
    plan = TABLES[source or name]
    training = replace(plan.training, epochs=epochs, batch_size=32, max_length=128)
    return replace(plan, name=name, training=training, tried=(), train_rows=train_rows, seeds=SEEDS, targets={})


# The slice of Banking77 has about 13 rows a label: where there are few of them, what was learned before tells most.
TASKS = {
    plan.name: plan
    for plan in (
        _task("SICK-NLI", 8),
        _task("Banking77", 10),
        _task("Banking77-1000", 30, 1_000, source="Banking77"),
        _task("SST-2", 4, 10_000),
    )
}


def settings_of(cell: Cell, plan: TaskPlan) -> TrainingSettings:
    """A cell's settings: its task's, with its own rate and seed."""
    return replace(plan.training, learning_rate=cell.rate, seed=cell.seed)


def first_cells(encoders: Sequence[str], tasks: Sequence[str]) -> list[Cell]:
    """The first seed at every rate: what chooses the rate."""
    return [Cell(encoder, task, rate, SEEDS[0]) for task in tasks for encoder in encoders for rate in RATES]


def further_cells(encoder: str, task: str, rate: float, seeds: Sequence[int] = SEEDS) -> list[Cell]:
    """The other seeds at the rate that was chosen."""
    return [Cell(encoder, task, rate, seed) for seed in seeds if seed != SEEDS[0]]
