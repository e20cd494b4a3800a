"""What the server counts, in Prometheus' base units."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from serve.scheduler import BatchReport

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """One server's counters, in a registry of their own so that two servers in one process do not mix."""

    def __init__(self, waiting_items: Callable[[], float], admitted_tokens: Callable[[], float]):
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "understudy_requests", "Requests answered", ("route", "status"), registry=self._registry
        )
        self._request_seconds = Histogram(
            "understudy_request_seconds",
            "Time to answer a request",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._texts = Counter("understudy_texts", "Texts answered", ("outcome",), registry=self._registry)
        self._answered, self._failed = (self._texts.labels(outcome) for outcome in ("answered", "failed"))
        self._by_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._truncated = Counter("understudy_truncated_texts", "Texts that lost tokens", registry=self._registry)
        self._batch_items = Histogram(
            "understudy_batch_items", "Texts a batch", buckets=_ITEMS, registry=self._registry
        )
        self._batch_tokens = Counter("understudy_batch_tokens", "Tokens run, padding left out", registry=self._registry)
        self._padding_tokens = Counter("understudy_padding_tokens", "Padding tokens run", registry=self._registry)
        self._model_seconds = Histogram(
            "understudy_model_seconds", "Time of the model a batch", buckets=_SECONDS, registry=self._registry
        )
        self._wait_seconds = Histogram(
            "understudy_wait_seconds", "Longest wait in the queue, a batch", buckets=_SECONDS, registry=self._registry
        )
        Gauge("understudy_queue_items", "Texts waiting", registry=self._registry).set_function(waiting_items)
        Gauge("understudy_queue_tokens", "Tokens admitted and not yet answered", registry=self._registry).set_function(
            admitted_tokens
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request answered."""
        # Finding a counter by its labels takes longer than counting.
        counters = self._by_route.get((route, status))
        if counters is None:
            counters = self._requests.labels(route, str(status)), self._request_seconds.labels(route)
            self._by_route[route, status] = counters
        counters[0].inc()
        counters[1].observe(seconds)

    def texts(self, answered: int, failed: int, truncated: int) -> None:
        """One request's texts."""
        self._answered.inc(answered)
        if failed:
            self._failed.inc(failed)
        if truncated:
            self._truncated.inc(truncated)

    def batch(self, report: BatchReport) -> None:
        """One batch run."""
        self._batch_items.observe(report.items)
        self._batch_tokens.inc(report.tokens)
        self._padding_tokens.inc(report.padded_tokens - report.tokens)
        self._model_seconds.observe(report.seconds)
        self._wait_seconds.observe(report.waited)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)
