"""The steps of an overload into records, a table, and targets with whether each held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import significant
from benchmarks.servers.load import Load
from benchmarks.servers.trace import OK, REFUSED, Trace

# The targets. Seconds that an accepted request may take beyond the time in which the whole queue is worked off.
SPARE_SECONDS = 1.0
# Seconds from sending until a request is refused.
REFUSAL_SECONDS = 0.050
# Of the server's memory, in proportion, from the first overloaded step to the last.
GROWTH = 0.10
RECOVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Capacity:
    """What the server does in a closed loop.

    Attributes:
        load: as wrk saw it.
        tokens_a_text: on average.
        queue_tokens: that the server admits.
        usual: seconds from the schedule within which 99 of 100 answers come at half the capacity.
    """

    load: Load
    tokens_a_text: float
    queue_tokens: int
    usual: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens classified in a second."""
        return self.load.texts_per_s * self.tokens_a_text

    @property
    def bound(self) -> float:
        """Seconds that an accepted request may take: the full queue's, and some to spare."""
        return self.queue_tokens / self.tokens_per_s + SPARE_SECONDS

    def as_dict(self) -> dict[str, Any]:
        """The figures, with the bound in milliseconds."""
        return {
            **asdict(self.load),
            "texts_per_s": significant(self.load.texts_per_s),
            "tokens_per_s": significant(self.tokens_per_s),
            "tokens_a_text": significant(self.tokens_a_text),
            "queue_tokens": self.queue_tokens,
            "accepted_bound_ms": significant(1e3 * self.bound),
            "usual_p99_ms": significant(1e3 * self.usual),
        }


@dataclass(frozen=True)
class Memory:
    """Bytes of all the server's processes; None where the system does not tell.

    Attributes:
        before, peak, after: of the step, its recovery included.
    """

    before: int | None
    peak: int | None
    after: int | None


@dataclass(frozen=True)
class Step:
    """One rate, and the calm after it.

    Attributes:
        factor: of the capacity.
        asked_per_s: requests a second that the factor means; the load has fewer where the generator does not hold them.
        load: the requests of the step.
        calm: those right after it, at half the capacity; None where the step was no overload.
        recovery: seconds of the calm until the server answered as usual; None where it did not.
        memory: of the server.
        server_cores: that the server had on average, recovery included; None where the system does not tell.
    """

    factor: float
    asked_per_s: float
    load: Trace
    calm: Trace | None
    recovery: float | None
    memory: Memory
    server_cores: float | None

    def as_dict(self) -> dict[str, Any]:
        """The load's figures, and all else of the step."""
        whole = self.load.seconds + (self.calm.seconds if self.calm else 0)
        return {
            "factor": self.factor,
            "asked_per_s": significant(self.asked_per_s),
            **self.load.figures(),
            "connections": self.load.connections,
            "generator_cores": significant(self.load.cpu_seconds / whole),
            "server_cores": self.server_cores,
            "memory_bytes": asdict(self.memory),
            "recovery_s": self.recovery,
            "calm": self.calm.figures() if self.calm else None,
        }


def check_targets(steps: Sequence[Step], capacity: Capacity) -> list[dict[str, Any]]:
    """Each `target` in words, with what was measured (`value`, of the worst step), `limit` and whether it `held`.

    `held` is None where nothing was measured: nothing was accepted or refused, or there were no two overloads.
    """
    overloads = [step for step in steps if step.calm]
    accepted = [_p99_ms(step.load.latency(OK)) for step in overloads if step.load.count(OK)]
    refusing = [step.load for step in overloads if step.load.count(REFUSED)]
    refused = [_p99_ms(load.latency(REFUSED, of_sending=True)) for load in refusing]
    peaks = [step.memory.peak for step in overloads if step.memory.peak]
    growth = peaks[-1] / peaks[0] - 1 if len(peaks) > 1 else None
    faults = sum(trace.faults for step in steps for trace in (step.load, step.calm) if trace)
    recoveries = [step.recovery for step in overloads]
    recovered = [recovery for recovery in recoveries if recovery is not None]
    slowest = max(recovered) if recovered and len(recovered) == len(recoveries) else None
    return [
        _target("accepted, p99 in ms from its schedule", max(accepted, default=None), 1e3 * capacity.bound),
        _target("refused, p99 in ms from its sending", max(refused, default=None), 1e3 * REFUSAL_SECONDS),
        _target("refused without Retry-After", sum(load.unannounced for load in refusing) if refusing else None, 0),
        _target("growth of memory from the first overload to the last", growth, GROWTH),
        _target("wrong, missing, doubled, or neither right nor refused", faults, 0),
        # Not to recover in the calm is to miss it, though nobody knows by how much.
        _target("recovery in s", slowest, RECOVERY_SECONDS, measured=bool(recoveries)),
    ]


def _target(name: str, value: float | None, limit: float, *, measured: bool | None = None) -> dict[str, Any]:
    measured = value is not None if measured is None else measured
    return {
        "target": name,
        "value": None if value is None else significant(value),
        "limit": significant(limit),
        "held": value is not None and value <= limit if measured else None,
    }


def _p99_ms(seconds: NDArray[np.float64]) -> float:
    return 1e3 * float(np.percentile(seconds, 99))


def table(steps: Sequence[Mapping[str, Any]], capacity: Mapping[str, Any], targets: Sequence[Mapping[str, Any]]) -> str:
    """The whole for people.

    Args:
        steps: as `Step.as_dict` gives them.
        capacity: as `Capacity.as_dict` gives it.
        targets: as `check_targets` gives them.
    """
    lines = [
        f"capacity: {capacity['texts_per_s']:,.0f} texts/s, {capacity['tokens_per_s']:,.0f} tokens/s from "
        f"{capacity['connections']} connections; the queue holds {capacity['queue_tokens']:,} tokens; "
        f"at half of it p99 {capacity['usual_p99_ms']:.1f} ms",
        f"{'load':>6} {'offered/s':>9} {'sent/s':>8} {'right/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} "
        f"{'refused':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'faults':>7} {'lag p99':>8} {'memory':>7} recovery",
    ]
    for step in steps:
        faults = sum(step[kind] for kind in ("wrong", "missing", "doubled", "connection_errors"))
        peak = step["memory_bytes"]["peak"]
        recovery = "none seen" if step["recovery_s"] is None else f"{step['recovery_s']:.2f} s"
        lines.append(
            f"{step['factor']:5g}x {step['offered_per_s']:9,.0f} {step['sent_per_s']:8,.0f} {step['ok_per_s']:8,.0f} "
            f"{_times(step['ok_ms'])} {step['refused']:8,} {_times(step['refused_from_sending_ms'])} "
            f"{faults + sum(step['other_statuses'].values()):7} {(step['lag_ms'] or {}).get('p99', 0):8.1f} "
            f"{'-' if peak is None else f'{peak / 1e6:,.0f} MB':>7} {recovery if step['calm'] else '-'}"
        )
        lines += [f"       {note}" for note in _notes(step)]
    words = {True: "held", False: "MISSED", None: "not measured"}
    lines += [
        f"{words[each['held']]:>12}: {each['target']}: {'-' if each['value'] is None else format(each['value'], ',g')} "
        f"(at most {each['limit']:,g})"
        for each in targets
    ]
    missed = sum(each["held"] is False for each in targets)
    return "\n".join([*lines, f"{missed} of {len(targets)} targets missed" if missed else "no target missed"])


def _times(spread: Mapping[str, float] | None) -> str:
    return " ".join(f"{spread[name]:8,.1f}" if spread else f"{'-':>8}" for name in ("p50", "p99", "max"))


def _notes(step: Mapping[str, Any]) -> list[str]:
    notes = []
    if step["offered_per_s"] < 0.9 * step["asked_per_s"]:
        notes.append(f"{step['asked_per_s']:,.0f}/s were asked for: more than the generator holds beside the server")
    if not step["held"]:
        notes.append("the generator did not keep to its schedule: its delays are in the figures")
    for why, count in step["not_sent"].items():
        if count:
            notes.append(f"{count:,} not sent: {why.replace('_', ' ')}")
    if step["calm"] and step["opening"]:
        kinds = [(kind, step[f"{kind}_on_open_connections_ms"]) for kind in ("ok", "refused")]
        told = ", ".join(f"{kind} p99 {spread['p99']:,.1f} ms" for kind, spread in kinds if spread)
        notes.append(f"{step['opening']:,} requests opened a connection; of the others, from sending: {told or 'none'}")
    return notes
