"""The interfaces of a queue: `Queue` for workers, `QueueClient` for producers, operators and commands.

Adapters need not inherit them. The contract suite checks that they keep these promises.
"""

import math
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Literal, Protocol, get_args

from greenscale_worker.job import Failure, Job, Keep, Outcome

Binding = Literal["run", "duplicate", "conflict", "cancelled", "stale"]
Cancellation = Literal["cancelled", "will_be_cancelled", "finished", "unknown"]
Replay = Literal["replayed", "unknown", "payload_lost"]
Loss = Literal["taken", "gone"]
Verdict = Literal["delayed", "held", "dead", "stale"]
Held = Literal["", "limit", "requests", "tokens", "pause", "breaker", "paused"]  # why no job that waits is claimed
Change = Literal["waits", "left", "over"]
JobClass = Literal["interactive", "standard", "background"]
CLASSES: Final[tuple[JobClass, ...]] = get_args(JobClass)  # in the order in which they are served
TURNS: Final = 10  # of so many jobs in a row, a lower class that waits gets one; as in claim.lua
HELD: Final = tuple(filter(None, get_args(Held)))
State = Literal["scheduled", "waiting", "running", "delayed", "held", "cancelling", "succeeded", "failed", "cancelled"]
STATES: Final[tuple[State, ...]] = get_args(State)
ENDED: Final[frozenset[str]] = frozenset({"succeeded", "failed", "cancelled"})  # states, as are those below
OPEN: Final[frozenset[str]] = frozenset(STATES) - ENDED
PUT_ASIDE: Final[frozenset[str]] = frozenset({"delayed", "held"})
SUSPECT_CRASHES: Final = 2  # a worker holds at most one job with so many or more; as in prelude.lua
TOKEN_SECONDS: Final = 3600  # the least that the text of a running job lasts: pieces are never so far apart
POSITION: Final = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")
ATTENDED_SECONDS: Final = 120  # in which a retry finds a job, unless its gateway says more; as in attendance.lua
ALIVE_SECONDS: Final = 2  # after which a gateway that says nothing is dead; as in attendance.lua
MOST_TENANTS: Final = 1000  # with an entry; as many lines a claim looks at, as in turns.lua
MOST_WEIGHT: Final = 1000  # as in turns.lua
MOST_OF_A_LIMIT: Final = 10**9
LIVE_SECONDS: Final = 7 * 86_400  # lifetime of an open job's record, and of a cancellation that waits for its job


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """The address of Redis and how to authenticate.

    `url` is `redis://host:port/db`, `rediss://…` (TLS), `redis+sentinel://host:port,host:port/master/db` or
    `redis+cluster://host:port` (`rediss+sentinel`, `rediss+cluster` with TLS). `ca_file`, `cert_file` and `key_file`
    are PEM files. `password_file`, `sentinel_password_file` and `url_file` are read again for each connection; they
    hold a password, or the URL with one. Sentinels that require one get that of Redis unless they have their own.
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
    """The settings of a queue. Times are seconds.

    `take_from` is the oldest end of the list: `right` for producers that LPUSH, `left` for RPUSH. `group` is the
    consumer group of a stream.
    Results and final records last `result_ttl`; 0 writes neither. `result_prefix` begins the names of both, so that
    two queues in one database may have jobs with the same id. A heartbeat is due every `lease / 5`.
    Dead letters older than `dead_max_age`, and the oldest beyond `dead_max_count`, are deleted; 0 means no limit.
    So are notices that nobody acknowledges, by `notices_max_age` and `notices_max_count`, of which neither may be 0.
    The ledger is kept for `ledger_days`; 0: no ledger is kept.
    `limit` is how many calls the fleet may have open, `requests_per_minute` and `tokens_per_minute` how many it may
    begin and how many tokens they may cost; None: no bound. With the limit `engine` it is what `observe` has found,
    `limit_most` at most.
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
    notices_max_age: float = 86_400.0
    notices_max_count: int = 100_000
    ledger_days: int = 8
    limit: int | Literal["engine"] | None = None
    limit_most: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    backend: str = ""

    @property
    def heartbeat(self) -> float:
        """Seconds between two heartbeats."""
        return self.lease / 5


@dataclass(slots=True, eq=False)
class Lease:
    """The right to run one job until it is settled, or until the queue reports the lease lost.

    `claimed_at` and `first_claimed_at` are seconds since the epoch by the queue's clock; `received` is when the claim
    arrived, by this process' monotonic clock. `runs` counts failed calls, `tries` the tries they used up, `crashes`
    expired leases, `attempts` runs including this one (0: not run). `began` is when its call began, by the monotonic
    clock, `call_seconds` how long it took; None: no call was made. The outcome is recorded under `job_id`; None: there
    is no usable id. The ledger counts it for `tenant`, too, and `keep` is what the job says of its answer.
    `default_job_id` is the queue's id for a payload that has none, if the queue provides one. `due_in` is when a job
    that `retry` has put off is due, in seconds; None: as its failure says. `drains` is how many drains have cut the job
    off, known once one has released it where records are kept. The fleet's budget was charged a request and `charged`
    tokens, `estimated` of them for the answer; None: it was charged nothing.
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
    charged: int | None = None
    estimated: int = 0
    keep: Keep = "text"
    attempts: int = 0
    began: float | None = None
    call_seconds: float | None = None
    tenant: str | None = None
    due_in: float | None = None
    drains: int = 0
    received: float = field(default_factory=monotonic)
    lost: Loss | None = None
    on_lost: Callable[[], None] | None = None

    def lose(self, loss: Loss) -> None:
        """Mark the lease as lost: `taken` by another worker, or `gone` (cancelled, settled)."""
        if self.lost is None:
            self.lost = loss
            if self.on_lost is not None:
                self.on_lost()


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """A piece of the text that a job has shown. `position` is where to read on.

    Where `attempt` is higher than that of the piece before, the job runs again, and its text begins anew.
    """

    job_id: str
    position: str
    attempt: int
    text: str


def token_seconds(options: QueueOptions, *, last: bool) -> int:
    """Return how long the text of a job lasts from now on; `last`: the run has ended. 0: none is written."""
    return options.result_ttl if last or not options.result_ttl else max(options.result_ttl, TOKEN_SECONDS)


def check_positions(after: Mapping[str, str]) -> None:
    """Raise ValueError for what is neither the position of a piece nor empty."""
    for position in after.values():
        if position and not POSITION.fullmatch(position):
            raise ValueError(f"{position!r} is no position; that of a TokenPiece is expected, or an empty one")


@dataclass(frozen=True, slots=True)
class Observed:
    """What the fleet does to the engine: the limit found last, None if there is none, and how many calls are open.

    `calm` is what was given with that limit.
    """

    limit: int | None
    in_flight: int
    calm: int = 0


class Queue(Protocol):
    """The worker side. Every call except `aclose` may be cancelled at any time without losing a job.

    While the queue's server is unavailable, calls wait for it. An adapter may also have `options: QueueOptions`, from
    which the worker takes the heartbeat and the number of crashes; otherwise the defaults apply.
    """

    @property
    def up(self) -> bool:
        """Whether the queue's server answered the last call."""
        ...

    async def lease(self, *, probe: bool = False) -> Lease:
        """Wait for a job and lease it, as soon as the limit and the budgets of all workers together allow it.

        With `probe` this worker's breaker is open: it gets a job only if no other worker has one by such a call.
        """
        ...

    async def bind(self, lease: Lease, job: Job) -> Binding:
        """Bind the job's id to this lease and write its record, before the job is run.

        `run`: run the job. `duplicate`: the same job is in flight already, and this one was folded into it.
        `conflict`: its id is in flight with another payload; settle it as failed. `cancelled`: a user cancelled it,
        and that has been recorded. `stale`: the lease was lost. Where it is to be run, the lease gets `job_id` and
        `keep`.
        """
        ...

    async def settle(self, lease: Lease, outcome: Outcome) -> bool:
        """Record the outcome and acknowledge the job in one atomic step. Return False if the lease was lost.

        If the lease's `keep` is `body`, the endpoint's whole answer is recorded in the same step.
        """
        ...

    async def write_tokens(self, lease: Lease, text: str, *, last: bool = False) -> bool:
        """Show a piece of the text of a job's run to those who follow it. Return False if the lease was lost.

        It lasts an hour or as long as a result, and after the `last` piece, which may be empty, as long as a result. A
        queue that keeps no results shows none. Raises QueueUnavailableError or ConfigError rather than wait; then the
        piece may have been written.
        """
        ...

    async def retry(self, lease: Lease, failure: Failure) -> Verdict:
        """Requeue a job whose call failed, or make it a dead letter, judged by the whole fleet (docs/blame.md).

        `delayed`: it runs again later. `held`: it runs again once another job has succeeded, or nothing else waits.
        `dead`: it is a dead letter. `stale`: the lease was lost.
        """
        ...

    async def beat(self, why: str | None = None, *, lanes: int | None = None, shut: bool = False) -> None:
        """Send a heartbeat: prolong all leases in one call, and `lose` those that we no longer own.

        `why` is one line on why this worker makes no calls until the next heartbeat; None: it makes calls. `lanes` is
        how many jobs it runs at once, for those who list workers. `shut`: its breaker is open.
        """
        ...

    async def observe(
        self, seconds: float, limit: int | None = None, *, calm: int = 0, why: str = ""
    ) -> Observed | None:
        """Be the one worker of the fleet that looks at the engine, for `seconds` from now; None: another one is.

        `limit` is how many calls the engine was found to bear: it holds where the limit of `options` is `engine`, and
        for a minute; then it is 8 at most until somebody looks again. `calm` is for who looks next, `why` says why the
        engine cannot be seen. Raises QueueUnavailableError or ConfigError rather than wait.
        """
        ...

    async def aclose(self) -> None:
        """Hand back jobs that were claimed but not yet given to a caller, and close every connection."""
        ...


@dataclass(frozen=True, slots=True)
class Depth:
    """Jobs by state. `held` ones wait until another succeeds (docs/blame.md). `oldest_seconds` is None if unknown.

    `waiting` counts all classes; `interactive` and `background` are those of them that no worker has claimed yet.
    `scheduled` jobs are not due yet. `failing_seconds` ago a call failed as `failing_by` says, and none begun since has
    succeeded; None: no failure.
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
    interactive: int = 0
    background: int = 0
    scheduled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What holds a queue's jobs back, and how many are worth a worker's lane now.

    `limit` is how many calls the fleet may have open, `requests` and `tokens` how many it may make a minute; None: no
    bound. `waiting` jobs are claimed by nobody, `open` ones were claimed and have not ended, `in_flight` of them are
    leased. `held` names what keeps waiting jobs from being claimed, and `held_seconds` when that may end at the
    earliest. `shut`: the breakers of all live workers are open. `scaled_to_zero`: the queue is paused without a worker.
    `due_seconds` is when the next delayed or scheduled job is due; None: there is none. `workers` are those alive,
    `call_seconds` is the running mean of a call's time; None: none was made. `engine_unseen` says why the engine's
    metrics cannot be read, where they set the limit.
    """

    waiting: int = 0
    open: int = 0
    in_flight: int = 0
    limit: int | None = None
    requests: float | None = None
    tokens: float | None = None
    paused: bool = False
    scaled_to_zero: bool = False
    shut: bool = False
    held: Held = ""
    held_seconds: float = 0.0
    due_seconds: float | None = None
    workers: int = 0
    call_seconds: float | None = None
    engine_unseen: str = ""

    @property
    def room(self) -> int | None:
        """How many jobs the endpoint can work on at once; None: no bound is known.

        Paused or shut: those in flight, at least one, so that no worker is added and one is left; none if the queue is
        scaled to zero.
        """
        if self.scaled_to_zero:
            return 0
        if self.paused or self.shut:
            return max(1, self.in_flight)
        bounds = [] if self.limit is None else [self.limit]
        if self.requests is not None and self.call_seconds is not None:
            bounds.append(max(1, math.ceil(self.requests / 60 * self.call_seconds)))
        return min(bounds) if bounds else None

    def work(self, start_seconds: float = 0.0) -> int:
        """How many jobs are worth a lane, by Little's law: one more if one is due within a worker's start."""
        soon = self.due_seconds is not None and self.due_seconds <= start_seconds
        work = self.waiting + self.open + soon
        return work if self.room is None else min(work, self.room)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimits:
    """A tenant's entry: its share, and what it may use. None: no limit.

    Of the jobs of a class, tenants are served by `weight`: 1 to MOST_WEIGHT. `in_flight` is how many of its jobs may
    be claimed and not have ended: those that run, or wait to be tried again. Raises ValueError.
    """

    weight: int = 1
    in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= MOST_WEIGHT:
            raise ValueError(f"weight {self.weight}: 1 to {MOST_WEIGHT} is expected")
        for name in ("in_flight", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST_OF_A_LIMIT:
                raise ValueError(f"{name} {value}: 1 to {MOST_OF_A_LIMIT:,} is expected")


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStanding:
    """A tenant that has an entry, or jobs from the time when it had one; then `limits` is None.

    `waiting` of its jobs nobody has claimed, the oldest of them for `oldest_seconds`; `interactive` of them are of
    that class. `in_flight` were claimed and have not ended. `held` names what keeps its waiting jobs from being
    claimed, and `held_seconds` when that may end at the earliest; empty: nothing of its own. `requests_left` and
    `tokens_left` are what it may use at once; below 0 it has used more than that. None: no limit.
    """

    name: str
    limits: TenantLimits | None
    waiting: int = 0
    interactive: int = 0
    in_flight: int = 0
    oldest_seconds: float | None = None
    held: Literal["", "in_flight", "requests", "tokens"] = ""
    held_seconds: float = 0.0
    requests_left: float | None = None
    tokens_left: float | None = None


@dataclass(frozen=True, slots=True)
class LedgerMinute:
    """What happened in one minute; `at` is when it began, in seconds since the epoch.

    `ended` counts jobs that succeeded, `failed` those that became dead letters, `cancelled` those that somebody
    cancelled, `retried` calls that failed and are made again. Tokens and `call_seconds` are those of the calls whose
    outcome was recorded; a call cut off by a crash or a drain is in no sum. `replica_seconds` is the time that workers
    were alive, `busy_lane_seconds` that of the jobs they held; `replicas_peak` is how many were alive at once.
    """

    at: float
    ended: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    call_seconds: float = 0.0
    replica_seconds: float = 0.0
    busy_lane_seconds: float = 0.0
    replicas_peak: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that will not be run again unless it is replayed.

    `attempts` counts its runs, as its record does; times are seconds since the epoch. `code` is `unreadable` if
    another program wrote the letter; then `payload` is all its bytes.
    """

    id: str
    job_id: str | None
    code: str
    message: str
    attempts: int
    crashes: int
    died_at: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class Notice:
    """A job that was put with `notify` has ended: `state` says how, `code` why it failed.

    `id` is another one for each end, and the same for all who read it. `at` is seconds since the epoch.
    """

    id: str
    job_id: str
    state: State
    at: float
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """Selects dead letters; fields that are None match all.

    `since` is seconds since the epoch; the other two are ages in seconds, by the queue's clock.
    """

    code: str | None = None
    since: float | None = None
    younger_than: float | None = None
    older_than: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """The state of a job. Fields that are unknown or do not apply are None; times are seconds since the epoch.

    `attempts` counts its calls, including the current one; `crashes` counts runs that were cut off, which are no
    attempts. `claimed_at` is when its last run began, `due_at` when it runs, or runs again. `code` and `message` say
    why it failed, or is delayed or held. `job_class` is unknown of a job that was pushed, `created_at` is what its
    producer wrote. The rest comes from the record of an ended job (docs/wire-contract.md).
    `job_id` is None for an unclaimed job whose payload cannot be read.
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
    tenant: str | None = None
    job_class: JobClass | None = None
    created_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Selects jobs; fields that are None match all."""

    state: State | None = None
    code: str | None = None
    worker: str | None = None

    def __call__(self, job: JobInfo) -> bool:
        """Return whether the job matches."""
        asked = ((self.state, job.state), (self.code, job.code), (self.worker, job.worker))
        return all(wanted in (None, found) for wanted, found in asked)


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A live worker process. It sent its last heartbeat `beat_seconds` ago.

    `why` says why it makes no calls now; None: it does, or it is of the previous version, which does not say. `lanes`
    is how many jobs it runs at once at most; None: it does not say, as those of the previous version.
    """

    name: str
    beat_seconds: float
    why: str | None = None
    lanes: int | None = None


@dataclass(frozen=True, slots=True)
class Attendance:
    """A client waits for a job at a gateway; neither name has spaces in it.

    `alike` is equal for requests that are equal. `number` is another one for each client of a gateway.
    """

    alike: str
    job_id: str
    gateway: str
    number: int


class QueueClient(Protocol):
    """The client side. Calls raise QueueUnavailableError if the server does not answer."""

    async def put(  # noqa: PLR0913  one step, which cannot be taken in parts
        self,
        jobs: Sequence[tuple[str, bytes]],
        *,
        fold: bool = False,
        once: bool = False,
        job_class: JobClass = "standard",
        not_before: float | None = None,
        tenant: str = "",
        digest: str = "",
        unpack: Callable[[bytes], bytes] | None = None,
        attendance: Attendance | None = None,
        notify: bool = False,
    ) -> list[bool]:
        """Append jobs, each an id and a payload, in order, and record them as waiting.

        Records have the class of their jobs, and `created_at` and `metadata` as payloads say.
        `fold` skips a job whose id is known to belong to one that waits, runs or has succeeded, `once` each job of
        which there is any record. Classes are served in the order of CLASSES; a lower one that waits gets at least
        every tenth job. Jobs of which `not_before` (seconds since the epoch, by the queue's clock) is not over yet are
        recorded as `scheduled`, and appended when they are due; one whose id is scheduled already is skipped. `tenant`
        and `digest` are written into the records, and stay in them until they expire, as does the class.
        `unpack` turns a payload into JSON, for a queue that stores another form of it. With `attendance`, `join` finds
        its job, for ATTENDED_SECONDS or as long as `attend` says. `notify`: the end of each job that is appended leaves
        a notice (see `notices`), as does that of a job whose payload says `"notify": true`. Of two jobs with one id
        that are in the queue at a time, the first to end does.
        Returns for each job whether it was appended, or scheduled. Raises BadInputError for an invalid id, before
        anything is written, ValueError for an unknown class or a time that is not finite, and QueueFullError if the
        server is full.
        """
        ...

    async def promote(self) -> int:
        """Append jobs that have become due to their class, and return how many; workers do it with each heartbeat."""
        ...

    async def attend(self, gateway: str, changes: Sequence[tuple[Attendance, Change]]) -> list[bool]:
        """Show that a gateway lives, for ALIVE_SECONDS, and note what has become of its clients.

        `waits`: `join` is to find the job for ATTENDED_SECONDS more. `left`: the same, and it may be joined. `over`: it
        is to be found no more. Returns for each whether the job was still this client's: nobody has joined it.
        """
        ...

    async def join(self, alike: str, gateway: str, number: int) -> tuple[str | None, int]:
        """Return a job of equal requests whose client has gone, which from now on is that of this client.

        It has gone if it `left`, or if its gateway is dead. If there is none: None, and how many clients wait for such
        a job. Two calls never return the same job, unless its client has gone again, or they are of the same client.
        """
        ...

    async def keys(self) -> dict[str, bytes]:
        """Return the API keys that are kept with the queue: documents by id. Their content is not read."""
        ...

    async def set_key(self, key_id: str, document: bytes | None) -> None:
        """Keep an API key's document, in place of any other of this id; None deletes it."""
        ...

    async def record(self, job_id: str) -> dict[str, str]:
        """Return a job's record; empty if there is none (unknown, or waiting). A replayed job's says `waiting`."""
        ...

    async def result(self, job_id: str) -> bytes | None:
        """Return a job's answer; None if there is none (yet)."""
        ...

    async def body(self, job_id: str) -> bytes | None:
        """Return the endpoint's whole answer, as JSON, if the job succeeded and its `keep` is `body`; else None."""
        ...

    async def bodies(self, job_ids: Sequence[str]) -> list[bytes | None]:
        """Return the same for each of many jobs, read in batches."""
        ...

    async def forget(self, job_ids: Sequence[str]) -> int:
        """Delete record, answer, whole answer and shown text of jobs that have ended, and return of how many.

        Open jobs are left, also those that wait after a replay; so are jobs without a record, and dead letters. Of a
        job that was forgotten nothing is known: `put` with `once` appends it again. Raises TypeError for one id.
        """
        ...

    async def notices(self, limit: int = 100) -> list[Notice]:
        """Return the oldest notices that nobody has acknowledged, `limit` at most, oldest first.

        A notice is written in the same step as the end of its job, also where no records are kept. Reading removes
        nothing: whoever reads the same ones after a crash, or beside another reader, must bear seeing them twice. Each
        is kept until it is acknowledged, or until the heartbeat of a worker drops it, as the options say.
        """
        ...

    async def acknowledge_notices(self, ids: Sequence[str]) -> None:
        """Delete notices by their ids; those that are gone already are passed over.

        Raises TypeError for one id, ValueError for what is no notice's id.
        """
        ...

    async def read_tokens(self, after: Mapping[str, str], *, wait: float) -> list[TokenPiece]:
        """Return pieces of the text of many jobs, those of a job in order; if there are none, wait `wait` seconds.

        `after` is the position of the last piece read of each job, empty: from the start. Jobs that are unknown, have
        shown nothing or are not followed (`tokens`) have no pieces; the text may lack its end, which only the answer
        has. There may be more pieces than one call returns. Raises ValueError for what is no position.
        """
        ...

    async def look_up(self, job_ids: Sequence[str]) -> list[tuple[dict[str, str], bytes | None]]:
        """Return record and answer of many jobs; an answer only if the record says `succeeded`."""
        ...

    def listen(self, heard: Callable[[Sequence[str] | None], None]) -> AbstractAsyncContextManager[None]:
        """Call `heard` with the ids of jobs as they end, or with None when some may have been missed.

        The first call passes None, once listening has begun. It never comes if the server does not allow listening;
        an unavailable server raises no error. So a caller that must not miss an end also polls from time to time.
        """
        ...

    def jobs(
        self,
        which: JobFilter | None = None,
        *,
        limit: int | None = None,
        unpack: Callable[[bytes], bytes] | None = None,
    ) -> AsyncIterator[JobInfo]:
        """Iterate over jobs: all that are open, state by state, then the last 1,000 that ended, latest first.

        The list is not a snapshot: no job comes twice, but one that changes state meanwhile may be missed. `unpack`
        turns a payload into JSON, for a queue that stores another form. A queue that keeps no results and records
        (`result_ttl` 0) lists no ended jobs.
        """
        ...

    async def rate(self) -> float:
        """Return how many jobs end per second, over the last 10 s if ten jobs ended in them, else over a minute."""
        ...

    async def cancel(self, job_id: str) -> Cancellation:
        """Cancel a job that has not finished. Raises BadInputError for an invalid id.

        `will_be_cancelled`: no worker has claimed it; it is cancelled when claimed, within seven days, and its record
        says `cancelling`. `unknown`: the same, but it has no record: it was pushed by hand, or does not exist.
        A job that is not due yet is cancelled at once.
        """
        ...

    async def uncancel(self, job_id: str) -> bool:
        """Withdraw a cancellation that has not taken effect: a waiting job will run. Return False if there is none.

        Raises BadInputError for an invalid id.
        """
        ...

    async def depth(self) -> Depth:
        """Count jobs by state."""
        ...

    async def flow(self) -> Flow:
        """Tell what holds jobs back, and how many are worth a lane, all at one moment."""
        ...

    async def set_tenant(self, name: str, limits: TenantLimits | None) -> None:
        """Give a tenant an entry, in place of any that it has; None deletes it.

        From now on, jobs that are put for it wait in a line of its own. In each class, tenants with a line are served
        by weight, all other jobs together being those of one more of weight 1. A deleted tenant's jobs keep their place
        in its line, and are served with weight 1. Raises BadInputError for a name that no job may have, and where
        MOST_TENANTS have an entry.
        """
        ...

    async def tenants(self, name: str | None = None) -> list[TenantStanding]:
        """Tell how tenants stand, by name, or only one: each that has an entry, or jobs from the time of one."""
        ...

    async def workers(self) -> list[LiveWorker]:
        """List the live worker processes."""
        ...

    async def ledger(
        self, since: float, until: float | None = None, *, tenant: str | None = None
    ) -> list[LedgerMinute]:
        """Return what happened in each minute from that of `since` to that of `until`, oldest first.

        Both are seconds since the epoch; None: now. Minutes in which nothing happened are left out, as are those
        older than the ledger is kept. Of a `tenant` only `ended`, `failed` and tokens are known.
        """
        ...

    async def pause(self, *, scale_to_zero: bool = False) -> None:
        """Stop workers from claiming until `resume`; running jobs continue.

        With `scale_to_zero` the autoscaler keeps no worker for them.
        """
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
        """Iterate over dead letters, latest first, beginning behind the letter with id `after`.

        Without `payloads` they are not read and are empty.
        """
        ...

    async def dead_letter(self, name: str, *, payload: bool = True) -> DeadLetter | None:
        """Return a dead letter by its own id, or the latest of a job id. Without `payload`, that is empty."""
        ...

    async def dead_count(self, which: DeadFilter | None = None) -> int:
        """Count dead letters."""
        ...

    async def dead_codes(self) -> dict[str, int]:
        """Count dead letters by code."""
        ...

    async def replay(self, letter_id: str) -> bool:
        """Requeue a dead letter at the head of its class, counters reset. Return False if there is none."""
        ...

    async def replay_many(self, letter_ids: Sequence[str]) -> list[Replay]:
        """Replay dead letters, in batches, and return the outcome for each.

        `payload_lost`: its payload was deleted by hand, so there is nothing to run; the letter stays.
        """
        ...

    async def purge(self, *, older_than: float, code: str | None = None) -> int:
        """Delete dead letters at least `older_than` seconds old, in batches, and return how many."""
        ...

    async def discard(self, letter_ids: Sequence[str]) -> int:
        """Delete dead letters by their ids, and return how many there were."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
