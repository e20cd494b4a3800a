"""What the engine does without HTTP: the throughput that a server could have at most, and a bare call's latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from time import perf_counter, process_time
from typing import Any, TypeVar

from benchmarks.measure import significant, time_calls
from common.batching import BatchLimits
from common.errors import WorkFailedError
from common.machine import usable_cores
from common.tokenization import Encoded
from serve.engine import Engine, Prediction

BATCH_SIZES = (8, 16, 32)
# Several sessions take the sorted texts in pieces of so many batches, so that none waits long for another at the end.
_BATCHES_A_PIECE = 4

Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Setting:
    """One way to run the engine.

    Attributes:
        sessions: side by side, each with a thread of ours that calls it.
        threads: of each session.
        batch: texts in a batch.
        tokenizing: whether the time includes it; a server's does.
    """

    sessions: int
    threads: int
    batch: int
    tokenizing: bool


class EnginePool:
    """Engines of one bundle that work side by side."""

    def __init__(self, bundle: Path, sessions: int, threads: int):
        self.engines = [Engine.load(bundle, device="cpu", threads=threads) for _ in range(sessions)]
        self.threads = threads
        self._idle: SimpleQueue[Engine] = SimpleQueue()
        for engine in self.engines:
            self._idle.put(engine)

    def tokenize(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenizes on all threads.

        Raises:
            TextError: one of the texts cannot be classified.
        """
        step = -(-len(texts) // len(self.engines))
        pieces = [texts[start : start + step] for start in range(0, len(texts), step)]
        encoded = []
        for entry in self._spread(lambda engine, piece: engine.prepare(piece), pieces):
            if not isinstance(entry, Encoded):
                raise entry
            encoded.append(entry)
        return encoded

    def run(self, encoded: Sequence[Encoded], batch: int) -> list[Prediction]:
        """Every text's answer, in batches of `batch` of like length; in the order of the texts."""
        order = sorted(range(len(encoded)), key=lambda row: -encoded[row].tokens)
        step = len(order) if len(self.engines) == 1 else batch * _BATCHES_A_PIECE
        pieces = [[encoded[row] for row in order[start : start + step]] for start in range(0, len(order), step)]
        answers = self._spread(lambda engine, piece: _limited(engine, batch).run_sorted(piece), pieces)
        by_row = dict(zip(order, answers, strict=True))
        return [by_row[row] for row in range(len(encoded))]

    def _spread(self, work: Callable[[Engine, Given], Iterable[Result]], pieces: Sequence[Given]) -> list[Result]:
        def on_an_idle_engine(piece: Given) -> Iterable[Result]:
            engine = self._idle.get()
            try:
                return work(engine, piece)
            finally:
                self._idle.put(engine)

        with ThreadPoolExecutor(len(self.engines)) as threads:
            return [result for results in threads.map(on_an_idle_engine, pieces) for result in results]


@dataclass
class Ceiling:
    """The ceiling of one bundle, measured round by round.

    Attributes:
        pools: one session with a thread for each core, and as many sessions of one thread.
        throughput: texts/s of each setting, one value a round.
        cpu_ms: processor time of each setting for each text, one value a round.
        call_ms: median milliseconds of one text's call on the first pool, tokenizing included, one value a round.
    """

    pools: list[EnginePool]
    throughput: dict[Setting, list[float]] = field(default_factory=dict)
    cpu_ms: dict[Setting, list[float]] = field(default_factory=dict)
    call_ms: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, bundle: Path) -> Ceiling:
        """Loads the engines."""
        cores = usable_cores()
        return cls([EnginePool(bundle, *shape) for shape in dict.fromkeys([(1, cores), (cores, 1)])])

    @property
    def engine(self) -> Engine:
        """The engine as `Engine.load` gives it, with a thread for each core."""
        return self.pools[0].engines[0]

    def measure(self, texts: Sequence[str], batch_sizes: Sequence[int] = BATCH_SIZES) -> None:
        """One round: every setting over all texts, then the texts one by one."""
        encoded = self.pools[0].tokenize(texts)
        for pool in self.pools:
            pool.run(encoded[: 2 * _BATCHES_A_PIECE * max(batch_sizes)], max(batch_sizes))  # the first run allocates
            for batch in batch_sizes:
                for tokenizing in (False, True):
                    started, cpu_before = perf_counter(), process_time()
                    pool.run(pool.tokenize(texts) if tokenizing else encoded, batch)
                    seconds, cpu = perf_counter() - started, process_time() - cpu_before
                    setting = Setting(len(pool.engines), pool.threads, batch, tokenizing)
                    self.throughput.setdefault(setting, []).append(len(texts) / seconds)
                    self.cpu_ms.setdefault(setting, []).append(1e3 * cpu / len(texts))
        self.call_ms.append(1e3 * median(time_calls(self.engine, texts)))

    def best(self, *, tokenizing: bool) -> Setting:
        """The setting with the highest median.

        Raises:
            WorkFailedError: nothing was measured yet.
        """
        settings = [setting for setting in self.throughput if setting.tokenizing == tokenizing]
        if not settings:
            raise WorkFailedError("the ceiling was not measured")
        return max(settings, key=self.texts_per_s)

    def texts_per_s(self, setting: Setting) -> float:
        """A setting's median over the rounds."""
        return median(self.throughput[setting])

    def as_dict(self) -> dict[str, Any]:
        """The best settings, with and without tokenizing, all settings, and the bare call."""
        best, with_tokenizing = self.best(tokenizing=False), self.best(tokenizing=True)
        return {
            "best": self._row(best),
            "best_with_tokenizing": self._row(with_tokenizing),
            "one_text_ms": significant(median(self.call_ms)),
            "one_text_ms_by_round": [significant(value) for value in self.call_ms],
            "settings": [self._row(setting) for setting in self.throughput],
        }

    def _row(self, setting: Setting) -> dict[str, Any]:
        return {
            **asdict(setting),
            "texts_per_s": significant(self.texts_per_s(setting)),
            "cpu_ms": significant(median(self.cpu_ms[setting])),
            "by_round": [significant(value) for value in self.throughput[setting]],
        }


def _limited(engine: Engine, batch: int) -> Engine:
    # The token limit is out of the way: batches shall have the size that the setting says.
    limits = BatchLimits(items=batch, tokens=batch * engine.encoder.max_length)
    return Engine(engine.bundle, engine.model, engine.encoder, limits)
