"""Three faults that every queue meets, for each system of the benchmark: kill -9, SIGTERM, Redis away."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from harness.endpoint import Endpoint, wait
from harness.processes import Process, Producer, start_worker
from harness.redis_server import RedisServer
from harness.systems import Place, System

LANES: Final = 50
WATCH_SECONDS: Final = 120  # how long jobs may take to come back
START_SECONDS: Final = 60  # how long a worker may take to be busy, and to end
AWAY_SECONDS: Final = 5
STEADY_SECONDS: Final = 3.0  # no further call for so long: all lanes are busy
HELD_MS: Final = 600_000
QUICK_MS: Final = 100
CALL_MS: Final = 5000
SHORT_CALL_MS: Final = 1000
QUEUED: Final = 200
JOBS: Final = 300

Outcome = dict[str, Any]


class Scene:
    """A Redis that loses no write (AOF, fsync always), with producer and workers of one system."""

    def __init__(self, stack: ExitStack, system: System) -> None:
        self.system = system
        self._stack = stack
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        self.server = RedisServer(self._folder / "redis", "appendonly yes", "appendfsync always", docker=False)
        stack.callback(self.server.close)
        self.server.start()
        self._redis = stack.enter_context(self.server.client())

    def endpoint(self, latency_ms: float) -> Endpoint:
        """Start an endpoint, which records its calls."""
        endpoint = Endpoint(self._folder, latency_ms)
        self._stack.enter_context(endpoint.process)
        return endpoint

    def worker(self, endpoint: Endpoint) -> Process:
        """Start a worker."""
        worker = start_worker(self.system, self._place(endpoint.url), self._folder / "worker.log")
        return self._stack.enter_context(worker)

    def push(self, count: int) -> None:
        """Push jobs as the system's users do."""
        with Producer(self.system, self._place(""), self._folder / "producer.log") as producer:
            producer.push(1, count)

    def results(self) -> int:
        """Return how many answers are stored."""
        return self.system.results(self._redis)

    def _place(self, url: str) -> Place:
        return Place(redis_port=self.server.port, url=url, lanes=LANES)


def killed(scene: Scene) -> Outcome:
    """Kill a worker (kill -9) with all lanes busy and start another: which jobs are called again, and when."""
    held = scene.endpoint(HELD_MS)
    first = scene.worker(held)
    scene.push(LANES)
    in_flight = {call.job_id for call in _when_busy(held)}
    began = time.monotonic_ns()
    first.kill()
    quick = scene.endpoint(QUICK_MS)
    scene.worker(quick)
    wait(lambda: in_flight <= {call.job_id for call in quick.calls()} and scene.results() >= LANES, WATCH_SECONDS)
    back: dict[str, float] = {}
    for call in quick.calls():
        back.setdefault(call.job_id, (call.at - began) / 1e9)
    waits = sorted(round(back[job], 2) for job in in_flight if job in back)
    return {"in_flight": len(in_flight), "back_after": waits, "results": scene.results(), "pushed": LANES}


def terminated(scene: Scene) -> Outcome:
    """SIGTERM a worker with all lanes busy and jobs queued; once it has ended, a fresh worker does the rest."""
    endpoint = scene.endpoint(CALL_MS)
    first = scene.worker(endpoint)
    scene.push(LANES + QUEUED)
    in_flight = len(_when_busy(endpoint, steady=1.0))
    began = time.monotonic()
    first.popen.terminate()
    ended = wait(lambda: not first.alive, START_SECONDS)
    seconds = round(time.monotonic() - began, 1)
    first.kill()
    scene.worker(endpoint)
    rest = time.monotonic()
    wait(lambda: scene.results() >= LANES + QUEUED, WATCH_SECONDS)
    return {
        "in_flight": in_flight,
        "exit": first.popen.returncode if ended else None,
        "exit_seconds": seconds,
        "rest_seconds": round(time.monotonic() - rest, 1),
        **_totals(scene, endpoint, LANES + QUEUED),
    }


def redis_away(scene: Scene) -> Outcome:
    """Kill Redis while jobs run and start it after 5 s with its data; a worker that ends is then started again."""
    endpoint = scene.endpoint(SHORT_CALL_MS)
    worker = scene.worker(endpoint)
    scene.push(JOBS)
    if not wait(lambda: scene.results() >= LANES / 2, START_SECONDS):
        raise RuntimeError("no results to speak of before the fault")
    scene.server.kill()
    time.sleep(AWAY_SECONDS)
    scene.server.start()
    back, exits = time.monotonic(), []

    def done() -> bool:
        nonlocal worker
        if not worker.alive:
            exits.append(worker.popen.returncode)
            worker = scene.worker(endpoint)
        return scene.results() >= JOBS

    wait(done, WATCH_SECONDS)
    return {"exits": exits, "rest_seconds": round(time.monotonic() - back, 1), **_totals(scene, endpoint, JOBS)}


SCENARIOS: Final[Mapping[str, Callable[[Scene], Outcome]]] = {
    "killed": killed,
    "terminated": terminated,
    "redis_away": redis_away,
}


@contextmanager
def scene(system: System) -> Iterator[Scene]:
    """Set up a scene, and end all its processes at the end."""
    with ExitStack() as stack:
        yield Scene(stack, system)


def _when_busy(endpoint: Endpoint, steady: float = STEADY_SECONDS) -> list[Any]:
    """Wait until every lane has called, or no further call comes; return the calls."""
    seen, since = 0, time.monotonic()

    def busy() -> bool:
        nonlocal seen, since
        if (count := endpoint.count()) != seen:
            seen, since = count, time.monotonic()
        return seen >= LANES or (seen > 0 and time.monotonic() - since > steady)

    if not wait(busy, START_SECONDS):
        raise RuntimeError("the worker did not begin to work")
    return endpoint.calls()


def _totals(scene: Scene, endpoint: Endpoint, pushed: int) -> Outcome:
    calls = Counter(call.job_id for call in endpoint.calls())
    return {
        "pushed": pushed,
        "results": scene.results(),
        "called": len(calls),
        "called_again": sum(times > 1 for times in calls.values()),
    }
