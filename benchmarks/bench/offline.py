"""Offline: all texts at once, answered in whatever order and batches; how many a second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.bench.contestants import Contestant, LocalModel
from benchmarks.bench.estimates import estimate, estimate_ratio
from benchmarks.bench.latency import base_of
from benchmarks.bench.rounds import Job, affordable
from benchmarks.bench.sample import Sample
from common.batching import BatchLimits
from common.tokenization import Text
from serve.engine import Engine

BATCH_SIZES = (1, 8, 32)
# Of the scenario's time, for the engine's own batches; the fixed sizes share the rest.
_OWN_SHARE = 0.4
# Bounds on the groups of neighbours in length of a round, by their size; the lower one holds at any cost.
_GROUPS = {1: (16, 512), 8: (4, 64), 32: (2, 32)}
_OWN_SIZE = 32
_TRIED_GROUPS = 2


@dataclass(frozen=True)
class Pass:
    """One pass over the texts of a round.

    Attributes:
        seconds: by the clock, tokenizing included.
        cpu_seconds: processor time of the whole process.
        lengths: tokens of each text as the model read it.
    """

    seconds: float
    cpu_seconds: float
    lengths: tuple[int, ...]

    @property
    def texts(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


class Offline:
    """See `benchmarks.bench.rounds.Scenario`; of models in this process alone."""

    def __init__(self, contestants: Sequence[Contestant], sample: Sample, rounds: int, seconds: float):
        local = [each for each in contestants if isinstance(each, LocalModel)]
        self._sizes = [size for size in BATCH_SIZES if size <= len(sample.texts)]
        own = _fit(local, sample, _OWN_SIZE, None, _OWN_SHARE * seconds / rounds)
        share = (1 - _OWN_SHARE) * seconds / rounds / len(self._sizes)
        fixed = [_fit(local, sample, size, size, share) for size in self._sizes]
        self.jobs = [
            _job(own, None),
            *(_job(texts, size) for texts, size in zip(fixed, self._sizes, strict=True)),
        ]

    def result(self, turns: Sequence[dict[str, list[Pass]]]) -> dict[str, Any]:
        own, *fixed = turns
        models = {}
        for id, passes in own.items():
            by_batch = [
                {"batch": size, **_rates(each[id], base_of(id, each))}
                for size, each in zip(self._sizes, fixed, strict=True)
            ]
            tokens = estimate([each.tokens / each.seconds for each in passes]).as_dict()
            models[id] = {**_rates(passes, base_of(id, own)), "tokens_per_s": tokens, "by_batch": by_batch}
        return {"models": models}


def _job(texts: Sequence[Text], size: int | None) -> Job:
    return Job(lambda model: run_pass(model.engine, texts, size), local=True)


def run_pass(engine: Engine, texts: Sequence[Text], size: int | None) -> Pass:
    """Answers all the texts, sorted by length.

    Args:
        size: of the batches; None leaves that to the engine, as files are scored.
    """
    if size is not None:
        # The token limit is out of the way: the batches shall have the size that the report says.
        limits = BatchLimits(items=size, tokens=size * engine.encoder.max_length)
        engine = Engine(engine.bundle, engine.model, engine.encoder, limits)
    cpu, started = time.process_time(), time.perf_counter()
    encoded = engine.encoder.encode(texts)
    engine.run_sorted(encoded)
    seconds = time.perf_counter() - started
    return Pass(seconds, time.process_time() - cpu, tuple(text.tokens for text in encoded))


def _fit(models: Sequence[LocalModel], sample: Sample, size: int, batch: int | None, seconds: float) -> list[Text]:
    """As many groups of neighbours in length as a round has time for with one model."""
    tried = sample.groups(size, _TRIED_GROUPS)
    for model in models:
        run_pass(model.engine, tried, batch)  # warms it up for batches of this size
    cost = sum(run_pass(model.engine, tried, batch).seconds for model in models) / len(models) * size / len(tried)
    least, most = _GROUPS[size]
    return sample.groups(size, affordable(seconds, cost, least=least, most=most))


def _rates(passes: Sequence[Pass], teacher: Sequence[Pass] | None) -> dict[str, Any]:
    own = _texts_per_s(passes)
    ratio = None if teacher is None else estimate_ratio(own, _texts_per_s(teacher))
    return {"texts_per_s": estimate(own).as_dict(), "ratio": ratio and ratio.as_dict()}


def _texts_per_s(passes: Sequence[Pass]) -> list[float]:
    return [each.texts / each.seconds for each in passes]
