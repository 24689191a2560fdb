"""Why nothing moves in a queue, in words for people."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from time import time
from typing import Final

from greenscale_worker.for_people import age
from greenscale_worker.queues import Depth, Flow, Held, JobFilter, LiveWorker, QueueClient

MOST_READ: Final = 2000  # of the jobs that run
SECONDS: Final = re.compile(r"\b\d+ s\b")
PAUSED: Final = "paused: `greenscale-worker resume` ends it"
DELAYED: Final = "delayed"
NO_WORKER: Final = "no worker is alive"
FAILING_SECONDS: Final = 5.0  # a call that fails now and then is not worth a word
HELD_BACK: Final[dict[Held, str]] = {  # what else holds jobs back is among the reasons why nothing moves
    "limit": "as many calls are open as all workers together may have",
    "requests": "GREENSCALE_REQUESTS_PER_MINUTE of all workers is used up",
    "tokens": "GREENSCALE_TOKENS_PER_MINUTE of all workers is used up",
    "pause": "the endpoint asked for time, after which all workers together begin slowly",
}
SHOWN: Final = 2  # different reasons of workers, at most


@dataclass(frozen=True, slots=True)
class Standing:
    """A queue at one moment. `tries_anew`: a running call began after the failure that `depth` reports."""

    depth: Depth
    workers: Sequence[LiveWorker]
    next_due_seconds: float | None
    tries_anew: bool
    flow: Flow

    @property
    def held_back(self) -> str | None:
        """Why jobs wait although workers have free lanes, in a line; None if nothing holds them back."""
        said = HELD_BACK.get(self.flow.held)
        if self.flow.held == "limit":
            return f"{said}: {self.flow.limit}"
        return f"{said}: {age(self.flow.held_seconds)} more" if said and self.flow.held_seconds >= 1 else said

    def reasons(self, *, patience: float = 0.0) -> dict[str, str]:
        """Return why nothing moves, each reason by a key that stays the same as long as the reason does.

        That nothing succeeds is a reason only after `patience` seconds, and not while a later call runs that may
        succeed: the workers, or the key, that failed may have been replaced.
        """
        depth, reasons = self.depth, dict[str, str]()
        if depth.paused:
            reasons[PAUSED] = PAUSED
        if self.open_jobs and not self.workers:
            reasons[NO_WORKER] = NO_WORKER
        whys, told = {worker.why for worker in self.workers}, ""
        if self.open_jobs and whys and None not in whys:
            told = " / ".join(sorted(filter(None, whys))[:SHOWN])
            reasons[SECONDS.sub("", told)] = f"no worker sends: {told}"
        fails = depth.failing_seconds is not None and not self.tries_anew and not told  # what workers say is newer
        if self.open_jobs and fails and (depth.failing_seconds or 0.0) >= patience:
            by = depth.failing_by or "a call failed"
            reasons[by] = f"no success for {age(depth.failing_seconds or 0.0)}: {by}"
        only_delayed = depth.delayed == self.open_jobs
        if only_delayed and self.next_due_seconds is not None and not reasons:
            reasons[DELAYED] = f"all wait for their time; the next is due in {age(self.next_due_seconds)}"
        return reasons

    def reasons_of_waiting(self) -> dict[str, str]:
        """Return why a job does not end, without what its record says. The job need not be submitted yet."""
        reasons = self.reasons(patience=FAILING_SECONDS)
        reasons.pop(DELAYED, None)
        return reasons if self.workers else {**reasons, NO_WORKER: NO_WORKER}

    @property
    def open_jobs(self) -> int:
        """Number of jobs that have not ended."""
        depth = self.depth
        return depth.waiting + depth.running + depth.delayed + depth.held


async def standing(client: QueueClient) -> Standing:
    """Read how a queue stands. Raises QueueUnavailableError."""
    depth, workers = await client.depth(), await client.workers()
    next_due: float | None = None
    if depth.delayed:
        async for job in client.jobs(JobFilter(state="delayed"), limit=1):
            next_due = None if job.due_at is None else max(0.0, job.due_at - time())
    return Standing(depth, workers, next_due, await _tries_anew(client, depth), await client.flow())


async def _tries_anew(client: QueueClient, depth: Depth) -> bool:
    """Return whether a call runs that began after the first failure; one of unknown start counts as such."""
    if depth.failing_seconds is None or not depth.running:
        return False
    failed_at, running = time() - depth.failing_seconds, JobFilter(state="running")
    began = [job.claimed_at async for job in client.jobs(running, limit=MOST_READ)]
    return any(at is None or at > failed_at for at in began)
