"""What is measured, as `results.json` has it: answers, speed by scenario, cost. See `schema`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """Only what is described here, and only finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(Part):
    """A figure and its 95 % interval; the bounds are null where it cannot be known, as with a single round."""

    value: float
    low: float | None
    high: float | None


class ModelQuality(Part):
    """One model against the labels."""

    metrics: dict[str, Estimate]
    retention: Estimate | None = Field(description="the main metric over the teacher's; null for the teacher")


class Quality(Part):
    """All models against the labels."""

    metric: str = Field(description="the main one of the metrics")
    rows: Count
    models: dict[str, ModelQuality]


class Disagreement(Part):
    """A text that two models answer otherwise, cut at 300 characters."""

    text: str
    label: str | None = Field(description="the right one, where the data has it")
    teacher_score: float | None
    student_score: float | None


class Cell(Part):
    """The texts with one label from the teacher and another from the student."""

    teacher: str
    student: str
    count: Count
    texts: list[Disagreement] = Field(description="up to 5 of them")


class McNemar(Part):
    """Rows that one of the two alone gets right, and the exact test's two-sided p (McNemar 1947)."""

    student_only: Count
    teacher_only: Count
    p: Share


class ModelAgreement(Part):
    """One student's answers against the teacher's."""

    name: str = Field(description="of the measure: same label, same set of labels, Pearson correlation")
    value: Estimate
    rows: Count
    mcnemar: McNemar | None
    agreed: dict[str, Count] = Field(description="by label, the texts that get it from both")
    confusion: list[Cell] = Field(description="cells of disagreement, the largest first, at most 200")


class Agreement(Part):
    """All students against the teacher."""

    models: dict[str, ModelAgreement]


class Histogram(Part):
    """Calls by latency: `counts[i]` of them between `edges_ms[i]` and `edges_ms[i + 1]`."""

    edges_ms: list[float]
    counts: list[Count]


class Length(Part):
    """Latency of texts of about one length."""

    tokens: str
    low: Count = Field(alias="from")
    high: Count | None = Field(alias="to", description="null without end")
    texts: Count
    joined: Count = Field(description="texts that were made of several")
    calls: Count
    p50_ms: Estimate
    ratio: Estimate | None


class Latency(Part):
    """Percentiles over the calls; p99 is null with too few of them. Ratios are over the teacher's, round by round."""

    p50_ms: Estimate
    p90_ms: Estimate
    p99_ms: Estimate | None
    ratio_p50: Estimate | None
    calls: Count
    errors: Count | None = Field(default=None, description="calls that a server did not answer, and that count nowhere")


class ModelSingleStream(Latency):
    """One model asked one text at a time."""

    histogram: Histogram
    by_length: list[Length]


class SingleStream(Part):
    """One text at a time, the next when the one before is answered."""

    models: dict[str, ModelSingleStream]


class MultiStream(Part):
    """Queries of several texts at once, the next when the one before is answered."""

    streams: Count = Field(description="texts of a query")
    models: dict[str, Latency]


class Point(Part):
    """One trial at one rate of arrivals; latencies count from when a text was meant to be sent."""

    rate: float = Field(description="texts a second that were meant to arrive")
    round: Count
    sent: Count
    valid: bool = Field(description="whether the generator kept its schedule")
    held: bool = Field(description="whether it did, nothing failed, and p99 kept the bound")
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    errors: Count
    lag_p99_ms: float | None = Field(description="how late the generator itself sent")


class ModelServer(Part):
    """One model under Poisson arrivals."""

    max_rate: Estimate | None = Field(description="the highest rate at which p99 kept the bound, texts a second")
    reason: str | None = Field(description="why there is none")
    ratio: Estimate | None
    points: list[Point]


class Server(Part):
    """Texts that arrive when they will (Poisson, open loop)."""

    bound_ms: float
    models: dict[str, ModelServer]


class Batch(Part):
    """Throughput at one batch size."""

    batch: Count
    texts_per_s: Estimate
    ratio: Estimate | None


class ModelOffline(Part):
    """One model given all texts at once."""

    texts_per_s: Estimate
    tokens_per_s: Estimate | None
    ratio: Estimate | None
    by_batch: list[Batch]


class Offline(Part):
    """All texts at once."""

    models: dict[str, ModelOffline]


class ModelCost(Part):
    """What running one model takes; null is what cannot be known of it."""

    start_up_s: Estimate | None = Field(description="from a process's start to its first answer")
    peak_memory_bytes: Estimate | None
    flops_per_text: float | None = Field(description="of matrix products, a multiplication and an addition as two")
    flops_per_s: Estimate | None
    roofline_share: Estimate | None = Field(description="flops_per_s over the machine's peak")
    core_seconds_per_million: Estimate | None = Field(description="of texts")
    price_per_million: Estimate | None


class Cost(Part):
    """What running the models takes."""

    models: dict[str, ModelCost]


class Roofline(Part):
    """The most that matrix products reach on this machine with as many threads."""

    peak_flops_per_s: Estimate
    how: str
    threads: Count
    dtype: str
