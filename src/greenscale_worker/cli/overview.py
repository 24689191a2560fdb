"""What `queue` shows: jobs by state, their rate, the workers, and why nothing moves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from textwrap import wrap
from time import time
from typing import Any, Final

from greenscale_worker.cli.terminal import bold, columns, one_line
from greenscale_worker.client.standing import MOST_READ, Standing, standing
from greenscale_worker.for_people import MINUTE, WIDTH, age
from greenscale_worker.queues import Depth, JobFilter, LiveWorker, QueueClient

COUNTED: Final = ("waiting", "running", "delayed", "held", "dead")


@dataclass(frozen=True, slots=True)
class Load:
    """How many jobs a worker runs, and for how many seconds the longest of them has run."""

    running: int
    longest_seconds: float


@dataclass(frozen=True, slots=True)
class Overview(Standing):
    """A queue at one moment. `loads` is by worker; None: too many jobs run to be read."""

    loads: Mapping[str, Load] | None
    rate: float

    @property
    def why(self) -> str | None:
        """Why nothing moves, in a line; None if jobs move, or there are none."""
        return "; ".join(self.reasons().values()) or None

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until all is done at the recent rate; None if nothing waits, or the rate is unknown."""
        waits = self.open_jobs > self.depth.running
        return self.open_jobs / self.rate if waits and self.rate and self.why is None else None

    def facts(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        told = {"rate_per_second": round(self.rate, 3), "eta_seconds": self.eta_seconds, "why": self.why}
        told |= {"held_back": self.held_back, "limit": self.flow.limit}
        return {**asdict(self.depth), **told, "workers": [self._facts_of(worker) for worker in self.workers]}

    def _facts_of(self, worker: LiveWorker) -> dict[str, Any]:
        load = self._load(worker)
        return {
            **asdict(worker),
            "running": None if load is None else load.running,
            "longest_seconds": load.longest_seconds if load is not None and load.running else None,
        }

    def _load(self, worker: LiveWorker) -> Load | None:
        return None if self.loads is None else self.loads.get(worker.name, Load(0, 0.0))

    def view(self, name: str) -> str:
        """Return everything, for people, on a screen of 80 columns."""
        words = (*COUNTED, "scheduled") if self.depth.scheduled else COUNTED
        numbers = [*(f"{getattr(self.depth, word):,}" for word in words), f"{len(self.workers):,}"]
        width = max(map(len, numbers))
        rows = [(word, number.rjust(width)) for word, number in zip((*words, "workers"), numbers, strict=True)]
        oldest = self.depth.oldest_seconds
        lines = [f"queue {bold(name)}", columns(rows) + ("" if oldest is None else f"   oldest: {age(oldest)}")]
        lines += [line for line in (self._pace(), self._reason()) if line]
        if self.workers:
            lines += ["", self._table()]
        return "\n".join(lines)

    def _pace(self) -> str:
        if not self.rate:
            return ""
        pace = f"{self.rate:,.1f} jobs a second" if self.rate >= 1 else f"{self.rate * MINUTE:,.1f} jobs a minute"
        eta = self.eta_seconds
        return f"\n{pace}" + ("" if eta is None else f", all done in about {age(eta)}")

    def _reason(self) -> str:
        said = [*([f"held back: {self.held_back}"] if self.held_back else []), *([self.why] if self.why else [])]
        return "\n" + "\n".join(line for each in said for line in wrap(one_line(each), WIDTH)) if said else ""

    def _table(self) -> str:
        rows = []
        for worker in sorted(self.workers, key=_by_name):
            load = self._load(worker)
            runs = "?" if load is None else f"{load.running:,}"
            longest = age(load.longest_seconds) if load is not None and load.running else "-"
            rows.append((worker.name, f"{age(worker.beat_seconds)} ago", runs.rjust(7), longest))
        return columns(rows, head=("worker", "heartbeat", "running", "longest"), cut=True)


async def look(client: QueueClient) -> Overview:
    """Read an Overview of the queue. Raises QueueUnavailableError."""
    now, rate = await standing(client), await client.rate()
    loads = await _loads(client, now.depth, now.workers)
    return Overview(now.depth, now.workers, now.next_due_seconds, now.tries_anew, now.flow, loads, rate)


async def _loads(client: QueueClient, depth: Depth, workers: Sequence[LiveWorker]) -> dict[str, Load] | None:
    """Read what each worker runs."""
    if not workers or not depth.running:
        return {}
    if depth.running > MOST_READ:
        return None
    now, loads = time(), dict[str, Load]()
    async for job in client.jobs(JobFilter(state="running"), limit=MOST_READ):
        if job.worker is not None:
            load = loads.get(job.worker, Load(0, 0.0))
            ran = 0.0 if job.claimed_at is None else now - job.claimed_at
            loads[job.worker] = Load(load.running + 1, max(load.longest_seconds, ran))
    return loads


def _by_name(worker: LiveWorker) -> str:
    return worker.name
