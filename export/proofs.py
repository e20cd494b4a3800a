"""What an export proved, in numbers: the records that a bundle's manifest holds and its card shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.labels import MULTI_LABEL_THRESHOLD


@dataclass(frozen=True)
class Verification:
    """How the float32 graph was compared with the PyTorch model it came from.

    Attributes:
        texts: how many real texts.
        data: name and hash of the table they came from.
        shapes: distinct (batch, length) pairs that were run.
        max_difference: greatest absolute difference between logits (for a number above 1, in proportion to it); None
            for an adopted graph, which came without a PyTorch model.
        batch_shift: greatest absolute difference between a text's scores alone and in a batch.
        same_labels: whether every text got the same label from both, or, without a PyTorch model, alone and in a batch.
        weights_difference: as `max_difference`, of the weights in the bundle, run as the torch engine runs them; None
            without weights.
        device: where the graph ran, 'cpu' or 'cuda'.
    """

    texts: int
    data: dict[str, Any]
    shapes: int
    max_difference: float | None
    batch_shift: float
    same_labels: bool
    weights_difference: float | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Attempt:
    """One way to a lower precision, measured on the dev table.

    Attributes:
        precision: 'int8', 'int8-static' or 'fp16'.
        kept: layers left in float32.
        value: the dev metric.
        loss: points that it lost to the float32 graph.
        batch_shift: greatest absolute difference between a text's scores alone and in a batch; None where the loss was
            too great already.
        flips: texts whose label alone differs from that in a batch; None likewise.
        bytes: of the graph.
        texts_per_s: in batches of like length on the machine of the export; None where it was not measured.
        passed: whether loss, shift and flips are all within their limits.
    """

    precision: str
    kept: list[str]
    value: float
    loss: float
    batch_shift: float | None
    flips: int | None
    bytes: int
    passed: bool
    texts_per_s: float | None = None


@dataclass(frozen=True)
class PrecisionProof:
    """What a lower precision costs, against the float32 graph of the same model.

    Attributes:
        precision: what was taken; 'fp32' where 'auto' found nothing faster that passes.
        data: the dev table: name, hash, rows.
        metric: of the dev table.
        fp32_value, value: the metric of both graphs.
        max_loss: points that the metric may lose.
        agreement: share of dev texts with the same label from both (1 for numbers).
        max_score_difference: greatest absolute difference between scores.
        batch_shift, flips: as in `Attempt`, over all dev texts.
        fp32_bytes, bytes: of the two graphs.
        kept: layers left in float32.
        weight_bits: of the integers, 7 or 8; None without integers.
        weight_bits_reason: why so many.
        calibrated_on: the training rows that gave static ranges: name, hash and rows used; None otherwise.
        device: where both graphs ran.
        tried: every attempt, in order.
        fp32_texts_per_s: as in `Attempt`; None where speed decided nothing.
    """

    precision: str
    data: dict[str, Any]
    metric: str
    fp32_value: float
    value: float
    max_loss: float
    agreement: float
    max_score_difference: float
    batch_shift: float | None
    flips: int | None
    fp32_bytes: int
    bytes: int
    kept: list[str]
    weight_bits: int | None
    weight_bits_reason: str | None
    calibrated_on: dict[str, Any] | None
    device: str
    tried: list[Attempt] = field(default_factory=list)
    fp32_texts_per_s: float | None = None


@dataclass(frozen=True)
class Calibration:
    """How well the scores tell how often the model is right, before and after a temperature (Guo et al. 2017).

    Attributes:
        data: the dev table: name, hash, rows.
        temperature: divides the logits; fitted on all rows.
        thresholds: of each label, for a task of several; else None.
        folds: the figures "after" are of rows that the fit did not see, fold by fold.
        ece_before, ece_after: expected calibration error (15 bins), of the best label's score, or of all labels' scores
            where a text may have several.
        brier_before, brier_after: mean squared distance between the scores and the truth, over all labels.
        nll_before, nll_after: mean negative log-likelihood (natural logarithm).
        f1_before, f1_after: micro-F1 at one half and at the thresholds; None without.
        bins_before, bins_after: of each bin that holds texts: their share, mean score, and share of right answers.
    """

    data: dict[str, Any]
    temperature: float
    thresholds: list[float] | None
    folds: int
    ece_before: float
    ece_after: float
    brier_before: float
    brier_after: float
    nll_before: float
    nll_after: float
    f1_before: float | None
    f1_after: float | None
    bins_before: list[list[float]]
    bins_after: list[list[float]]

    @property
    def own_thresholds(self) -> str:
        """How many labels have another threshold than one half, in words: `6 of 7 labels`."""
        limits = self.thresholds or []
        return f"{sum(limit != MULTI_LABEL_THRESHOLD for limit in limits)} of {len(limits)} labels"

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: the temperature is no number above zero, or the thresholds are no numbers.
        """
        if not isinstance(self.temperature, (int, float)) or not 0 < self.temperature < float("inf"):
            raise ValueError(f"the temperature must be a number above 0, not {self.temperature!r}")
        limits = [] if self.thresholds is None else self.thresholds
        if not isinstance(limits, list) or not all(type(limit) in (int, float) for limit in limits):
            raise ValueError(f"the thresholds must be a list of numbers, one for each label, not {limits!r}")
