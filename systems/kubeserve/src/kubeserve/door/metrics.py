"""What the door counts, by the names that the platform promises."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from kubeserve.door.usage import Meters

BUCKETS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
OUTCOMES: Final = ("success", "error")
AGAIN: Final = "again"  # the outcome of a call that was not ended here


class Metrics:
    """`prediction_latency_ms` (histogram) and `predictions_total` (counter, by outcome), of each deployment.

    `meters` count their usage.
    """

    def __init__(self) -> None:
        self.meters = Meters()
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "prediction_latency_ms",
            "From taking a prediction to its answer, in milliseconds.",
            ["deployment"],
            buckets=BUCKETS_MS,
            registry=self._registry,
        )
        self._predictions = Counter(
            "predictions", "Predictions made, by outcome.", ["deployment", "outcome"], registry=self._registry
        )

    def count(self, deployment_id: str, outcome: str, seconds: float, rows: int = 0) -> None:
        """Count one call, with the rows that it asked. One that runs AGAIN is an error here, and no usage yet."""
        self._latency.labels(deployment_id).observe(seconds * 1000)
        told = "error" if outcome == AGAIN else outcome
        for each in OUTCOMES:
            self._predictions.labels(deployment_id, each).inc(each == told)  # none is told, too, as a rate of 0
        if outcome != AGAIN:
            self.meters.of(deployment_id).called(rows, failed=outcome != "success")

    def forget(self, deployment_id: str) -> None:
        """Drop the series of a deployment that is gone."""
        self._latency.remove(deployment_id) if self._has(deployment_id) else None
        for outcome in OUTCOMES:
            if (deployment_id, outcome) in self._predictions._metrics:  # noqa: SLF001  the library has no question for it
                self._predictions.remove(deployment_id, outcome)
        self.meters.end(deployment_id)

    def _has(self, deployment_id: str) -> bool:
        return (deployment_id,) in self._latency._metrics  # noqa: SLF001  as above

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)
