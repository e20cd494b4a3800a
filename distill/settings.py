"""Settings of fine-tuning and distilling, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from common.errors import InputError

INITS = ("pretrained", "teacher-first", "teacher-skip")

_PAPER = {
    "init": "pretrained",
    "temperature": 5.0,
    "alpha": 0.7,
    "beta": 100.0,
    "hidden_weight": 0.0,
    "relation_weight": 0.0,
    "augment": 0,
    "epochs": 4,
    "learning_rate": 5e-5,
}
# What each method's settings are where they are not given. The first four are the paper's, from the middle of its grid;
# `best` was found on held-out parts of training tables.
RECIPES: dict[str, dict[str, Any]] = {
    "finetune": _PAPER,
    "kd": _PAPER,
    "pkd-skip": _PAPER,
    "pkd-last": _PAPER,
    "best": {
        **_PAPER,
        "init": "teacher-skip",
        "beta": 0.0,
        "hidden_weight": 10.0,
        "relation_weight": 1.0,
        "learning_rate": 1e-4,
    },
}
METHODS = tuple(RECIPES)
RELATIONS = ("minilm", "minilmv2")

# The default of a setting that the method decides; `DistillationSettings` never keeps it.
_BY_METHOD: Any = None


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
        early_stopping: epochs without a better dev metric after which training stops; None trains all of them. The
            learning rate falls as if all were trained.
    """

    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_length: int | None = None
    seed: int = 0
    metric: str | None = None
    early_stopping: int | None = None

    def __post_init__(self) -> None:
        _require(1 <= self.epochs <= 100_000, "epochs must lie between 1 and 100,000")
        _require(self.batch_size >= 1, "batch_size must be at least 1")
        _require(0 < self.learning_rate < 1, "learning_rate must lie between 0 and 1")
        _require(0 <= self.warmup < 1, "warmup is a share of the steps, from 0 to below 1")
        _require(0 <= self.weight_decay < 1, "weight_decay must lie between 0 and 1")
        _require(self.max_length is None or self.max_length >= 4, "max_length must be at least 4 tokens")
        _require(self.early_stopping is None or self.early_stopping >= 1, "early_stopping must be at least 1 epoch")
        _require(0 <= self.seed < 2**32, "seed must lie between 0 and 2³² - 1")


@dataclass(frozen=True)
class DistillationSettings:
    """What the student is and how it learns from the teacher (PKD, eqs. 3 to 8, and what came after it).

    Settings that are not given are the method's own, of `RECIPES`.

    Attributes:
        layers: the student's depth k.
        method: `finetune` (hard labels alone), `kd` (and soft targets), `pkd-skip` or `pkd-last` (and patience), or
            `best` (the recipe that held-out rows found best).
        init: where the student's layers come from: the first k of the `pretrained` model, the first k of the
            fine-tuned teacher, or every n/k-th of the teacher.
        width: the student's hidden size; None takes the teacher's.
        heads: the student's attention heads; None keeps the width of the teacher's.
        temperature: T, on both sides of the soft targets; of no meaning, and not kept, where α is 0.
        alpha: α, the share of the soft-target loss; `finetune` sets it to 0.
        beta: β, the weight of the patience loss, on the scale of the paper's grid (see `losses.patience_loss`);
            `finetune` and `kd` set it to 0.
        hidden_weight: of the states of all tokens (`losses.hidden_loss`); 0 leaves them out.
        relation_weight: of the self-attention relations (`relations.relation_loss`); 0 leaves them out.
        relations: `minilmv2` (queries, keys and values, each among themselves) or `minilm` (attention, and values).
        relation_layer: the teacher's layer whose relations the student's last layer learns; None takes the last.
        relation_heads: A_r, into how many heads MiniLMv2's vectors are split; None takes the teacher's attention heads.
        augment: altered copies of each training row, which the teacher labels (`augmentation.augmented`).
        dim_weight: of the mutual information between a text's vector and n-grams hidden in it, the student's own
            (`pretraining.infoword.DeepInfoMax`); 0 leaves it out.
        base: the pre-trained model, where the teacher's directory does not name it.
    """

    layers: int
    method: str = "pkd-skip"
    init: str = _BY_METHOD
    temperature: float = _BY_METHOD
    alpha: float = _BY_METHOD
    beta: float = _BY_METHOD
    base: str | None = None
    training: TrainingSettings = _BY_METHOD
    width: int | None = None
    heads: int | None = None
    hidden_weight: float = _BY_METHOD
    relation_weight: float = _BY_METHOD
    relations: str = "minilmv2"
    relation_layer: int | None = None
    relation_heads: int | None = None
    augment: int = _BY_METHOD
    dim_weight: float = 0.0

    def __post_init__(self) -> None:
        _require(self.method in METHODS, f"method must be one of {', '.join(METHODS)}, not '{self.method}'")
        own, of_training = _split(RECIPES[self.method])
        for name, value in {**own, "training": TrainingSettings(**of_training)}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        _require(self.layers >= 1, "layers must be at least 1")
        _require(self.init in INITS, f"init must be one of {', '.join(INITS)}, not '{self.init}'")
        _require(0 < self.temperature <= 1000, "temperature must lie above 0 and be at most 1000")
        _require(0 <= self.alpha <= 1, "alpha must lie between 0 and 1")
        for name in ("beta", "hidden_weight", "relation_weight", "dim_weight"):
            _require(0 <= getattr(self, name) < math.inf, f"{name} must be a number from 0")
        for name in ("width", "heads", "relation_layer", "relation_heads"):
            _require(getattr(self, name) is None or getattr(self, name) >= 1, f"{name} must be at least 1")
        _require(
            self.relations in RELATIONS, f"relations must be one of {', '.join(RELATIONS)}, not '{self.relations}'"
        )
        _require(
            self.relation_heads is None or self.relations == "minilmv2",
            "relation_heads is of use with relations minilmv2 alone: MiniLM's are the attention heads",
        )
        _require(self.augment >= 0, "augment must not be negative")
        _require(self.base is None or self.init == "pretrained", "--base is of use with --init pretrained alone")
        _require(
            self.method != "finetune"
            or not (self.hidden_weight or self.relation_weight or self.augment or self.dim_weight),
            "finetune learns from the labels alone: hidden_weight, relation_weight, augment, dim_weight need another "
            "method",
        )
        self.check_processes(1)
        # What the method does not use is not kept: two settings that train the same student are the same.
        for name, used in (
            ("alpha", self.method != "finetune"),
            ("beta", self.method not in ("finetune", "kd")),
        ):
            if not used:
                object.__setattr__(self, name, 0.0)
        if not self.alpha:
            object.__setattr__(self, "temperature", own["temperature"])

    def check_processes(self, count: int) -> None:
        """Whether each of `count` processes has the rows that the loss needs of a batch.

        Raises:
            InputError: it has not.
        """
        each = f" in each of {count} processes" if count > 1 else ""
        _require(
            not self.dim_weight or self.training.batch_size >= 2 * count,
            f"dim_weight compares the rows of a batch{each}: batch_size must be at least {2 * count}",
        )

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> DistillationSettings:
        """Settings from one flat object, as `describe` gives it; None counts as not given.

        Raises:
            InputError: a name that is no setting, or a value that will not do.
        """
        given = {name: value for name, value in values.items() if value is not None}
        _, by_method = _split(RECIPES.get(given.get("method", "pkd-skip"), {}))
        own, of_training = _split({**by_method, **given})
        unknown = sorted(of_training.keys() - {entry.name for entry in fields(TrainingSettings)})
        _require(not unknown, f"no such setting: {', '.join(unknown)}")
        _require("layers" in own, "layers must be given")
        return cls(**own, training=TrainingSettings(**of_training))

    @property
    def soft_weight(self) -> float:
        """α of this method."""
        return self.alpha

    @property
    def patience_weight(self) -> float:
        """β of this method."""
        return self.beta

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss has a term of the teacher's, which rows without a label learn from."""
        patience = self.patience_weight and self.layers > 1
        return bool(self.soft_weight or patience or self.matches_tokens)

    @property
    def matches_tokens(self) -> bool:
        """Whether the teacher runs beside the student, since its states of all tokens are not kept."""
        return bool(self.hidden_weight or self.relation_weight)

    def describe(self) -> dict[str, Any]:
        """All settings in one flat object, as the record keeps them; a temperature without soft targets is None."""
        values = asdict(self)
        used = {} if self.alpha else {"temperature": None}
        return {**values.pop("training"), **values, **used}


def _split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of distilling, and the others."""
    own = {entry.name for entry in fields(DistillationSettings)} - {"training"}
    return {name: value for name, value in values.items() if name in own}, {
        name: value for name, value in values.items() if name not in own
    }


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)
