"""What a scaler counts, for Prometheus; times are seconds."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class ScalerMetrics:
    """Each instance has its own registry. Labels are names of KEDA's methods and of gRPC's codes."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self.calls = Counter(
            "greenscale_scaler_calls", "Calls and streams of KEDA that ended", ["method", "code"], registry=own
        )
        self.wakes = Counter("greenscale_scaler_wakes", "Times a pod was asked for", registry=own)
        self.look = Histogram(
            "greenscale_scaler_look_seconds", "One round of looks at queues", ["what"], registry=own, buckets=SECONDS
        )
        self._queues = Gauge("greenscale_scaler_queues", "Queues that are watched", registry=own)
        self._streams = Gauge("greenscale_scaler_streams", "Streams on which KEDA hears of first jobs", registry=own)
        self._age = Gauge("greenscale_scaler_oldest_answer_seconds", "Age of the oldest answer", registry=own)

    def observe(self, *, queues: Callable[[], float], streams: Callable[[], float], age: Callable[[], float]) -> None:
        """Set what is asked for when somebody scrapes."""
        self._queues.set_function(queues)
        self._streams.set_function(streams)
        self._age.set_function(age)

    def render(self) -> bytes:
        """Return what Prometheus scrapes, as prometheus_client's CONTENT_TYPE_LATEST."""
        return generate_latest(self.registry)
