"""What the server counts, in Prometheus' base units. docs/serving.md explains each to whoever builds a dashboard."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from serve.scheduler import BatchReport

# Of each counter it would be twice as many lines, which no dashboard reads.
disable_created_metrics()

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """One server's counters, in a registry of their own so that two servers in one process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests answered", "route", "status")
        self._request_seconds = self._histogram("request_seconds", "Time to answer a request", _SECONDS, "route")
        self._by_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._texts = self._counter("texts", "Texts answered", "model", "outcome")
        self._texts_of: dict[tuple[str, str], Counter] = {}
        self._truncated = self._counter("truncated_texts", "Texts that lost tokens")
        self._abstained = self._counter("abstained_texts", "Texts answered without a label, for want of confidence")
        self._batch_items = self._histogram("batch_items", "Texts a batch", _ITEMS, "model")
        self._batch_tokens = self._counter("batch_tokens", "Tokens run, padding left out", "model")
        self._padding_tokens = self._counter("padding_tokens", "Padding tokens of batches", "model")
        self._model_seconds = self._histogram("model_seconds", "Time of the model a batch", _SECONDS, "model")
        self._wait_seconds = self._histogram("wait_seconds", "Longest wait in the queue, a batch", _SECONDS, "model")
        self._batch_of: dict[str, tuple[Histogram, Counter, Counter, Histogram, Histogram]] = {}
        self._escalations = self._counter("escalations", "Texts of which the student was unsure", "outcome")
        self._shadow = self._counter("shadow_texts", "Sampled texts, shown to the teacher", "outcome")
        self._shadow_labels = self._counter("shadow_disagreements", "Sampled texts by the teacher's label", "label")
        self._divergence = Summary(
            "understudy_shadow_divergence_nats",
            "KL divergence of the student's probabilities from the teacher's",
            registry=self._registry,
        )
        self._reloads = self._counter("reloads", "Bundles loaded into the running server", "outcome")

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(f"understudy_{name}", text, registry=self._registry).set_function(value)

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request answered."""
        # Finding a counter by its labels takes longer than counting.
        counters = self._by_route.get((route, status))
        if counters is None:
            counters = self._requests.labels(route, str(status)), self._request_seconds.labels(route)
            self._by_route[route, status] = counters
        counters[0].inc()
        counters[1].observe(seconds)

    def text(self, model: str, outcome: str) -> None:
        """One text that a model 'answered', or that 'failed'."""
        counter = self._texts_of.get((model, outcome))
        if counter is None:
            counter = self._texts_of[model, outcome] = self._texts.labels(model, outcome)
        counter.inc()

    def truncated(self) -> None:
        """One text that lost tokens."""
        self._truncated.inc()

    def abstained(self) -> None:
        """One text answered without a label."""
        self._abstained.inc()

    def batch(self, report: BatchReport, model: str) -> None:
        """One batch run."""
        counters = self._batch_of.get(model)
        if counters is None:
            counters = self._batch_of[model] = (
                self._batch_items.labels(model),
                self._batch_tokens.labels(model),
                self._padding_tokens.labels(model),
                self._model_seconds.labels(model),
                self._wait_seconds.labels(model),
            )
        items, tokens, padding, seconds, waited = counters
        items.observe(report.items)
        tokens.inc(report.tokens)
        padding.inc(report.padded_tokens - report.tokens)
        seconds.observe(report.seconds)
        waited.observe(report.waited)

    def escalated(self, outcome: str, count: int) -> None:
        """Texts of which the student was unsure: 'answered' by the teacher, 'over_budget', or 'failed'."""
        if count:
            self._escalations.labels(outcome).inc(count)

    def compared(self, agreed: bool, missed: Iterable[str], divergence: float) -> None:
        """One sampled text with the answers of both; `missed` are the teacher's labels that the student's has not."""
        self._shadow.labels("agreed" if agreed else "disagreed").inc()
        for label in missed:
            self._shadow_labels.labels(label).inc()
        self._divergence.observe(divergence)

    def shadow_dropped(self, count: int) -> None:
        """Sampled texts that the teacher had no time for."""
        self._shadow.labels("dropped").inc(count)

    def reloaded(self, outcome: str) -> None:
        """A bundle that was asked for while serving: 'loaded' or 'refused'."""
        self._reloads.labels(outcome).inc()

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"understudy_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"understudy_{name}", text, labels, buckets=buckets, registry=self._registry)
