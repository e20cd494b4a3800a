"""What it takes to run each model: start-up, memory, arithmetic, cores, and a price if one is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.bench.contestants import LocalModel
from benchmarks.bench.estimates import Estimate, estimate
from benchmarks.bench.offline import Pass
from benchmarks.bench.process_cost import ProcessCost
from benchmarks.bench.roofline import Roofline, flops_by_length
from common.errors import WorkFailedError
from common.progress import say

MILLION = 1_000_000
_SECONDS_AN_HOUR = 3600


def costs(
    models: Sequence[LocalModel],
    processes: Mapping[str, Sequence[ProcessCost]],
    passes: Mapping[str, Sequence[Pass]],
    lengths: Sequence[int],
    peak: Roofline,
    *,
    price_per_core_hour: float | None,
) -> dict[str, Any]:
    """`cost` of `results.json`.

    Core-seconds are those of all a model's threads for as long as the offline scenario took, busy or not: who rents
    cores pays for them. Like what is held against the peak, they are of the CPU alone.

    Args:
        processes: by model, what fresh processes of it cost.
        passes: by model, its turns in the offline scenario; empty where that was not asked for.
        lengths: tokens of each text of the data, truncated at the longest limit of all models.
        peak: of the machine's matrix products.
    """
    return {
        "models": {
            model.id: _cost(model, processes[model.id], passes.get(model.id, []), lengths, peak, price_per_core_hour)
            for model in models
        }
    }


def _cost(
    model: LocalModel,
    processes: Sequence[ProcessCost],
    passes: Sequence[Pass],
    lengths: Sequence[int],
    peak: Roofline,
    price_per_core_hour: float | None,
) -> dict[str, Any]:
    read = [min(length, model.engine.bundle.manifest.max_length) for length in lengths]
    flops = _flops(model, [*read, *(length for each in passes for length in each.lengths)])
    speed = core_seconds = None
    if passes and flops:
        speed = estimate([sum(flops[length] for length in each.lengths) / each.seconds for each in passes])
    on_cpu = model.engine.model.device == "cpu"
    if passes and on_cpu:
        core_seconds = estimate([model.threads * each.seconds / each.texts * MILLION for each in passes])
    price = None
    if core_seconds and price_per_core_hour is not None:
        price = _times(core_seconds, price_per_core_hour / _SECONDS_AN_HOUR)
    figures = {
        "start_up_s": estimate([each.start_up_s for each in processes]),
        "peak_memory_bytes": estimate([each.peak_memory_bytes for each in processes]),
        "flops_per_s": speed,
        "roofline_share": _share(speed, peak.peak) if speed and on_cpu else None,
        "core_seconds_per_million": core_seconds,
        "price_per_million": price,
    }
    mean = flops and float(f"{sum(flops[length] for length in read) / len(read):.6g}")
    return {"flops_per_text": mean, **{name: figure and figure.as_dict() for name, figure in figures.items()}}


def _flops(model: LocalModel, lengths: Sequence[int]) -> dict[int, float] | None:
    """As `flops_by_length`; None, and a line that says why, where that cannot tell."""
    try:
        return flops_by_length(model.engine.bundle, lengths)
    except WorkFailedError as error:
        say(f"The FLOPs of {model.id} are not known: {error}")
        return None


def _times(figure: Estimate, factor: float) -> Estimate:
    low, high = (None if bound is None else bound * factor for bound in (figure.low, figure.high))
    return Estimate(figure.value * factor, low, high)


def _share(speed: Estimate, peak: Estimate) -> Estimate:
    """One over the other, the interval wide enough for the doubts about both."""
    low = None if speed.low is None or peak.high is None else speed.low / peak.high
    high = None if speed.high is None or peak.low is None else speed.high / peak.low
    return Estimate(speed.value / peak.value, low, high)
