"""What goes in and out, as pydantic models: they check requests and make the OpenAPI document."""

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from greenscale_worker.queues import STATES, JobClass, State

MOST_LISTED: Final = 1000
TIME_ACCEPTED: Final = (
    "seconds since the epoch, or a time with its offset from UTC are expected, such as 2030-01-02T03:04:05Z"
)
SPAN: Final = re.compile(r"(\d{1,6})([smhd])")
UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MOST_SECONDS: Final = 30 * 86_400
AWARE: Final = TypeAdapter(AwareDatetime)
LATEST: Final = 253_402_300_799  # seconds since the epoch: the end of the year 9999


def _moment(value: object) -> float:
    """Return a time as seconds since the epoch. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = AWARE.validate_python(value).timestamp()
        except ValidationError:
            raise ValueError(TIME_ACCEPTED) from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST:
        raise ValueError(TIME_ACCEPTED)
    return float(value)


def _states(value: object) -> list[str]:
    """Return the states of a query: several are separated by commas. Raises ValueError."""
    words = str(value).split(",")
    for word in words:
        if word not in STATES:
            raise ValueError(f"there is no state {word!r}; expected: {', '.join(STATES)}")
    return words


OF_STATES: Final = f"^({'|'.join(STATES)})(,({'|'.join(STATES)}))*$"
StatesText = Annotated[
    list[State], BeforeValidator(_states, json_schema_input_type=Annotated[str, Field(pattern=OF_STATES)])
]
Moment = Annotated[
    float,
    BeforeValidator(
        _moment, json_schema_input_type=float | Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    ),
]


class In(BaseModel):
    """A request."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Out(BaseModel):
    """An answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class JobRequest(BaseModel):
    """A job: a prompt or messages with parameters for the endpoint, or a line of OpenAI's Batch (`url` and `body`).

    All other fields go to the endpoint as they are: `model`, `temperature`, `max_tokens`, …
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    prompt: Any = Field(None, description="The question; for completions, whatever the endpoint takes.")
    messages: list[Any] | None = Field(None, description="A conversation, instead of `prompt`.")
    path: str | None = Field(None, description="Which of the endpoint's paths: `/v1/chat/completions` by default.")
    url: str | None = Field(None, description="The path, of a line of OpenAI's Batch.")
    body: dict[str, Any] | None = Field(None, description="The whole request, of a line of OpenAI's Batch.")
    job_id: str | None = Field(None, description="1 to 128 of letters, digits and `. _ : -`; without it, a new one.")
    metadata: dict[str, str] | None = Field(None, description="Texts that the record keeps.")
    deadline: str | None = Field(None, description="The job fails if it has not ended by then (RFC 3339).")
    job_class: JobClass = Field("standard", alias="class", description="Which jobs it waits for.")
    not_before: Moment | None = Field(None, description="When it may begin: RFC 3339, or seconds since the epoch.")
    tokens: bool | None = Field(None, description="Whether `/events` tells the text while the job runs.")
    keep: Literal["text", "body"] | None = Field(None, description="`body`: the endpoint's whole answer is kept, too.")
    notify: bool | None = Field(None, description="Whether its end is told: to webhooks, and to programs at the queue.")


class ChatRequest(BaseModel):
    """A chat completion, as OpenAI's clients ask for it. All fields but these go to the endpoint as they are."""

    model_config = ConfigDict(extra="allow")

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str | None = None
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    service_tier: Literal["auto", "priority", "default", "flex"] | None = Field(
        None, description="`flex`: as a background job, `default`: as a standard one; else as an interactive one."
    )


class CompletionRequest(BaseModel):
    """A completion, as OpenAI's clients ask for it. All fields but these go to the endpoint as they are."""

    model_config = ConfigDict(extra="allow")

    prompt: Any
    model: str | None = None
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    service_tier: Literal["auto", "priority", "default", "flex"] | None = None


class EmbeddingRequest(BaseModel):
    """Embeddings, as OpenAI's clients ask for them. All fields but these go to the endpoint as they are."""

    model_config = ConfigDict(extra="allow")

    input: Any
    model: str | None = None
    service_tier: Literal["auto", "priority", "default", "flex"] | None = None


class Passed(BaseModel):
    """The endpoint's whole answer, as it came."""

    model_config = ConfigDict(extra="allow")


class ModelObject(Out):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Out):
    """The models that the endpoint lists; else the one that is configured."""

    object: Literal["list"]
    data: list[ModelObject]


class Usage(Out):
    """Tokens, as the endpoint counted them."""

    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None


class JobError(Out):
    """Why a job failed, is delayed or is held."""

    code: str
    message: str


class Links(Out):
    """Where to go on."""

    self: str
    result: str
    events: str


Time = datetime | None


class JobObject(Out):
    """A job as it stands. What is not known, or does not apply, is null; times are RFC 3339, in UTC."""

    id: str
    object: Literal["job"]
    state: State
    job_class: JobClass | None = Field(alias="class", description="Null for a job that was pushed.")
    tenant: str | None = None
    created_at: Time = Field(description="When its producer made it, if that says so.")
    submitted_at: Time
    claimed_at: Time
    due_at: Time
    finished_at: Time
    attempts: int
    crashes: int
    worker: str | None
    model: str | None
    finish_reason: str | None
    usage: Usage | None
    metadata: dict[str, str] | None
    error: JobError | None
    result: str | None = None
    links: Links


class JobList(Out):
    """A page of jobs."""

    object: Literal["list"]
    data: list[JobObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def _span(value: object) -> object:
    """Return a span such as `24h` in seconds; anything else is left to the field."""
    found = SPAN.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else int(found[1]) * UNITS[found[2]]


SpanText = Annotated[str, Field(pattern=f"^{SPAN.pattern}$")]
Span = Annotated[float, BeforeValidator(_span, json_schema_input_type=SpanText), Field(ge=60, le=MOST_SECONDS)]


class Include(In):
    """What an answer has besides."""

    include: Literal["result"] | None = Field(None, description="`result`: the job object has its `result`.")


class Page(In):
    """A part of a list."""

    after: str | None = Field(None, description="The id behind which to go on: `last_id` of the page before.")
    limit: int = Field(20, ge=1, le=MOST_LISTED, description="How many at most.")


class JobsQuery(Page):
    """Which jobs."""

    state: (
        Annotated[
            list[State], BeforeValidator(_states, json_schema_input_type=Annotated[str, Field(pattern=OF_STATES)])
        ]
        | None
    ) = Field(None, description=f"One or several, separated by commas: {', '.join(STATES)}.")
    code: str | None = Field(None, description="Only those that failed, are delayed or held with this code.")


class DeadQuery(Page):
    """Which dead letters."""

    code: str | None = Field(None, description="Only those that failed with this code.")


class DeadObject(Out):
    """A dead letter: a job that will not run again unless it is replayed."""

    id: str
    object: Literal["dead_letter"]
    job_id: str | None
    code: str
    message: str
    attempts: int
    crashes: int
    died_at: Time
    payload: str | None = None
    payload_base64: str | None = Field(None, description="Instead of `payload`, where that is not UTF-8.")


class DeadList(Out):
    """A page of dead letters, the latest first."""

    object: Literal["list"]
    data: list[DeadObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CodeCount(Out):
    """How many dead letters have a code."""

    code: str
    count: int


class DeadCodes(Out):
    """Dead letters, counted by code."""

    object: Literal["list"]
    data: list[CodeCount]


class ReplayRequest(In):
    """Which dead letters: by `ids`, theirs or their jobs', or by `code`."""

    ids: list[str] | None = Field(None, max_length=MOST_LISTED, description="Up to 1,000.")
    code: str | None = Field(None, description="All that failed with this code.")


class NotReplayed(Out):
    """A dead letter that was not replayed, and why."""

    id: str
    reason: Literal["unknown", "payload_lost"]


class Replayed(Out):
    """How many dead letters are jobs again; of the others, the first 1,000."""

    object: Literal["replay"]
    replayed: int
    refused: list[NotReplayed]


class Deleted(Out):
    """Something is gone."""

    id: str
    object: Literal["dead_letter"]
    deleted: bool


class DepthObject(Out):
    """Jobs by state; `waiting` counts all classes."""

    waiting: int
    interactive: int
    standard: int
    background: int
    scheduled: int
    running: int
    delayed: int
    held: int
    dead: int
    oldest_seconds: float | None
    paused: bool


class RunningJob(Out):
    """A job that a worker runs."""

    id: str | None
    attempts: int
    since_seconds: float | None


class WorkerObject(Out):
    """A live worker. `why` says why it makes no calls.

    `lanes` is how many jobs it runs at once at most: null if it does not say, as those of the previous version.
    `busy_lanes` is how many it runs now, those in `running`: null if too many jobs run in all to be read.
    """

    name: str
    beat_seconds: float
    why: str | None
    lanes: int | None
    busy_lanes: int | None
    running: list[RunningJob]


class Sums(Out):
    """What a span of time held. Times are seconds."""

    ended: int
    failed: int
    cancelled: int
    retried: int
    prompt_tokens: int
    completion_tokens: int
    call_seconds: float
    replica_seconds: float
    busy_lane_seconds: float
    replicas_peak: int


class Stats(Out):
    """A queue, as it was a second ago at most.

    `reasons`: why nothing moves; `held_back`: why jobs wait though lanes are free; `totals`: of the last 24 hours.
    """

    object: Literal["stats"]
    queue: str
    at: datetime
    depth: DepthObject
    rate_per_second: float
    remaining_seconds: float | None
    reasons: list[str]
    held_back: str | None
    workers: list[WorkerObject]
    totals: Sums


class HistoryQuery(In):
    """Of which time, in which steps, and what to compare it with."""

    since: Annotated[
        float,
        BeforeValidator(_span, json_schema_input_type=Annotated[str, Field(pattern=f"^{SPAN.pattern}$")]),
        Field(ge=60, le=MOST_SECONDS),
    ] = Field(86_400.0, description="How far back: `24h`, `30m`, `7d`, or seconds.")
    step: int = Field(60, ge=60, le=86_400, multiple_of=60, description="Seconds of a step, in whole minutes.")
    replicas: int | None = Field(
        None, ge=0, le=1_000_000, description="Replicas that are always on, to compare with; else the most seen."
    )
    price: float | None = Field(None, ge=0, le=1e9, allow_inf_nan=False, description="Of a replica for an hour.")


class Step(Sums):
    """The sums of a step."""

    at: datetime


class Savings(Out):
    """Replicas that are always on, against what was measured. `saved` has the currency of the price."""

    replicas_always_on: int
    window_seconds: float
    always_on_replica_seconds: float
    measured_replica_seconds: float
    saved_replica_seconds: float
    price_per_replica_hour: float | None
    saved: float | None


class History(Out):
    """What has happened, by time, from when the ledger begins; and what scaling has saved in that window."""

    object: Literal["stats.history"]
    since: datetime
    until: datetime
    step_seconds: int
    series: list[Step]
    savings: Savings


class ProblemError(Out):
    """The same in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str


class ProblemObject(BaseModel):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    error: ProblemError
