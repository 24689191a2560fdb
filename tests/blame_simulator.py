"""Blame by evidence under a simulated clock: `python -m tests.blame_simulator` prints the table of docs/blame.md.

Workers with lanes, one queue and one endpoint, a function of (job, time, open calls). Evidence and decisions are those
of `greenscale_worker.blame`; the queue is a model: no leases, no crashes, and a delay or a claim takes no time.
"""

import heapq
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from greenscale_worker.blame import KNOWN, Call, Evidence, FleetEvidence, decide
from greenscale_worker.errors import TransientError
from greenscale_worker.job import Failure

LANES: Final = 16
MAX_TRIES: Final = 5.0


@dataclass(eq=False)
class Simulated:
    """A job. `end` is when it ended, `verdict` how: ok, dead or certain."""

    number: int
    model: str = "m"
    tries: float = 0.0
    failed: float | None = None
    runs: int = 0
    calls: int = 0
    end: float | None = None
    verdict: str = ""


class Answer(NamedTuple):
    """What an endpoint does: after how many seconds, and the fault, None where the job is answered."""

    seconds: float
    fault: TransientError | None = None


Endpoint = Callable[[Simulated, float, int], Answer]


def fault(code: str, prior: Any = "unknown", **facts: Any) -> TransientError:
    return TransientError(code, "", prior=prior, **facts)


@dataclass(eq=False)
class _Worker:
    evidence: Evidence
    busy: int = 0
    probing: bool = False

    def wait(self, now: float) -> float:
        """Seconds until it may claim; infinite until a call of its own has ended."""
        full = self.probing if self.evidence.is_open else self.busy >= int(self.evidence.allowed)
        return math.inf if full else self.evidence.wait(now)


@dataclass(eq=False)
class Simulation:
    """One run. `calls` and `refused` count what the endpoint saw, `opened` how often a breaker opened."""

    jobs: Sequence[Simulated]
    endpoint: Endpoint
    workers: int = 1
    lanes: int = LANES
    until: float = 100_000.0
    calls: int = 0
    refused: int = 0
    opened: int = 0
    now: float = 0.0
    fleet: FleetEvidence = field(default_factory=FleetEvidence)

    def __post_init__(self) -> None:
        self._crew = [_Worker(Evidence(self.lanes)) for _ in range(self.workers)]
        self._fresh = list(self.jobs)[::-1]
        self._ready: list[tuple[int, Simulated]] = []
        self._held: list[tuple[int, Simulated]] = []
        self._delayed: list[tuple[float, int, Simulated]] = []
        self._events: list[tuple[float, int, Any]] = []
        self._numbers = itertools.count()
        self._open = 0
        self._left = len(self.jobs)
        self._woken: set[float] = set()

    def run(self) -> "Simulation":
        """Run until every job has ended, or until `until`."""
        self._fill()
        while self._events and self._left and self._events[0][0] < self.until:
            self.now, _, event = heapq.heappop(self._events)
            if event is None:
                self._woken.discard(self.now)
            else:
                self._ended(*event)
            self._fill()
        return self

    def dead(self, wanted: Callable[[Simulated], bool] = lambda _: True) -> list[Simulated]:
        return [job for job in self.jobs if job.verdict == "dead" and wanted(job)]

    def answered_by(self) -> float:
        """When the last job was answered."""
        return max((job.end or 0.0 for job in self.jobs if job.verdict == "ok"), default=0.0)

    def _at(self, when: float, event: Any = None) -> None:
        if event is None:
            when = math.ceil(when * 50) / 50  # many wait for about the same
            if when in self._woken:
                return
            self._woken.add(when)
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def _next(self) -> Simulated | None:
        while self._delayed and self._delayed[0][0] <= self.now:
            _, _, job = heapq.heappop(self._delayed)
            held = job.runs > 0 and self.fleet.since is not None
            heapq.heappush(self._held if held else self._ready, (job.number, job))
        if not self._held:
            self.fleet.back = 0
        elif self.fleet.brings_back():
            heapq.heappush(self._ready, heapq.heappop(self._held))
        if self._ready:
            return heapq.heappop(self._ready)[1]
        if self._fresh:
            return self._fresh.pop()
        return heapq.heappop(self._held)[1] if self._held else None

    def _fill(self) -> None:
        for worker in random.sample(self._crew, len(self._crew)):
            while (wait := worker.wait(self.now)) <= 0:
                job = self._next()
                if job is None:
                    break
                self._send(worker, job)
            if 0 < wait < math.inf:
                self._at(self.now + wait + 0.001)
        if self._delayed:
            self._at(max(self.now, self._delayed[0][0]) + 0.001)

    def _send(self, worker: _Worker, job: Simulated) -> None:
        probe = worker.evidence.is_open
        worker.probing = worker.probing or probe
        worker.busy += 1
        self._open += 1
        self.calls += 1
        job.calls += 1
        answer = self.endpoint(job, self.now, self._open)
        call = Call(str(job.number), job.model, self.now, job.tries, job.runs, probe=probe)
        self._at(self.now + answer.seconds, (worker, job, call, answer.fault))

    def _ended(self, worker: _Worker, job: Simulated, call: Call, found: TransientError | None) -> None:
        worker.busy -= 1
        self._open -= 1
        if call.probe:
            worker.probing = False
        if found is None:
            worker.evidence.succeeded(call, self.now)
            self.fleet.succeeded(call.began, held=bool(self._held))
            self._end(job, "ok")
            return
        self.refused += 1
        was_open = worker.evidence.is_open
        used, delay = worker.evidence.failed(call, found, self.now)
        self.opened += worker.evidence.is_open and not was_open
        failure = Failure(
            code=found.code,
            message="",
            prior=found.prior,
            fingerprint=found.fingerprint,
            used=used,
            max_tries=MAX_TRIES,
            delay=delay,
        )
        job.runs += 1
        judged = decide(
            failure,
            self.fleet,
            now=self.now,
            tries=job.tries,
            runs=job.runs - 1,
            failed=job.failed,
            began=call.began,
            alone=lambda: self._alone(job),
        )
        job.tries, job.failed = judged.tries, judged.failed
        if judged.verdict == "dead":
            self._end(job, "dead")
        else:
            heapq.heappush(self._delayed, (self.now + judged.delay, job.number, job))

    def _alone(self, job: Simulated) -> bool:
        if self._fresh or self._left > 256:
            return False
        return not any(other.end is None and other is not job and other.tries < KNOWN for other in self.jobs)

    def _end(self, job: Simulated, verdict: str) -> None:
        job.end, job.verdict = self.now, verdict
        self._left -= 1


# What the table shows


def jobs(count: int, *, models: Sequence[str] = ("m",)) -> list[Simulated]:
    return [Simulated(number, models[number % len(models)]) for number in range(count)]


def some_ill(ill: set[int], found: TransientError, seconds: float = 0.5) -> Endpoint:
    return lambda job, _now, _open: Answer(0.02, found) if job.number in ill else Answer(seconds)


def ill_between(began: float, ended: float, found: TransientError, takes: float = 0.02) -> Endpoint:
    """All are ill; calls take between 0.3 and 0.7 s, so that lanes are not in step."""
    return lambda job, now, _open: (
        Answer(takes, found) if began < now < ended else Answer(0.3 + 0.4 * ((job.number * 7919) % 100) / 100)
    )


FLAGGED: Final = {40, 170, 171}
KINDS: Final[dict[str, TransientError]] = {
    "403": fault("http_403", "endpoint"),
    "500": fault("http_500"),
    "400": fault("http_400", "job"),
    "429, `Retry-After: 20`": fault("http_429", "endpoint", retry_after=20.0, overload=True),
    "429": fault("http_429", "endpoint", overload=True),
    "502": fault("http_502", "endpoint"),
}
ILLNESSES: Final[dict[str, TransientError]] = {
    "500": fault("http_500"),
    "503": fault("http_503", "endpoint", overload=True),
    "400 that says nothing": fault("http_400", "job"),
    "cut": fault("connection_cut"),
}


class Row(NamedTuple):
    """One line of the table."""

    name: str
    ideal: float
    run: Simulation
    ill: set[int] = set()  # noqa: RUF012  a default that is never changed


def killer(number: int) -> Endpoint:
    """One prompt takes the server down for 2.5 s each time, behind a gateway."""
    down = [-1.0]

    def answer(job: Simulated, now: float, _open: int) -> Answer:
        if now < down[0]:
            return Answer(0.02, fault("http_503", "endpoint", overload=True))
        if job.number == number:
            down[0] = now + 2.5
            return Answer(0.1, fault("http_502", "endpoint"))
        return Answer(0.5)

    return answer


def rows(workers: int) -> Iterator[Row]:
    """Every scenario for so many workers of 16 lanes."""
    rnd = random.Random(7)
    rate = 2 * LANES * workers

    def row(name: str, count: int, endpoint: Endpoint, ill: set[int] | None = None, **options: Any) -> Row:
        count *= options.pop("times", 1)
        made = jobs(count, models=options.pop("models", ("m",)))
        ideal = options.pop("ideal", (count - len(ill or ())) / rate)
        return Row(name, ideal, Simulation(made, endpoint, workers, **options).run(), ill or set())

    for name, found in KINDS.items():
        yield row(f"3 of 1,003 answered {name}", 1003, some_ill(FLAGGED, found), FLAGGED)
    for name, found in ILLNESSES.items():
        yield row(f"all ill from 3 to 43 s: {name}", 1000, ill_between(3, 43, found), ideal=1000 / rate + 40)
    for name in ("500", "400 that says nothing"):
        yield row(
            f"all ill from the start, 40 s: {name}", 1000, ill_between(-1, 40, ILLNESSES[name]), ideal=1000 / rate + 40
        )
    hang = ill_between(3, 103, fault("timeout"), takes=5.0)
    yield row("hangs for 100 s, time limit 5 s", 400, hang, ideal=400 / 2 / LANES + 100, times=workers)
    limited = fault("http_429", "endpoint", overload=True)
    for most, lanes in ((8, LANES), (8, 64), (2, LANES)):
        busy: Endpoint = lambda _j, _n, now_open, most=most: Answer(0.02, limited) if now_open > most else Answer(0.5)  # noqa: E731  one line of the table
        yield row(f"takes {most} calls at a time, {lanes} lanes: 429", 600, busy, ideal=600 * 0.5 / most, lanes=lanes)
    flaky: Endpoint = lambda _j, _n, _o: Answer(0.05, fault("http_500")) if rnd.random() < 0.5 else Answer(0.5)  # noqa: E731  likewise
    yield row("every second call 500", 600, flaky, ideal=2 * 600 / rate)
    flaps: Endpoint = lambda _j, now, _o: Answer(0.05, fault("http_500")) if int(now / 5) % 2 else Answer(0.5)  # noqa: E731  likewise
    yield row("5 s well, 5 s ill: 500", 600, flaps, ideal=600 / LANES, times=workers)
    yield row("one prompt takes the server down for 2.5 s (502, then 503)", 300, killer(30), {30})
    down: Endpoint = lambda job, now, _o: (  # noqa: E731  likewise
        Answer(0.02, fault("http_500")) if job.model == "a" and now < 120 else Answer(0.5)
    )
    yield row("model a ill for 120 s (500), b well", 600, down, models=("a", "b"), ideal=120 + 300 / rate)
    heap = set(range(1000))
    yield row("1,000 bad jobs (400) before 10 good ones", 1010, some_ill(heap, KINDS["400"]), heap)
    yield row("one job alone, always cut", 1, some_ill({0}, fault("connection_cut")), {0})


def table() -> str:
    """The table of docs/blame.md."""
    cells: dict[str, list[str]] = {}
    for workers in (1, 5):
        random.seed(1)
        for row in rows(workers):
            cells.setdefault(row.name, []).append(_cell(row))
    lines = ["| calls of 0.5 s, 16 lanes each | 1 worker | 5 workers |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(both)} |" for name, both in cells.items())])


def _cell(row: Row) -> str:
    ill = [job for job in row.run.jobs if job.number in row.ill]
    said = []
    if len(row.run.jobs) > len(ill):
        said.append(f"{row.run.answered_by():.0f} s ({row.ideal:.0f} s)")
    said.append(f"{len(row.run.dead(lambda job: job.number not in row.ill))} wrongly dead")
    if ill:
        ended = all(job.verdict == "dead" for job in ill)
        said.append(f"the ill by {max(job.end or 0.0 for job in ill):.0f} s" if ended else "the ill not all")
    return "; ".join([*said, f"{row.run.refused} failed calls"])


BEGIN: Final = "<!-- Written by `python -m tests.blame_simulator --write docs/blame.md`; do not edit. -->\n"
END: Final = "\n<!-- End of what is written. -->"


def main() -> None:
    """Print the table, or write it into a page."""
    if sys.argv[1:2] != ["--write"]:
        sys.stdout.write(table() + "\n")
        return
    page = Path(sys.argv[2])
    head, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2] or rest.partition(END.strip())[2]}")


if __name__ == "__main__":
    main()
