"""The server's metrics for Prometheus.

Every request updates plain numbers in the event loop's thread, which is cheap; they are converted to
Prometheus' types only when the metrics are requested.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from llm4sbr.serving.server.http import Reply

SECONDS = (0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
LASTED = "llm4sbr_request_seconds"
SHARED = "llm4sbr_shadow_shared"
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

HISTOGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    LASTED: ("From a request's head to its answer.", ("route",)),
    "llm4sbr_batch_seconds": ("Computing one batch.", ()),
    "llm4sbr_wait_seconds": ("The longest wait of a batch's sessions.", ()),
    "llm4sbr_batch_rows": ("Sessions in a batch.", ()),
    SHARED: ("Share of the answered list that the shadow's list has.", ()),
}
"""Name -> what it says, and its labels beside the model."""


class Histogram:
    """A histogram.

    Args:
        name: for Prometheus.
        bounds: upper ends, ascending.
    """

    def __init__(self, name: str, bounds: Sequence[float]) -> None:
        self.name, self.bounds = name, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def buckets(self) -> list[tuple[str, int]]:
        """How many values were at most each bound."""
        bounds = (*map(str, map(float, self.bounds)), "+Inf")
        return list(zip(bounds, accumulate(self.counts), strict=True))


class ModelMetrics:
    """The metrics of one model."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """Number of requests by route and status."""
        self.seconds: dict[str, Histogram] = {}
        """By route, so that a scrape of these metrics hides no slow list."""
        self.reloads: Counter[str] = Counter()
        """By result."""
        self.shadowing: Counter[str] = Counter()
        """What became of requests that the model only computed along, by result."""
        self.shared = Histogram(SHARED, SHARES)
        self.computing = Histogram("llm4sbr_batch_seconds", SECONDS)
        self.waiting = Histogram("llm4sbr_wait_seconds", SECONDS)
        self.rows = Histogram("llm4sbr_batch_rows", ROWS)
        self.last = 0.0
        """When the last batch was computed, seconds since 1970."""
        self.now: tuple[str, str] | None = None
        """Version and variant that answer."""
        self.queued: Callable[[], int] = lambda: 0
        self.refused: Callable[[], bool] = lambda: False

    def batch(self, rows: int, wait: float, seconds: float) -> None:
        """Count a computed batch; times in seconds."""
        self.last = time.time()
        self.rows.observe(rows)
        self.waiting.observe(wait)
        self.computing.observe(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is one of a few fixed names."""
        self.requests[route, status] += 1
        if route not in self.seconds:
            self.seconds[route] = Histogram(LASTED, SECONDS)
        self.seconds[route].observe(seconds)

    def shadowed(self, result: str, shared: float | None = None) -> None:
        """Count a request that another model answered, and the share of its list that this model has."""
        self.shadowing[result] += 1
        if shared is not None:
            self.shared.observe(shared)

    def serves(self, version: str, variant: str, queued: Callable[[], int]) -> None:
        """Record the version that is now served, and how to get the queue's length."""
        self.now, self.queued = (version, variant), queued

    def watches(self, refused: Callable[[], bool]) -> None:
        """Record how to tell whether a newer version is refused."""
        self.refused = refused

    @property
    def histograms(self) -> Iterator[tuple[tuple[str, ...], Histogram]]:
        """All histograms with the labels behind the model's name."""
        yield from (((route,), one) for route, one in self.seconds.items())
        yield from (((), one) for one in (self.computing, self.waiting, self.rows, self.shared))


class Metrics:
    """All metrics of one server, in its own registry, by model; the model "" has requests that name none."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.models: dict[str, ModelMetrics] = {"": ModelMetrics()}
        self.registry.register(self)

    def of(self, model: str) -> ModelMetrics:
        """Those of one model, made when it is first named."""
        return self.models.setdefault(model, ModelMetrics())

    def collect(self) -> Iterator[Metric]:
        """All metrics, for Prometheus' registry."""
        requests = CounterMetricFamily(
            "llm4sbr_requests", "Requests answered.", labels=("model", "route", "status")
        )
        reloads = CounterMetricFamily(
            "llm4sbr_reloads", "New versions found in the folder.", labels=("model", "result")
        )
        shadowing = CounterMetricFamily(
            "llm4sbr_shadow", "Requests that a shadow computed along.", labels=("model", "result")
        )
        now = GaugeMetricFamily(
            "llm4sbr_model", "1 for the version that answers.", labels=("model", "version", "variant")
        )
        refused = GaugeMetricFamily(
            "llm4sbr_version_refused",
            "1 while the folder has a newer version that cannot be used.",
            labels=("model",),
        )
        queue = GaugeMetricFamily("llm4sbr_queue_rows", "Sessions that wait.", labels=("model",))
        families = {
            name: HistogramMetricFamily(name, text, labels=("model", *labels))
            for name, (text, labels) in HISTOGRAMS.items()
        }
        for name, one in self.models.items():
            for (route, status), count in one.requests.items():
                requests.add_metric((name, route, str(status)), count)
            for labels, histogram in one.histograms:
                if name or labels:
                    families[histogram.name].add_metric(
                        (name, *labels), buckets=histogram.buckets, sum_value=histogram.sum
                    )
            if not name:
                continue
            for result, count in one.reloads.items():
                reloads.add_metric((name, result), count)
            for result, count in one.shadowing.items():
                shadowing.add_metric((name, result), count)
            if one.now:
                now.add_metric((name, *one.now), 1)
            refused.add_metric((name,), one.refused())
            queue.add_metric((name,), one.queued())
        yield from (requests, reloads, shadowing, now, refused, queue, *families.values())

    def page(self) -> Reply:
        """All metrics in Prometheus' text format."""
        return Reply(generate_latest(self.registry), type=CONTENT_TYPE_LATEST.encode())
