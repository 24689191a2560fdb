"""The interfaces of a queue: `Queue` for workers, `QueueClient` for all others.

Adapters inherit nothing from here; they keep these promises, and the contract suite holds them to it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Literal, Protocol, get_args

from greenscale_worker.job import Failure, Job, Outcome

Binding = Literal["run", "duplicate", "conflict", "cancelled", "stale"]
Cancellation = Literal["cancelled", "will_be_cancelled", "finished", "unknown"]
Replay = Literal["replayed", "unknown", "payload_lost"]
Loss = Literal["taken", "gone"]
Verdict = Literal["delayed", "held", "dead", "stale"]
State = Literal["waiting", "running", "delayed", "held", "cancelling", "succeeded", "failed", "cancelled"]
STATES: Final[tuple[State, ...]] = get_args(State)
ENDED: Final[frozenset[str]] = frozenset({"succeeded", "failed", "cancelled"})  # states, as are those below
OPEN: Final[frozenset[str]] = frozenset(STATES) - ENDED
PUT_ASIDE: Final[frozenset[str]] = frozenset({"delayed", "held"})
SUSPECT_CRASHES: Final = 2  # from so many on, a worker holds one such job at most; as in prelude.lua
LIVE_SECONDS: Final = 7 * 86_400  # how long the record of an open job lasts, and a cancellation waits for its job


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
    Results and final records live `result_ttl`; 0 writes neither. `result_prefix` stands in front of the names of
    both, so that two queues in one database may have jobs of the same id. A heartbeat is due every `lease / 5`.
    Dead letters that are older than `dead_max_age`, or the oldest of more than `dead_max_count`, are deleted; 0: none.
    """

    name: str = "jobs"
    take_from: Literal["right", "left"] = "right"
    group: str = "greenscale"
    lease: float = 15.0
    max_crashes: int = 4
    result_ttl: int = 3600
    result_prefix: str = ""
    dead_max_age: float = 0.0
    dead_max_count: int = 0
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

    While the queue's server is away, calls wait for it. It may have one thing more: `options: QueueOptions`, from which
    the worker takes the heartbeat and the number of crashes; without it, the defaults are taken.
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

    async def beat(self, why: str | None = None) -> None:
        """Prolong all leases in one call, and `lose` those that are no longer ours.

        `why` says in a line why this worker sends nothing now; None: it does. It holds until the next heartbeat.
        """
        ...

    async def aclose(self) -> None:
        """Hand back what was claimed and not yet given to anybody, and close every connection."""
        ...


@dataclass(frozen=True, slots=True)
class Depth:
    """How much there is. `held` waits until somebody succeeds (docs/blame.md), `oldest_seconds` is known or None.

    `failing_seconds` ago a call failed, and none that began since has succeeded; `failing_by` says how. None: all well.
    """

    waiting: int
    running: int
    delayed: int
    dead: int
    oldest_seconds: float | None
    paused: bool
    held: int = 0
    failing_seconds: float | None = None
    failing_by: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that will not be run again unless it is replayed.

    `attempts` counts its runs, as its record does; times are seconds since the epoch. `code` is `unreadable` where
    somebody else wrote the letter; its bytes are the payload then.
    """

    id: str
    job_id: str | None
    code: str
    message: str
    attempts: int
    crashes: int
    died_at: float
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """Which dead letters are meant; what is None does not matter.

    `since` is seconds since the epoch, the two others are ages in seconds, by the queue's clock.
    """

    code: str | None = None
    since: float | None = None
    younger_than: float | None = None
    older_than: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """How a job stands. What is not known, or makes no sense in its state, is None; times are seconds since the epoch.

    `attempts` counts its calls, that under way among them; `crashes` the runs that were cut off, which are no attempts.
    `claimed_at` is when its last run began, `due_at` when it is to be run again. `code` and `message` say why it
    failed, or is delayed or held. The rest is what the record of an ended job says (docs/wire-contract.md).
    A job that nobody has claimed yet has no `job_id` where its payload cannot be read.
    """

    job_id: str | None
    state: State
    worker: str | None = None
    attempts: int = 0
    crashes: int = 0
    submitted_at: float | None = None
    claimed_at: float | None = None
    due_at: float | None = None
    finished_at: float | None = None
    code: str | None = None
    message: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs are meant; what is None does not matter."""

    state: State | None = None
    code: str | None = None
    worker: str | None = None

    def __call__(self, job: JobInfo) -> bool:
        """Say whether this job is meant."""
        asked = ((self.state, job.state), (self.code, job.code), (self.worker, job.worker))
        return all(wanted in (None, found) for wanted, found in asked)


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker process that has sent a heartbeat lately; `beat_seconds` ago.

    `why` says why it sends nothing now; None: it does, or nobody knows (workers of the version before do not say it).
    """

    name: str
    beat_seconds: float
    why: str | None = None


class QueueClient(Protocol):
    """Everybody else's side. Calls raise QueueUnavailableError where the server does not answer."""

    async def put(self, jobs: Sequence[tuple[str, bytes]], *, fold: bool = False) -> list[bool]:
        """Append jobs, each an id and its payload, in order, and record them as waiting.

        With `fold`, a job is left out whose id is that of one that waits, runs or has succeeded, so far as is known.
        Says for each whether it was appended. Raises BadInputError for an id that is none, before anything is written;
        QueueFullError where the server takes no more.
        """
        ...

    async def record(self, job_id: str) -> dict[str, str]:
        """Read a job's record; empty where there is none (unknown, or waiting). Of one replayed it says `waiting`."""
        ...

    async def result(self, job_id: str) -> bytes | None:
        """Read a job's answer; None where there is none (yet)."""
        ...

    async def look_up(self, job_ids: Sequence[str]) -> list[tuple[dict[str, str], bytes | None]]:
        """Read record and answer of many jobs at once; an answer only where the record says `succeeded`."""
        ...

    def listen(self, heard: Callable[[Sequence[str] | None], None]) -> AbstractAsyncContextManager[None]:
        """Call `heard` with the ids of jobs that have ended, as they do; None: some may have been missed.

        The first call is with None: from then on, ends are told. There is none where the server does not allow it, and
        it is no error where it is away: who needs to know must look from time to time, too.
        """
        ...

    def jobs(
        self,
        which: JobFilter | None = None,
        *,
        limit: int | None = None,
        unpack: Callable[[bytes], bytes] | None = None,
    ) -> AsyncIterator[JobInfo]:
        """Walk through jobs: those that run, wait, are delayed and held, then the last 1,000 that ended, latest first.

        It is a picture and no account: none is given twice, but one that moves meanwhile may be missed. `unpack` makes
        JSON of a payload, for a queue that keeps them in another form. Without results and records, nothing is known of
        those that ended.
        """
        ...

    async def rate(self) -> float:
        """Tell how many jobs end a second: of late, by the last 10 s where ten jobs ended in them, else by a minute."""
        ...

    async def cancel(self, job_id: str) -> Cancellation:
        """End a job that has not finished. Raises BadInputError for an id that no job can have.

        `will_be_cancelled`: nobody has claimed it; it is ended when it comes up, within seven days, and its record
        says `cancelling`. `unknown`: the same, but there is no record of such a job: it was pushed by hand, or never.
        """
        ...

    async def uncancel(self, job_id: str) -> bool:
        """Take a cancellation back that no job has met yet: one that waits will run. False: there is none.

        Raises BadInputError for an id that no job can have.
        """
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

    def dead(
        self,
        which: DeadFilter | None = None,
        *,
        limit: int | None = None,
        after: str | None = None,
        oldest_first: bool = False,
        payloads: bool = True,
    ) -> AsyncIterator[DeadLetter]:
        """Walk through dead letters, the latest first; `after`: behind the one of that id.

        Without `payloads` those are empty, and are not read.
        """
        ...

    async def dead_letter(self, name: str, *, payload: bool = True) -> DeadLetter | None:
        """Find a dead letter by its own id, or by its job's: the latest of that. Without `payload` that is not read."""
        ...

    async def dead_count(self, which: DeadFilter | None = None) -> int:
        """Count dead letters."""
        ...

    async def dead_codes(self) -> dict[str, int]:
        """Count dead letters by code."""
        ...

    async def replay(self, letter_id: str) -> bool:
        """Put a dead letter back to the head of the queue, its counters at zero. False: there is none."""
        ...

    async def replay_many(self, letter_ids: Sequence[str]) -> list[Replay]:
        """Replay dead letters, in portions, and say of each what became of it.

        `payload_lost`: somebody has deleted its payload, so that there is nothing to be run; the letter stays.
        """
        ...

    async def purge(self, *, older_than: float, code: str | None = None) -> int:
        """Delete dead letters that died at least so many seconds ago, in portions; says how many."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
