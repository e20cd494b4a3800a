"""Server: texts that arrive at random; the highest rate at which the 99th percentile of latency keeps a bound.

Arrivals are a Poisson process (MLPerf's server scenario: Reddi et al. 2020, §III-C), latencies count from the time at
which a text was meant to be sent. Within a round all models get the same arrivals of the same texts, only faster or
slower, and every step of the search is a trial of each model, one after the other: neither a burst nor a slow minute of
the machine falls on one model alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench.contestants import TEACHER, Contestant, LocalModel
from benchmarks.bench.estimates import ENOUGH_ROUNDS
from benchmarks.bench.open_loop import offer_over_http, offer_to_engine
from benchmarks.bench.rate_search import PRECISION, Capacity, Search, Trial
from benchmarks.bench.remote import RemoteModel
from benchmarks.bench.rounds import no_collection, time_queries
from common.progress import progress
from common.tokenization import Text

# The first round's steps, up or down, and those of later rounds, which begin at what those before come to.
_FIRST_STEP, _LATER_STEP = 1.6, 1 + PRECISION
# Of the rate of a closed loop of one text at a time, where the first round begins, and below which no text waits for
# another one, so that no lower rate is any better.
_FIRST_SHARE, _LOWEST_SHARE = 0.6, 0.05
# The 99th percentile of fewer requests is the slowest of them. A slow model's trial lasts longer for that, but not more
# often than so many times.
_LEAST_REQUESTS, _LONGEST = 100, 2
# Of the scenario's seconds, how long a trial lasts, and at least how long; a round takes some four of them.
_TRIAL_SHARE, _SHORTEST_SECONDS = 0.1, 0.5
# How often a trial is made in which the generator was later than that.
_ATTEMPTS = 3
_CLOSED_LOOP_TEXTS = 16


def measure_server(
    contestants: Sequence[Contestant],
    texts: Sequence[Text],
    *,
    bound_ms: float,
    rounds: int,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Searches the rate of every model anew in each of a few rounds.

    Args:
        texts: what arrives, over and over, in an order drawn for each round.
        bound_ms: on p99, from the intended sending.
        rounds: at most; more than give an interval are not made.
        seconds: that a trial lasts a tenth of. All trials of a model take two to five times as long together.
        seed: of the arrivals and the texts' order.

    Returns:
        `server` of `results.json`.
    """
    bound = bound_ms / 1e3
    rounds = min(rounds, ENOUGH_ROUNDS)
    duration = max(_SHORTEST_SECONDS, _TRIAL_SHARE * seconds)
    trials: dict[str, list[Trial]] = {contestant.id: [] for contestant in contestants}
    searches: dict[str, list[Search]] = {contestant.id: [] for contestant in contestants}
    alone = {contestant.id: _closed_loop_rate(contestant, texts) for contestant in contestants}
    starts = {id: _FIRST_SHARE * rate for id, rate in alone.items()}
    # A model that is over the bound with nothing to wait for is asked for proof, and no more.
    lowest = {id: rate * (_LOWEST_SHARE if 1 / rate <= bound else _FIRST_SHARE) for id, rate in alone.items()}
    with progress("serving", rounds, "") as advance, no_collection():
        for number in range(rounds):
            order = np.random.default_rng([seed, number]).permutation(len(texts))
            arrivals = Arrivals([texts[row] for row in order], duration, np.random.default_rng([seed, number, 1]))
            for id, search in _search_round(contestants, arrivals, bound, number, (starts, lowest), trials).items():
                searches[id].append(search)
                tried = min(trial.rate for trial in trials[id])
                starts[id] = Capacity.of(trials[id], number + 1).rate or max(tried / _FIRST_STEP, lowest[id])
            advance(1)
    capacities = {id: Capacity.of(part, rounds) for id, part in trials.items()}
    models = {}
    for id, capacity in capacities.items():
        rate = capacity.estimate()
        ratio = None if id == TEACHER else capacity.ratio(capacities[TEACHER])
        models[id] = {
            "max_rate": rate and rate.as_dict(),
            "reason": _reason(trials[id], searches[id] if rate else None),
            "ratio": ratio and ratio.as_dict(),
            "points": [trial.as_dict() for trial in sorted(trials[id], key=lambda trial: trial.rate)],
        }
    return {"bound_ms": bound_ms, "models": models}


class Arrivals:
    """A round's texts and their times, which any rate stretches or squeezes.

    Args:
        duration: seconds of a trial, unless so few texts arrive then that it lasts longer.
        draw: of the times.
    """

    def __init__(self, texts: Sequence[Text], duration: float, draw: np.random.Generator):
        self.texts = texts
        self._duration = duration
        self._draw = draw
        self._times = np.zeros(0)

    def at(self, rate: float) -> NDArray[np.float64]:
        """The times in seconds: the gaps are exponential, and the same multiples of 1 / rate each time."""
        usual = rate * self._duration
        count = max(1, round(max(usual, min(_LEAST_REQUESTS, _LONGEST * usual))))
        if count > len(self._times):
            gaps = self._draw.exponential(size=count - len(self._times))
            start = self._times[-1] if len(self._times) else 0.0
            self._times = np.concatenate([self._times, start + np.cumsum(gaps)])
        return self._times[:count] / rate


def _search_round(
    contestants: Sequence[Contestant],
    arrivals: Arrivals,
    bound: float,
    number: int,
    begin: tuple[dict[str, float], dict[str, float]],
    trials: dict[str, list[Trial]],
) -> dict[str, Search]:
    """By model, the search of this round, ended; adds what was tried to `trials`.

    Args:
        begin: by model, the rate to begin with, and the lowest to try.
    """
    starts, lowest = begin
    step = _LATER_STEP if number else _FIRST_STEP
    searches = {id: Search(start, step, lowest[id]) for id, start in starts.items()}
    turn = number
    while not all(search.done for search in searches.values()):
        first = turn % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            search = searches[contestant.id]
            if not search.done:
                for _ in range(_ATTEMPTS):
                    trial = _try(contestant, arrivals, search.rate, bound, number)
                    trials[contestant.id].append(trial)
                    if trial.valid:
                        break
                search.tell(trial.held, trial.valid)
        turn += 1
    return searches


def _try(contestant: Contestant, arrivals: Arrivals, rate: float, bound: float, number: int) -> Trial:
    times = arrivals.at(rate)
    if isinstance(contestant, RemoteModel):
        trace = offer_over_http(contestant, arrivals.texts, times)
    else:
        assert isinstance(contestant, LocalModel)
        trace = offer_to_engine(contestant.engine, arrivals.texts, times)
    return Trial(rate, number, trace, bound)


def _closed_loop_rate(contestant: Contestant, texts: Sequence[Text]) -> float:
    """Texts a second, one at a time."""
    queries = [[text] for text in texts[:_CLOSED_LOOP_TEXTS]]
    time_queries(contestant, queries)  # warms it up
    return 1 / float(np.median(time_queries(contestant, queries)))


def _reason(trials: Sequence[Trial], searches: Sequence[Search] | None) -> str | None:
    """Why there is no rate, or why it may be higher than what was found.

    Args:
        searches: of all rounds; None where no rate was found.
    """
    if searches is not None:
        limited = sum(search.limited for search in searches)
        rounds = f"in {limited} of {len(searches)} rounds"
        return f"it may be higher: {rounds} the generator could not keep its schedule above it" if limited else None
    lowest = min(trials, key=lambda trial: (trial.rate, -trial.slow))
    at = f"even at {lowest.rate:.3g} texts/s"
    if not lowest.valid:
        return f"{at} the generator could not keep its schedule"
    if lowest.errors:
        return f"{at} {lowest.errors:,} of {len(lowest.trace.fate):,} texts had no answer"
    return f"{at} p99 is {lowest.as_dict()['p99_ms']:,.3g} ms, over the bound of {lowest.bound * 1e3:g} ms"
