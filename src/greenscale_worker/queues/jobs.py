"""What a queue tells of its jobs, and of those that are dead letters."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from greenscale_worker.queues.options import QueueOptions

Cancellation = Literal["cancelled", "will_be_cancelled", "finished", "unknown"]
Replay = Literal["replayed", "unknown", "payload_lost"]
Change = Literal["waits", "left", "over"]
JobClass = Literal["interactive", "standard", "background"]
CLASSES: Final[tuple[JobClass, ...]] = get_args(JobClass)  # in the order in which they are served
TURNS: Final = 10  # of so many jobs in a row, a lower class that waits gets one; as in claim.lua
State = Literal["scheduled", "waiting", "running", "delayed", "held", "cancelling", "succeeded", "failed", "cancelled"]
STATES: Final[tuple[State, ...]] = get_args(State)
ENDED: Final[frozenset[str]] = frozenset({"succeeded", "failed", "cancelled"})  # states, as are those below
OPEN: Final[frozenset[str]] = frozenset(STATES) - ENDED
PUT_ASIDE: Final[frozenset[str]] = frozenset({"delayed", "held"})
ATTENDED_SECONDS: Final = 120  # in which a retry finds a job, unless its gateway says more; as in attendance.lua
ALIVE_SECONDS: Final = 2  # after which a gateway that says nothing is dead; as in attendance.lua
TOKEN_SECONDS: Final = 3600  # the least that the text of a running job lasts: pieces are never so far apart
POSITION: Final = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFilter:
    """Selects dead letters; fields that are None match all.

    `since` is seconds since the epoch; the other two are ages in seconds, by the queue's clock.
    """

    code: str | None = None
    since: float | None = None
    younger_than: float | None = None
    older_than: float | None = None


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


@dataclass(frozen=True, slots=True)
class Attendance:
    """A client waits for a job at a gateway; neither name has spaces in it.

    `alike` is equal for requests that are equal. `number` is another one for each client of a gateway.
    """

    alike: str
    job_id: str
    gateway: str
    number: int


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
