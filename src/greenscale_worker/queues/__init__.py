"""What a queue promises: to the worker (`Queue`) and to everybody else (`QueueAdmin`).

Adapters inherit nothing from here; they keep these promises, and the contract suite holds them to it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal, Protocol

from greenscale_worker.job import Failure, Job, Outcome

Binding = Literal["run", "duplicate", "conflict", "cancelled", "stale"]
Cancellation = Literal["cancelled", "will_be_cancelled", "finished"]
Loss = Literal["taken", "gone"]
Verdict = Literal["delayed", "held", "dead", "stale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """Where Redis is and how to be let in.

    `url` is `redis://host:port/db`, `rediss://…` (TLS), `redis+sentinel://host:port,host:port/master/db` or
    `redis+cluster://host:port` (`rediss+sentinel`, `rediss+cluster` with TLS). `ca_file`, `cert_file` and `key_file`
    are PEM files. `password_file`, `sentinel_password_file` and `url_file` are where a password, or the URL with one,
    is read anew for each connection. Sentinels that want a password are given that of Redis where they have none of
    their own.
    """

    url: str = "redis://127.0.0.1:6379/0"
    username: str | None = None
    password: str | None = None
    password_file: str | None = None
    url_file: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    sentinel_password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """What a queue needs to know. Times are seconds.

    `take_from` is the end of the list that is oldest: `right` for producers that LPUSH, `left` for RPUSH. `group` is
    the consumer group of a stream.
    Results and final records live `result_ttl`; 0 writes neither. A heartbeat is due every `lease / 5`.
    """

    name: str = "jobs"
    take_from: Literal["right", "left"] = "right"
    group: str = "greenscale"
    lease: float = 15.0
    max_crashes: int = 4
    result_ttl: int = 3600
    backend: str = ""

    @property
    def heartbeat(self) -> float:
        """Seconds between two heartbeats."""
        return self.lease / 5


@dataclass(slots=True, eq=False)
class Lease:
    """The right to run one job until it is settled, or until the queue says that it was lost.

    `claimed_at` and `first_claimed_at` are seconds since the epoch by the queue's own clock, `received` is the moment
    of the claim by this process' monotonic clock. `runs` counts calls that failed, `tries` how many tries they used up,
    `crashes` leases that expired, `attempts` the runs including this one (0: not run). `began` is when its call began,
    by the monotonic clock; None: it made none. `job_id` is the id under which the outcome is recorded; None
    means that there is no usable one. `default_job_id` is that of a payload that names none, where the queue has one.
    """

    id: str
    token: str
    payload: bytes
    tries: float
    crashes: int
    claimed_at: float
    first_claimed_at: float
    runs: int = 0
    job_id: str | None = None
    default_job_id: str | None = None
    attempts: int = 0
    began: float | None = None
    received: float = field(default_factory=monotonic)
    lost: Loss | None = None
    on_lost: Callable[[], None] | None = None

    def lose(self, loss: Loss) -> None:
        """Say that the lease is no longer ours: `taken` by another worker, or `gone` (cancelled, settled)."""
        if self.lost is None:
            self.lost = loss
            if self.on_lost is not None:
                self.on_lost()


class Queue(Protocol):
    """The worker's side. Every call but `aclose` may be cancelled at any time and loses nothing by it.

    While the queue's server is away, calls wait for it.
    """

    @property
    def up(self) -> bool:
        """Whether the queue's server answered when it was last asked."""
        ...

    async def lease(self) -> Lease:
        """Wait for a job and take it."""
        ...

    async def bind(self, lease: Lease, job: Job) -> Binding:
        """Tie the job's id to this lease and write its record, before it is run.

        `run`: go on. `duplicate`: the same job is in flight already, this one was folded into it.
        `conflict`: its id is in flight with another payload; settle it as failed. `cancelled`: somebody asked
        for that; it has been recorded. `stale`: the lease is no longer ours.
        """
        ...

    async def settle(self, lease: Lease, outcome: Outcome) -> bool:
        """Record the outcome and acknowledge the job in one atomic step. False: it was no longer ours."""
        ...

    async def retry(self, lease: Lease, failure: Failure) -> Verdict:
        """Put a job back whose call has failed, or bury it: by what the whole fleet has seen (docs/blame.md).

        `delayed`: it is run again later. `held`: when somebody has succeeded, or nothing else waits. `dead`: it is a
        dead letter. `stale`: it was no longer ours.
        """
        ...

    async def beat(self) -> None:
        """Prolong all leases in one call, and `lose` those that are no longer ours."""
        ...

    async def aclose(self) -> None:
        """Hand back what was claimed and not yet given to anybody, and close every connection."""
        ...


@dataclass(frozen=True, slots=True)
class Depth:
    """How much there is. `held` waits until somebody succeeds (docs/blame.md), `oldest_seconds` is known or None."""

    waiting: int
    running: int
    delayed: int
    dead: int
    oldest_seconds: float | None
    paused: bool
    held: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that will not be run again unless it is replayed.

    `tries` counts calls that failed; times are seconds since the epoch.
    """

    id: str
    job_id: str | None
    code: str
    message: str
    tries: int
    crashes: int
    died_at: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker process that has sent a heartbeat lately; `beat_seconds` ago."""

    name: str
    beat_seconds: float


class QueueAdmin(Protocol):
    """Everybody else's side. Calls raise QueueUnavailableError where the server does not answer."""

    async def put(self, jobs: Sequence[tuple[str, bytes]]) -> None:
        """Append jobs, each an id and its payload, in order, and record them as waiting."""
        ...

    async def record(self, job_id: str) -> dict[str, str]:
        """Read a job's record; empty where there is none (unknown, or waiting)."""
        ...

    async def result(self, job_id: str) -> bytes | None:
        """Read a job's answer; None where there is none (yet)."""
        ...

    async def cancel(self, job_id: str) -> Cancellation:
        """End a job that has not finished. One that nobody has claimed is ended when it comes up."""
        ...

    async def depth(self) -> Depth:
        """Count."""
        ...

    async def workers(self) -> list[LiveWorker]:
        """List the worker processes alive."""
        ...

    async def pause(self) -> None:
        """Let no worker claim until `resume`; what runs goes on."""
        ...

    async def resume(self) -> None:
        """End a pause."""
        ...

    def dead(self) -> AsyncIterator[DeadLetter]:
        """Walk through all dead letters, in no order."""
        ...

    async def replay(self, letter_id: str) -> bool:
        """Put a dead letter back to the head of the queue, its counters at zero. False: there is none."""
        ...

    async def purge(self, *, older_than: float) -> int:
        """Delete dead letters that died more than so many seconds ago; says how many."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
