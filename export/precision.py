"""The gate before a lower precision: a graph in int8 or fp16 is written only if its dev metric holds.

Every layer is tried first. If that costs too much, the layers that hurt most, found one by one, stay in float32, twice
as many each time, up to half of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from rich.table import Table

from common.errors import WorkFailedError
from common.machine import integer_products_saturate
from common.progress import console, progress
from common.tokenization import Encoded
from export.dev_rows import DevRows
from export.exported_graph import ExportedGraph
from export.neighbours import TRIED_SHIFT, neighbours_shift
from export.onnx_file import move_graph, save_graph
from export.proofs import Attempt, PrecisionProof
from export.quantization import layer_sizes, quantize
from export.served import Served, differing
from export.settings import AUTO, FP16, FP32, INT8, INT8_STATIC, ExportSettings

# Texts by which layers are ranked, and by which speed decides.
_RANKING_TEXTS = 128
_SPEED_TEXTS = 256
_SPEED_ROUNDS = 5


@dataclass(frozen=True)
class Tools:
    """What the gate works with.

    Attributes:
        open: a graph's file, opened at a precision.
        export_half: writes the model as a float16 graph to a path.
        others: texts beside the dev rows, long ones and pairs, which must not depend on their neighbours either.
        ranges: least and greatest input of each layer over the training rows; called once, for static int8.
        directory: for the graphs that are tried.
    """

    open: Callable[[Path, str], ExportedGraph]
    export_half: Callable[[Path], None]
    others: list[Encoded]
    ranges: Callable[[], tuple[dict[str, tuple[float, float]], dict[str, Any]]] | None
    directory: Path


def lower_precision(graph: Path, rows: DevRows, settings: ExportSettings, tools: Tools) -> PrecisionProof:
    """Replaces the float32 graph by one of the precision asked for, if one passes; for 'auto', by the fastest that does
    and is faster.

    Raises:
        WorkFailedError: no graph of the precision asked for passes; what was tried is shown first.
    """
    gate = _Gate(graph, rows, settings, tools)
    for precision in _asked(settings, gate.plain.device):
        gate.try_precision(precision)
    if settings.precision == AUTO:
        gate.time_those_that_passed()
    best = gate.best()
    if best is None:
        _show(gate.attempts, rows, gate.plain_value)
        if settings.precision != AUTO:
            raise WorkFailedError(
                f"no {settings.precision} graph keeps {rows.metric} within {settings.max_loss:g} points of float32's "
                f"{gate.plain_value:.4f} on {rows.data['name']}, each text's scores within {TRIED_SHIFT:g} alone "
                f"and in batches: no bundle is written"
            )
    return gate.take(best)


def _asked(settings: ExportSettings, device: str) -> list[str]:
    if settings.precision != AUTO:
        return [settings.precision]
    if device == "cuda":
        return [FP16]
    return [INT8, *([INT8_STATIC] if settings.calibration_rows else [])]


class _Gate:
    """The attempts and their graphs."""

    def __init__(self, graph: Path, rows: DevRows, settings: ExportSettings, tools: Tools):
        self._path, self._rows, self._settings, self._tools = graph, rows, settings, tools
        self.plain = tools.open(graph, settings.precision if settings.precision != AUTO else FP32)
        self._plain_logits = self.plain.all_logits(rows.encoded, doing="measuring fp32")
        self._plain_served = rows.served(self._plain_logits)
        self.plain_value = rows.value(self._plain_logits, self._plain_served)
        self.plain_texts_per_s: float | None = None
        self.attempts: list[Attempt] = []
        self._graphs: list[Path] = []
        self._logits: list[NDArray[np.float32]] = []
        self._served: list[Served] = []
        self._weight_bits, self._reason = _weight_bits(settings)
        self._calibrated_on: dict[str, Any] | None = None

    def try_precision(self, precision: str) -> None:
        """All layers first; then, for integers, with more and more of the worst kept, until one passes."""
        if precision == FP16:
            self._measure(precision, [], self._tools.export_half)
            return
        ranges: dict[str, tuple[float, float]] = {}
        if precision == INT8_STATIC:
            assert self._tools.ranges is not None
            ranges, self._calibrated_on = self._tools.ranges()

        def write(kept: Sequence[str]) -> Callable[[Path], None]:
            return lambda path: self._quantize(path, kept, ranges)

        if self._measure(precision, [], write([])):
            return
        worst = self._rank(precision, ranges)
        count = 1
        while count <= len(worst) // 2:
            if self._measure(precision, worst[:count], write(worst[:count])):
                return
            count *= 2

    def time_those_that_passed(self) -> None:
        """Texts a second of float32 and of each attempt that passed, measured in turn."""
        chosen = [place for place, attempt in enumerate(self.attempts) if attempt.passed]
        graphs = [
            self.plain,
            *(self._tools.open(self._graphs[place], self.attempts[place].precision) for place in chosen),
        ]
        texts = self._rows.encoded[:_SPEED_TEXTS]
        seconds: list[list[float]] = [[] for _ in graphs]
        for turn in range(_SPEED_ROUNDS + 1):
            for place, graph in enumerate(graphs):
                started = time.perf_counter()
                graph.all_logits(texts)
                if turn:  # the first warms up
                    seconds[place].append(time.perf_counter() - started)
        rates = [round(len(texts) / statistics.median(times), 1) for times in seconds]
        self.plain_texts_per_s = rates[0]
        for place, rate in zip(chosen, rates[1:], strict=True):
            self.attempts[place] = replace(self.attempts[place], texts_per_s=rate)

    def best(self) -> int | None:
        """The attempt to take, by number: the fastest that passed and beats float32, or, where speed was not asked for,
        the one that passed."""
        passed = [place for place, attempt in enumerate(self.attempts) if attempt.passed]
        if self.plain_texts_per_s is not None:
            passed.sort(key=lambda place: -(self.attempts[place].texts_per_s or 0))
            passed = [x for x in passed if (self.attempts[x].texts_per_s or 0) > self.plain_texts_per_s]
        return passed[0] if passed else None

    def take(self, place: int | None) -> PrecisionProof:
        """Puts an attempt's graph in the place of the float32 one, which stays for None."""
        rows = self._rows
        plain_bytes = self.plain.bytes
        proof = PrecisionProof(
            precision=FP32,
            data=rows.data,
            metric=rows.metric,
            fp32_value=self.plain_value,
            value=self.plain_value,
            max_loss=self._settings.max_loss,
            agreement=1.0,
            max_score_difference=0.0,
            batch_shift=None,
            flips=None,
            fp32_bytes=plain_bytes,
            bytes=plain_bytes,
            kept=[],
            weight_bits=None,
            weight_bits_reason=None,
            calibrated_on=None,
            device=self.plain.device,
            tried=self.attempts,
            fp32_texts_per_s=self.plain_texts_per_s,
        )
        if place is None:
            return proof
        attempt, logits = self.attempts[place], self._logits[place]
        plain, lower = self._plain_served, self._served[place]
        move_graph(self._graphs[place], self._path)
        integers = attempt.precision != FP16
        return replace(
            proof,
            precision=attempt.precision,
            value=attempt.value,
            agreement=1 - differing(plain.labels(self._plain_logits), lower.labels(logits)) / len(logits),
            max_score_difference=float(np.abs(plain.scores(self._plain_logits) - lower.scores(logits)).max()),
            batch_shift=attempt.batch_shift,
            flips=attempt.flips,
            bytes=attempt.bytes,
            kept=attempt.kept,
            weight_bits=self._weight_bits if integers else None,
            weight_bits_reason=self._reason if integers else None,
            calibrated_on=self._calibrated_on if attempt.precision == INT8_STATIC else None,
        )

    def _measure(self, precision: str, kept: list[str], write: Callable[[Path], None]) -> bool:
        """One attempt; whether it passed."""
        path = self._tools.directory / f"attempt-{len(self.attempts)}" / self._path.name
        path.parent.mkdir(parents=True)
        write(path)
        onnx.checker.check_model(str(path), full_check=True)
        graph = self._tools.open(path, precision)
        name = f"{precision}, {len(kept)} kept" if kept else precision
        logits = graph.all_logits(self._rows.encoded, doing=f"measuring {name}")
        served = self._rows.served(logits)
        value = self._rows.value(logits, served)
        loss = self._rows.loss(self.plain_value, value)
        # Rounded, so that 0.5 points are not more than half a point.
        within = round(loss, 9) <= self._settings.max_loss
        shift, flips = None, None
        if within:
            texts = [*self._rows.encoded, *self._tools.others]
            shift, flips = neighbours_shift(graph, texts, served, self._settings.seed)
        passed = shift is not None and shift <= TRIED_SHIFT and flips == 0
        self.attempts.append(Attempt(precision, kept, value, loss, shift, flips, graph.bytes, passed))
        self._graphs.append(path)
        self._logits.append(logits)
        self._served.append(served)
        return passed

    def _rank(self, precision: str, ranges: dict[str, tuple[float, float]]) -> list[str]:
        """The layers, worst first: by the squared error of the logits when one alone is quantized, for each number that
        keeping it costs."""
        sizes = layer_sizes(ir.load(self._path))
        names = list(sizes)
        texts = self._rows.encoded[:_RANKING_TEXTS]
        path = self._tools.directory / "ranked" / self._path.name
        path.parent.mkdir(exist_ok=True)
        errors = {}
        with progress("ranking layers", len(names), "layers") as advance:
            for name in names:
                self._quantize(path, [other for other in names if other != name], ranges)
                logits = self._tools.open(path, precision).all_logits(texts)
                errors[name] = float(((logits - self._plain_logits[: len(texts)]) ** 2).mean())
                advance(1)
        return sorted(names, key=lambda name: -errors[name] / max(sizes[name], 1))

    def _quantize(self, path: Path, kept: Sequence[str], ranges: dict[str, tuple[float, float]]) -> None:
        model = ir.load(self._path)
        quantize(model, weight_bits=self._weight_bits, kept=kept, ranges=ranges)
        save_graph(model, path)


def _weight_bits(settings: ExportSettings) -> tuple[int, str]:
    """How many bits the weights get, and why."""
    if settings.weight_bits is not None:
        return settings.weight_bits, "asked for"
    if integer_products_saturate():
        return 7, "this processor has no VNNI: sums of 8-bit products would overflow"
    return 8, "this processor sums 8-bit products without overflow"


def _show(attempts: Sequence[Attempt], rows: DevRows, plain: float) -> None:
    """A table of what was tried."""
    title = f"{rows.metric} on {rows.data['name']} ({plain:.4f} in float32)"
    table = Table(title=title, title_justify="left", caption="lost: points; shift, flips: alone and in a batch")
    for name in ("precision", "kept in float32", "value", "lost", "shift", "flips", "passed"):
        table.add_column(name)
    for attempt in attempts:
        table.add_row(
            attempt.precision,
            str(len(attempt.kept)) if len(attempt.kept) != 1 else attempt.kept[0],
            f"{attempt.value:.4f}",
            f"{attempt.loss:+.2f}",
            "" if attempt.batch_shift is None else f"{attempt.batch_shift:.1e}",
            "" if attempt.flips is None else str(attempt.flips),
            "yes" if attempt.passed else "no",
        )
    console.print(table)
