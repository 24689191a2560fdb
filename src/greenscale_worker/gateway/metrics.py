"""What a gateway counts, for Prometheus; times are seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from greenscale_worker.queues import Depth

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)


class GatewayMetrics:
    """Each instance has its own registry. Labels come from the table of routes and from PROBLEMS: few, fixed words."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self._requests = Counter(
            "greenscale_gateway_requests", "Requests that ended, by route and status", ["route", "status"], registry=own
        )
        self._seconds = Histogram(
            "greenscale_gateway_request_seconds", "From headers to answer", ["route"], registry=own, buckets=SECONDS
        )
        self._open = Gauge(
            "greenscale_gateway_open_requests", "Requests that are being answered", ["route"], registry=own
        )
        self._problems = Counter("greenscale_gateway_problems", "Requests refused or failed", ["code"], registry=own)
        self._webhooks = Counter(
            "greenscale_webhook_deliveries", "Tries to deliver a webhook", ["outcome", "kind"], registry=own
        )
        self._depth = Gauge("greenscale_queue_jobs", "Jobs of the whole queue, by state", ["state"], registry=own)

    @contextmanager
    def answering(self, route: str) -> Iterator[list[int]]:
        """Count a request of a route; the block appends the status. Without one, the client has left: 499."""
        status, began, count = [499], monotonic(), self._open.labels(route)
        count.inc()
        try:
            yield status
        finally:
            count.dec()
            self._requests.labels(route, str(status[-1])).inc()
            self._seconds.labels(route).observe(monotonic() - began)

    def problem(self, kind: str) -> None:
        """Count an answer that says what went wrong."""
        self._problems.labels(kind).inc()

    def webhook(self, outcome: str, kind: str) -> None:
        """Count a try to deliver a webhook; both are words of few."""
        self._webhooks.labels(outcome, kind).inc()

    def depth(self, depth: Depth) -> None:
        """Set the number of jobs in each state. Until this is called, nothing is shown, rather than zeros."""
        for state in ("scheduled", "waiting", "running", "delayed", "held", "dead"):
            self._depth.labels(state).set(getattr(depth, state))

    def render(self) -> bytes:
        """Return what Prometheus scrapes, as prometheus_client's CONTENT_TYPE_LATEST."""
        return generate_latest(self.registry)
