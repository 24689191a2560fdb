"""The simulator in a process of its own, as an engine or as a provider, and what it saw in a while."""

import http.client
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from harness.endpoint import wait
from harness.processes import Process
from harness.redis_server import free_port

START_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.25


class Simulated:
    """`greenscale-worker simulate` with these options; it is killed when the block is left."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._port = free_port()
        self.root = f"http://127.0.0.1:{self._port}"
        self.url = f"{self.root}/v1/chat/completions"
        self.metrics_url = f"{self.root}/metrics"
        command = (sys.executable, "-m", "greenscale_worker", "simulate", "--port", str(self._port), *options)
        self._process = Process(command, {}, folder / "simulator.log")
        if not wait(self._answers, START_SECONDS):
            self._process.kill()
            raise RuntimeError(f"the simulator does not answer: {self._process.log.read_text()[-500:]}")

    def stats(self) -> dict[str, Any]:
        """Return its counts since the start."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/stats"))
        return found

    def change(self, **engine: object) -> None:
        """Give its engine other options."""
        self._ask("POST", "/engine", json.dumps(engine))

    def watch(self, seconds: float) -> "Window":
        """Look at it for a while."""
        ends, seen = time.monotonic() + seconds, [Seen.of(self.stats())]
        while time.monotonic() < ends:
            time.sleep(LOOK_SECONDS)
            seen.append(Seen.of(self.stats()))
        return Window(seen)

    def _ask(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request(method, path, body)
            return connection.getresponse().read()
        finally:
            connection.close()

    def _answers(self) -> bool:
        try:
            return bool(self._ask("GET", "/health"))
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()


@dataclass(frozen=True, slots=True)
class Seen:
    """Its counts at a moment (monotonic seconds), and what is in its engine."""

    at: float
    requests: int
    full: int
    budget: dict[str, dict[str, float]]
    tokens: int = 0
    running: int = 0
    waiting: int = 0

    @classmethod
    def of(cls, stats: dict[str, Any]) -> "Seen":
        engine, outcomes = stats.get("engine", {}), stats["outcomes"]
        inside = {name: engine.get(name, 0) for name in ("tokens", "running", "waiting")}
        return cls(
            time.monotonic(), stats["requests"], outcomes.get("queue_full", 0), stats.get("budget", {}), **inside
        )


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen in a while."""

    seen: Sequence[Seen]

    @property
    def seconds(self) -> float:
        return self.seen[-1].at - self.seen[0].at

    @property
    def tokens_per_second(self) -> float:
        return (self.seen[-1].tokens - self.seen[0].tokens) / self.seconds

    @property
    def waiting(self) -> float:
        """Requests that waited inside, in the mean."""
        return sum(seen.waiting for seen in self.seen) / len(self.seen)

    @property
    def most_waiting(self) -> int:
        return max(seen.waiting for seen in self.seen)

    @property
    def refused_as_full(self) -> int:
        return self.seen[-1].full - self.seen[0].full

    def used(self, what: str) -> float:
        """The share of a rate limit (`requests`, `tokens`) that was taken."""
        rate = self.seen[0].budget[what]["per_minute"] / 60
        return self._grown(what, "taken") / (rate * self.seconds)

    @property
    def refused(self) -> float:
        """The share of the requests that a rate limit refused."""
        asked = self.seen[-1].requests - self.seen[0].requests
        return sum(self._grown(what, "refused") for what in self.seen[0].budget) / max(1, asked)

    def _grown(self, what: str, count: str) -> float:
        return self.seen[-1].budget[what][count] - self.seen[0].budget[what][count]
