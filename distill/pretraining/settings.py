"""Settings of pretraining, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from common.errors import InputError

OBJECTIVES = ("masked", "permutation", "infoword")
MLM_LOSSES = ("softmax", "nce")

# Whose objectives a setting is, where it is not everybody's.
_OWNERS = {
    "mask_share": ("masked", "infoword"),
    "span_k": ("permutation",),
    "memory_length": ("permutation",),
    "reuse_length": ("permutation",),
    "bidirectional": ("permutation",),
    "segments": ("permutation",),
    "dim_weight": ("infoword",),
    "mlm_loss": ("infoword",),
}


@dataclass(frozen=True)
class PretrainingSettings:
    """How an encoder is pretrained.

    Attributes:
        objective: `masked` (BERT), `permutation` (XLNet) or `infoword`.
        steps: of the optimizer.
        batch_size: rows a batch; each has a segment of a document.
        accumulate: batches a step, one after the other in the rows' documents; they count by their targets.
        max_length: tokens a segment, with special tokens.
        learning_rate: AdamW's peak.
        warmup: share of all steps over which the rate rises; it falls linearly to 0 after that.
        weight_decay: of weight matrices; biases and layer norms have none.
        clip: the norm that the gradient is scaled down to where it is larger.
        vocabulary: tokens of a tokenizer that is trained on the corpus; None takes the config's `vocab_size`.
        cased: whether that tokenizer tells capitals from small letters.
        seed: of weights, order and every draw; the same seed gives the same bits on CPU with as many threads.
        mask_share: of a segment's tokens that are masked (`masked`, `infoword`).
        span_k: K; one token in K is a target (`permutation`).
        memory_length: states that a layer keeps of the segments before, 0 for none (`permutation`).
        reuse_length: tokens of a segment whose states are kept, and after which the next one starts; None keeps all
            of a segment (`permutation`).
        bidirectional: whether the second half of the rows read their documents backwards (`permutation`).
        segments: of text in a row, 1 or 2; the second is of another document half of the time (`permutation`).
        dim_weight: λ_DIM (`infoword`).
        mlm_loss: the masked-LM term over all tokens (`softmax`) or over the batch's (`nce`) (`infoword`).
    """

    objective: str
    steps: int = 10_000
    batch_size: int = 32
    accumulate: int = 1
    max_length: int = 128
    learning_rate: float = 1e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    vocabulary: int | None = None
    cased: bool = False
    seed: int = 0
    mask_share: float = 0.15
    span_k: int = 6
    memory_length: int = 0
    reuse_length: int | None = None
    bidirectional: bool = False
    segments: int = 1
    dim_weight: float = 1.0
    mlm_loss: str = "softmax"

    def __post_init__(self) -> None:
        _require(
            self.objective in OBJECTIVES, f"objective must be one of {', '.join(OBJECTIVES)}, not '{self.objective}'"
        )
        _require(1 <= self.steps <= 1_000_000_000, "steps must lie between 1 and 1,000,000,000")
        _require(self.batch_size >= 1, "batch_size must be at least 1")
        _require(self.accumulate >= 1, "accumulate must be at least 1")
        _require(self.max_length >= 8, "max_length must be at least 8 tokens")
        _require(0 < self.learning_rate < 1, "learning_rate must lie between 0 and 1")
        _require(0 <= self.warmup < 1, "warmup is a share of the steps, from 0 to below 1")
        _require(0 <= self.weight_decay < 1, "weight_decay must lie between 0 and 1")
        _require(0 < self.clip < math.inf, "clip must be a number above 0")
        _require(
            self.vocabulary is None or 64 <= self.vocabulary <= 1_000_000,
            "vocabulary must lie between 64 and 1,000,000 tokens",
        )
        _require(0 <= self.seed < 2**32, "seed must lie between 0 and 2³² - 1")
        _require(0 < self.mask_share < 1, "mask_share must lie between 0 and 1")
        _require(self.span_k >= 2, "span_k must be at least 2")
        _require(self.memory_length >= 0, "memory_length must not be negative")
        _require(
            self.reuse_length is None or 1 <= self.reuse_length < self.max_length,
            "reuse_length must lie between 1 and below max_length",
        )
        _require(self.segments in (1, 2), "segments must be 1 or 2")
        _require(
            self.segments == 1 or not self.memory_length or self.reuse_length is not None,
            "with two segments a row, the second may be of another document: what is remembered must end before, so "
            "memory_length needs a reuse_length",
        )
        for entry in fields(self):
            owners = _OWNERS.get(entry.name, OBJECTIVES)
            _require(
                self.objective in owners or getattr(self, entry.name) == entry.default,
                f"{entry.name} is of use with {' and '.join(owners)} alone, and the objective is {self.objective}",
            )
        _require(0 <= self.dim_weight < math.inf, "dim_weight must be a number from 0")
        _require(self.mlm_loss in MLM_LOSSES, f"mlm_loss must be one of {', '.join(MLM_LOSSES)}, not '{self.mlm_loss}'")
        self.check_processes(1)

    def check_processes(self, count: int) -> None:
        """Whether each of `count` processes has the rows that the objective needs of a batch.

        Raises:
            InputError: it has not.
        """
        each = f" in each of {count} processes" if count > 1 else ""
        _require(self.batch_size >= count, f"batch_size {self.batch_size} leaves no row{each}")
        compares_rows = self.objective == "infoword" and (self.dim_weight or self.mlm_loss == "nce")
        _require(
            not compares_rows or self.batch_size >= 2 * count,
            f"infoword has its negatives from the other rows{each}: batch_size must be at least {2 * count}",
        )
        _require(
            not self.bidirectional or self.batch_size % (2 * count) == 0,
            f"bidirectional reads half of the rows backwards{each}: batch_size must be a multiple of {2 * count}",
        )

    def describe(self) -> dict[str, Any]:
        """All settings in one flat object, as the record keeps them."""
        return asdict(self)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)
