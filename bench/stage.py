"""A fresh Redis and endpoint for each measurement, so that none affects the next."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from harness.endpoint import Endpoint
from harness.job import prompt
from harness.processes import Process, Producer, start_worker
from harness.redis_server import RedisServer
from harness.systems import Place, System

PAYLOAD: Final = '{"job_id": "job-%07d", "prompt": "job-%07d%s"}'


class Stage:
    """The processes of one measurement. All that it started end when it closes."""

    def __init__(self, stack: ExitStack, system: System, lanes: int, latency_ms: float) -> None:
        self.system = system
        self.latency = latency_ms / 1000
        self._stack = stack
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self._server = RedisServer(self.folder / "redis", docker=None)
        self._server.start()
        stack.callback(self._server.close)
        self.redis: Any = stack.enter_context(self._server.client())
        self.endpoint = Endpoint(self.folder, latency_ms)
        stack.enter_context(self.endpoint.process)
        self.place = Place(redis_port=self._server.port, url=self.endpoint.url, lanes=lanes)

    def worker(self) -> Process:
        """Start a worker."""
        return self._stack.enter_context(start_worker(self.system, self.place, self.folder / "worker.log"))

    def producer(self) -> Producer:
        """Start a producer; it is ready when it answers."""
        return self._stack.enter_context(Producer(self.system, self.place, self.folder / "producer.log"))

    def fill(self, count: int, size: int) -> None:
        """Push that many jobs to a plain list, faster than a producer would."""
        text = prompt("job-0000000", size).removeprefix("job-0000000")
        for first in range(1, count + 1, 1000):
            numbers = range(first, min(first + 1000, count + 1))
            self.redis.lpush("jobs", *(PAYLOAD % (number, number, text) for number in numbers))

    def results(self) -> int:
        """Return how many answers are stored."""
        return self.system.results(self.redis)


@contextmanager
def stage(system: System, *, lanes: int, latency_ms: float = 0) -> Iterator[Stage]:
    """Set up a stage, and close it at the end."""
    with ExitStack() as stack:
        yield Stage(stack, system, lanes, latency_ms)
