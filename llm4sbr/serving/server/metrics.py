"""What a server counts and times, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from llm4sbr.serving.server.http import Reply

SECONDS = (0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """All figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "llm4sbr_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.seconds = self._seconds("llm4sbr_request_seconds", "From a request's head to its answer.")
        self.computing = self._seconds("llm4sbr_batch_seconds", "Computing one batch.")
        self.waiting = self._seconds("llm4sbr_wait_seconds", "The longest wait of a batch's sessions.")
        self.rows = Histogram(
            "llm4sbr_batch_rows", "Sessions in a batch.", buckets=ROWS, registry=self.registry
        )
        self.queue = Gauge("llm4sbr_queue_rows", "Sessions that wait.", registry=self.registry)
        self.reloads = Counter(
            "llm4sbr_reloads", "New versions found in the folder.", ("result",), registry=self.registry
        )
        self.model = Gauge(
            "llm4sbr_model", "1 for the version that answers.", ("version", "variant"), registry=self.registry
        )

    def _seconds(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=SECONDS, registry=self.registry)

    def batch(self, rows: int, wait: float, seconds: float) -> None:
        """Count a computed batch; times in seconds."""
        self.rows.observe(rows)
        self.waiting.observe(wait)
        self.computing.observe(seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is one of a few fixed names."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.observe(seconds)

    def serves(self, version: str, variant: str) -> None:
        """Note which version answers from now on."""
        self.model.clear()
        self.model.labels(version, variant).set(1)

    def page(self) -> Reply:
        """Everything in the text format that Prometheus reads."""
        return Reply(generate_latest(self.registry), type=CONTENT_TYPE_LATEST.encode())
