"""An endpoint that gives every call the same answer and records the calls, and a function to wait for them."""

import http.client
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.processes import Process
from harness.redis_server import free_port, until

POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Call:
    """One call received by the endpoint."""

    at: int
    """Monotonic time (ns)."""
    job_id: str


class Endpoint:
    """A stub in a process of its own."""

    def __init__(self, folder: Path, latency_ms: float, step_ms: float = 0) -> None:
        self._port = free_port()
        command = (sys.executable, "-m", "harness.stub", str(self._port), str(latency_ms), str(step_ms))
        self.process = Process(command, {}, folder / "stub.log")
        self.url = f"http://127.0.0.1:{self._port}/v1/chat/completions"
        until(self._answers)

    def count(self) -> int:
        """Return how many calls have come."""
        return int(self._ask("/count"))

    def calls(self) -> list[Call]:
        """Return all calls, in order."""
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


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition, and return whether it held in time."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(POLL_SECONDS)
    return True
