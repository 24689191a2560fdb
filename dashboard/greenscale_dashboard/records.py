"""What the gateway answers, as far as the page shows it. A field that an older or newer gateway lacks is None."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, Self, TypeVar

from greenscale_dashboard.reading import count, epoch, fields, moment, number, rows, text, texts

Row = TypeVar("Row")
Number = TypeVar("Number", int, float)
ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})
OPEN: Final = ("waiting", "scheduled", "running", "delayed", "held", "cancelling")
BATCH_ENDS: Final = ("completed", "failed", "expired", "cancelled")
STATES: Final = (*OPEN, "succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job and how it stands. Times are the gateway's."""

    id: str
    state: str
    job_class: str | None
    tenant: str | None
    submitted_at: datetime | None
    claimed_at: datetime | None
    due_at: datetime | None
    finished_at: datetime | None
    attempts: int | None
    crashes: int | None
    worker: str | None
    model: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    metadata: Mapping[str, str]
    code: str | None
    message: str | None
    result: str | None

    @classmethod
    def read(cls, answer: Any) -> Self:
        """Read a job object."""
        said = fields(answer)
        usage, error = fields(said.get("usage")), fields(said.get("error"))
        return cls(
            id=text(said.get("id")) or "",
            state=text(said.get("state")) or "unknown",
            job_class=text(said.get("class")),
            tenant=text(said.get("tenant")),
            submitted_at=moment(said.get("submitted_at")),
            claimed_at=moment(said.get("claimed_at")),
            due_at=moment(said.get("due_at")),
            finished_at=moment(said.get("finished_at")),
            attempts=count(said.get("attempts")),
            crashes=count(said.get("crashes")),
            worker=text(said.get("worker")),
            model=text(said.get("model")),
            finish_reason=text(said.get("finish_reason")),
            prompt_tokens=count(usage.get("prompt_tokens")),
            completion_tokens=count(usage.get("completion_tokens")),
            metadata={str(text(key)): text(value) or str(value) for key, value in fields(said.get("metadata")).items()},
            code=text(error.get("code")),
            message=text(error.get("message")),
            result=text(said.get("result")),
        )

    @property
    def ended(self) -> bool:
        """Whether it will not change any more, unless it is replayed."""
        return self.state in ENDED or self.finished_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What made a batch fail before it began."""

    code: str
    message: str
    line: int | None

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Read an error of a batch."""
        return cls(
            code=text(said.get("code")) or "no code",
            message=text(said.get("message")) or "",
            line=count(said.get("line")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch and how it stands. `total` is 0 until its lines were counted."""

    id: str
    status: str
    endpoint: str | None
    model: str | None
    created_at: datetime | None
    expires_at: datetime | None
    ended_at: datetime | None
    total: int
    completed: int
    failed: int
    output_file_id: str | None
    error_file_id: str | None
    faults: list[Fault]

    @classmethod
    def read(cls, answer: Any) -> Self:
        """Read a batch object."""
        said = fields(answer)
        counts = fields(said.get("request_counts"))
        ends = [epoch(said.get(f"{status}_at")) for status in BATCH_ENDS]
        return cls(
            id=text(said.get("id")) or "",
            status=text(said.get("status")) or "unknown",
            endpoint=text(said.get("endpoint")),
            model=text(said.get("model")),
            created_at=epoch(said.get("created_at")),
            expires_at=epoch(said.get("expires_at")),
            ended_at=next((end for end in ends if end), None),
            total=count(counts.get("total")) or 0,
            completed=count(counts.get("completed")) or 0,
            failed=count(counts.get("failed")) or 0,
            output_file_id=text(said.get("output_file_id")),
            error_file_id=text(said.get("error_file_id")),
            faults=[Fault.read(each) for each in rows(fields(said.get("errors")).get("data"))],
        )

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in BATCH_ENDS

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1."""
        return min(1.0, max(0.0, (self.completed + self.failed) / self.total)) if self.total > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A job that will not run again unless it is replayed.

    `payload`, base64 if it is no text, only where one letter was asked for.
    """

    id: str
    job_id: str | None
    code: str
    message: str | None
    attempts: int | None
    died_at: datetime | None
    payload: str | None

    @classmethod
    def read(cls, answer: Any) -> Self:
        """Read a dead letter."""
        said = fields(answer)
        return cls(
            id=text(said.get("id")) or "",
            job_id=text(said.get("job_id")),
            code=text(said.get("code")) or "unknown",
            message=text(said.get("message")),
            attempts=count(said.get("attempts")),
            died_at=moment(said.get("died_at")),
            payload=text(said.get("payload")) or text(said.get("payload_base64")),
        )


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows of a list; `after` begins the next page, None: there is none."""

    rows: list[Row]
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A job that a worker runs, for so many seconds."""

    id: str
    attempts: int | None
    since_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A live worker. `lanes` is None where the gateway does not say how many it has."""

    name: str
    beat_seconds: float | None
    why: str | None
    lanes: int | None
    running: list[Run]

    @classmethod
    def read(cls, answer: Any) -> Self:
        """Read a worker of the stats."""
        said = fields(answer)
        return cls(
            name=text(said.get("name")) or "unknown",
            beat_seconds=number(said.get("beat_seconds")),
            why=text(said.get("why")),
            lanes=count(said.get("lanes")),
            running=[
                Run(
                    id=text(each.get("id")) or "unknown",
                    attempts=count(each.get("attempts")),
                    since_seconds=number(each.get("since_seconds")),
                )
                for each in rows(said.get("running"))
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The queue at one moment. `depth` has the number of jobs in each state that the gateway names."""

    queue: str
    at: datetime | None
    depth: Mapping[str, int]
    oldest_seconds: float | None
    paused: bool
    rate_per_second: float | None
    remaining_seconds: float | None
    reasons: list[str]
    workers: list[Worker]
    totals: Mapping[str, float]

    @classmethod
    def read(cls, answer: Any) -> Self:
        """Read the answer of `/v1/stats`."""
        said = fields(answer)
        depth = fields(said.get("depth"))
        return cls(
            queue=text(said.get("queue")) or "jobs",
            at=moment(said.get("at")),
            depth=_numbers(depth, count),
            oldest_seconds=number(depth.get("oldest_seconds")),
            paused=depth.get("paused") is True,
            rate_per_second=number(said.get("rate_per_second")),
            remaining_seconds=number(said.get("remaining_seconds")),
            reasons=texts(said.get("reasons")),
            workers=[Worker.read(each) for each in rows(said.get("workers"))],
            totals=_numbers(fields(said.get("totals")), number),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happened in one step of a history; sums, 0 where the gateway says nothing."""

    at: datetime | None
    ended: float
    failed: float
    retried: float
    prompt_tokens: float
    completion_tokens: float
    call_seconds: float
    replica_seconds: float
    busy_lane_seconds: float
    replicas_peak: float

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        """Read a step of the series."""
        names = [name for name in cls.__dataclass_fields__ if name != "at"]
        return cls(at=moment(answer.get("at")), **{name: number(answer.get(name)) or 0.0 for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """Replica-seconds measured against a number of replicas always on. Any field may be None."""

    replicas_always_on: float | None
    window_seconds: float | None
    always_on_replica_seconds: float | None
    measured_replica_seconds: float | None
    saved_replica_seconds: float | None
    price_per_replica_hour: float | None
    saved: float | None

    @classmethod
    def read(cls, answer: Any) -> Self:
        """Read the savings of a history."""
        said = fields(answer)
        return cls(**{name: number(said.get(name)) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The past of the queue, in steps of `step_seconds`, and what was saved in it."""

    since: datetime | None
    until: datetime | None
    step_seconds: float
    series: list[Step]
    savings: Savings

    @classmethod
    def read(cls, answer: Any) -> Self:
        """Read the answer of `/v1/stats/history`."""
        said = fields(answer)
        return cls(
            since=moment(said.get("since")),
            until=moment(said.get("until")),
            step_seconds=number(said.get("step_seconds")) or 60.0,
            series=[Step.read(each) for each in rows(said.get("series"))],
            savings=Savings.read(said.get("savings")),
        )


def _numbers(said: Mapping[str, Any], read: Callable[[Any], Number | None]) -> Mapping[str, Number]:
    found = {name: read(value) for name, value in said.items()}
    return {name: value for name, value in found.items() if value is not None}
