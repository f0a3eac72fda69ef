"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Of one service: a registry of its own, so that several may live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "sole2vec_requests", "Answers, by route and status.", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "sole2vec_request_seconds", "From head to answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.waiting = Gauge("sole2vec_waiting", "Jobs that no worker has begun.", registry=self.registry)
        self.arriving = Gauge("sole2vec_arriving_bytes", "Of requests that are in memory.", registry=self.registry)
        self.items = Gauge("sole2vec_items", "Of the index.", registry=self.registry)
        self.generation = Gauge("sole2vec_generation", "Of the index.", registry=self.registry)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        method = method if method in ("GET", "POST", "HEAD") else "other"
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
