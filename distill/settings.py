"""Settings of fine-tuning and distilling, checked when they are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from common.errors import InputError

METHODS = ("finetune", "kd", "pkd-skip", "pkd-last")
INITS = ("pretrained", "teacher-first", "teacher-skip")


@dataclass(frozen=True)
class TrainingSettings:
    """How any model is trained (PKD §4.2 gives the grid that the defaults lie in).

    Attributes:
        epochs: passes over the training rows.
        batch_size: rows a step.
        learning_rate: AdamW's peak.
        warmup: share of all steps over which the rate rises; it falls linearly to 0 after that.
        weight_decay: of weight matrices; biases and layer norms have none.
        max_length: tokens a text; longer ones are truncated, and counted. None takes 128 for a teacher, and for a
            student its teacher's own limit.
        seed: of shuffling, dropout and fresh weights; the same seed gives the same bits on CPU with as many threads.
        metric: which dev metric picks the best epoch; None takes the task's default.
    """

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_length: int | None = None
    seed: int = 0
    metric: str | None = None

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs must be at least 1")
        _require(self.batch_size >= 1, "batch_size must be at least 1")
        _require(0 < self.learning_rate < 1, "learning_rate must lie between 0 and 1")
        _require(0 <= self.warmup < 1, "warmup is a share of the steps, from 0 to below 1")
        _require(0 <= self.weight_decay < 1, "weight_decay must lie between 0 and 1")
        _require(self.max_length is None or self.max_length >= 4, "max_length must be at least 4 tokens")
        _require(0 <= self.seed < 2**32, "seed must lie between 0 and 2³² - 1")


@dataclass(frozen=True)
class DistillationSettings:
    """What the student is and how it learns from the teacher (PKD, eqs. 3 to 8).

    Attributes:
        layers: the student's depth k.
        method: `finetune` (hard labels alone), `kd` (and soft targets), `pkd-skip` or `pkd-last` (and patience).
        init: where the student's layers come from: the first k of the `pretrained` model, the first k of the
            fine-tuned teacher, or every n/k-th of the teacher.
        temperature: T, on both sides of the soft targets.
        alpha: α, the share of the soft-target loss; `finetune` sets it to 0.
        beta: β, the weight of the patience loss, on the scale of the paper's grid (see `losses.patience_loss`).
        base: the pre-trained model, where the teacher's directory does not name it.
    """

    layers: int
    method: str = "pkd-skip"
    init: str = "pretrained"
    temperature: float = 5.0
    alpha: float = 0.7
    beta: float = 100.0
    base: str | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        _require(self.layers >= 1, "layers must be at least 1")
        _require(self.method in METHODS, f"method must be one of {', '.join(METHODS)}, not '{self.method}'")
        _require(self.init in INITS, f"init must be one of {', '.join(INITS)}, not '{self.init}'")
        _require(self.temperature > 0, "temperature must be above 0")
        _require(0 <= self.alpha <= 1, "alpha must lie between 0 and 1")
        _require(self.beta >= 0, "beta must not be negative")
        _require(self.base is None or self.init == "pretrained", "--base is of use with --init pretrained alone")

    @property
    def soft_weight(self) -> float:
        """α of this method."""
        return 0.0 if self.method == "finetune" else self.alpha

    @property
    def patience_weight(self) -> float:
        """β of this method."""
        return self.beta if self.method.startswith("pkd") else 0.0

    def describe(self) -> dict[str, Any]:
        """All settings in one flat object, as the record keeps them."""
        values = asdict(self)
        return {**values.pop("training"), **values}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)
