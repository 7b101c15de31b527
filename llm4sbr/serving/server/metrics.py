"""The server's metrics for Prometheus.

Every request updates plain numbers in the event loop's thread, which is cheap; they are converted to
Prometheus' types only when the metrics are requested.
"""

from __future__ import annotations

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
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Histogram:
    """A histogram.

    Args:
        name: for Prometheus.
        text: what is observed.
        bounds: upper ends, ascending.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name, self.text, self.bounds = name, text, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def collect(self) -> HistogramMetricFamily:
        """As Prometheus has it."""
        return HistogramMetricFamily(self.name, self.text, buckets=self.buckets, sum_value=self.sum)

    @property
    def buckets(self) -> list[tuple[str, int]]:
        """How many values were at most each bound."""
        bounds = (*map(str, map(float, self.bounds)), "+Inf")
        return list(zip(bounds, accumulate(self.counts), strict=True))


class Metrics:
    """All metrics of one server, in its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests: Counter[tuple[str, int]] = Counter()
        """Number of requests by route and status."""
        self.reloads: Counter[str] = Counter()
        """By result."""
        self.seconds: dict[str, Histogram] = {}
        """By route, so that a scrape of these metrics hides no slow list."""
        self.computing = Histogram("llm4sbr_batch_seconds", "Computing one batch.", SECONDS)
        self.waiting = Histogram("llm4sbr_wait_seconds", "The longest wait of a batch's sessions.", SECONDS)
        self.rows = Histogram("llm4sbr_batch_rows", "Sessions in a batch.", ROWS)
        self._model: tuple[str, str] | None = None
        self._queued: Callable[[], int] = lambda: 0
        self._refused: Callable[[], bool] = lambda: False
        self.registry.register(self)

    def batch(self, rows: int, wait: float, seconds: float) -> None:
        """Count a computed batch; times in seconds."""
        self.rows.observe(rows)
        self.waiting.observe(wait)
        self.computing.observe(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is one of a few fixed names."""
        self.requests[route, status] += 1
        if route not in self.seconds:
            self.seconds[route] = Histogram(LASTED, "", SECONDS)
        self.seconds[route].observe(seconds)

    def serves(self, version: str, variant: str, queued: Callable[[], int]) -> None:
        """Record the version that is now served, and how to get the queue's length."""
        self._model, self._queued = (version, variant), queued

    def watches(self, refused: Callable[[], bool]) -> None:
        """Record how to tell whether a newer version is refused."""
        self._refused = refused

    def collect(self) -> Iterator[Metric]:
        """All metrics, for Prometheus' registry."""
        requests = CounterMetricFamily("llm4sbr_requests", "Requests answered.", labels=("route", "status"))
        for (route, status), count in self.requests.items():
            requests.add_metric((route, str(status)), count)
        reloads = CounterMetricFamily(
            "llm4sbr_reloads", "New versions found in the folder.", labels=("result",)
        )
        for result, count in self.reloads.items():
            reloads.add_metric((result,), count)
        model = GaugeMetricFamily(
            "llm4sbr_model", "1 for the version that answers.", labels=("version", "variant")
        )
        if self._model:
            model.add_metric(self._model, 1)
        refused = GaugeMetricFamily(
            "llm4sbr_version_refused",
            "1 while the folder has a newer version that cannot be used.",
            value=self._refused(),
        )
        queue = GaugeMetricFamily("llm4sbr_queue_rows", "Sessions that wait.", value=self._queued())
        yield from (requests, reloads, model, refused, queue)
        told = "From a request's head to its answer."
        lasted = HistogramMetricFamily(LASTED, told, labels=("route",))
        for route, one in self.seconds.items():
            lasted.add_metric((route,), buckets=one.buckets, sum_value=one.sum)
        yield lasted
        yield from (one.collect() for one in (self.computing, self.waiting, self.rows))

    def page(self) -> Reply:
        """All metrics in Prometheus' text format."""
        return Reply(generate_latest(self.registry), type=CONTENT_TYPE_LATEST.encode())
