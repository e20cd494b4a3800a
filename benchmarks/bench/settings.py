"""How a benchmark is run: its scenarios, how long they take, and what runs the models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from common.devices import check_device
from common.errors import InputError
from common.machine import usable_cores
from serve.engine import ENGINES

SINGLE_STREAM, MULTI_STREAM, SERVER, OFFLINE = "single-stream", "multi-stream", "server", "offline"
# By MLPerf's names (Reddi et al. 2020, "MLPerf Inference Benchmark", §III).
SCENARIOS = (SINGLE_STREAM, MULTI_STREAM, SERVER, OFFLINE)


@dataclass(frozen=True)
class BenchSettings:
    """
    Attributes:
        scenarios: some of `SCENARIOS`.
        rounds: turns of each model.
        seconds: about how long a scenario measures each model, all rounds together.
        latency_bound_ms: of the server scenario: what 99 of 100 answers must keep.
        threads: of each model on the CPU; 0 takes one a core.
        engine, device: what runs the models and where, as in `Engine.load`.
        price_per_core_hour: in whatever currency; None for no price.
        seed: draws the texts whose time is taken, and the arrivals; every text counts for quality and agreement.
    """

    scenarios: tuple[str, ...] = SCENARIOS
    rounds: int = 9
    seconds: float = 10.0
    latency_bound_ms: float = 50.0
    threads: int = 0
    engine: str = "onnx"
    device: str = "auto"
    price_per_core_hour: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.scenarios if name not in SCENARIOS]
        if unknown or not self.scenarios:
            named = f"'{unknown[0]}' is none" if unknown else "none is named"
            raise InputError(f"scenarios must be some of {', '.join(SCENARIOS)}; {named}")
        if self.rounds < 1:
            raise InputError(f"rounds must be at least 1, not {self.rounds}")
        for name in ("seconds", "latency_bound_ms"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.price_per_core_hour is not None and not 0 <= self.price_per_core_hour < float("inf"):
            raise InputError(f"price_per_core_hour must be at least 0, not {self.price_per_core_hour}")
        cores = usable_cores()
        if not 0 <= self.threads <= cores:
            raise InputError(f"threads must lie between 0 and this machine's {cores} cores, not {self.threads}")
        if self.engine not in ENGINES:
            raise InputError(f"engine must be one of {', '.join(ENGINES)}, not '{self.engine}'")
        check_device(self.device)

    @property
    def model_threads(self) -> int:
        """Threads of each model, resolved."""
        return self.threads or usable_cores()

    def describe(self) -> dict[str, Any]:
        """For `results.json`."""
        return {**asdict(self), "scenarios": list(self.scenarios), "threads": self.model_threads}
