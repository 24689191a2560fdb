"""A Redis and an endpoint for one measurement, fresh, so that one measurement leaves nothing to the next."""

import http.client
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.job import prompt
from bench.processes import Process, Producer, start_worker
from bench.systems import Place, System
from tests.support.redis_server import RedisServer, free_port, until

POLL_SECONDS: Final = 0.02
PAYLOAD: Final = '{"job_id": "job-%07d", "prompt": "job-%07d%s"}'


@dataclass(frozen=True, slots=True)
class Call:
    """One call that came to the endpoint."""

    at: int
    """Monotonic time (ns)."""
    job_id: str


class Endpoint:
    """A stub in a process of its own."""

    def __init__(self, folder: Path, latency_ms: float) -> None:
        self._port = free_port()
        command = (sys.executable, "-m", "bench.stub", str(self._port), str(latency_ms))
        self.process = Process(command, {}, folder / "stub.log")
        self.url = f"http://127.0.0.1:{self._port}/v1/chat/completions"
        until(self._answers)

    def count(self) -> int:
        """How many calls have come."""
        return int(self._ask("/count"))

    def calls(self) -> list[Call]:
        """All of them, in order."""
        lines = (line.split() for line in self._ask("/calls?0").splitlines())
        return [Call(int(at), *name) for at, *name in lines]

    def _ask(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def _answers(self) -> bool:
        try:
            return self.count() == 0
        except ConnectionError:
            return False


class Stage:
    """What one measurement needs. Whatever it started has ended when it closes."""

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
        """Start one."""
        return self._stack.enter_context(start_worker(self.system, self.place, self.folder / "worker.log"))

    def producer(self) -> Producer:
        """Start one; it is ready when it answers."""
        return self._stack.enter_context(Producer(self.system, self.place, self.folder / "producer.log"))

    def fill(self, count: int, size: int) -> None:
        """Push that many jobs to a plain list, faster than a producer would."""
        text = prompt("job-0000000", size).removeprefix("job-0000000")
        for first in range(1, count + 1, 1000):
            numbers = range(first, min(first + 1000, count + 1))
            self.redis.lpush("jobs", *(PAYLOAD % (number, number, text) for number in numbers))

    def results(self) -> int:
        """How many answers are stored."""
        return self.system.results(self.redis)


@contextmanager
def stage(system: System, *, lanes: int, latency_ms: float = 0) -> Iterator[Stage]:
    """Set it up and take it down."""
    with ExitStack() as stack:
        yield Stage(stack, system, lanes, latency_ms)


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for something, and say whether it came in time."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(POLL_SECONDS)
    return True
