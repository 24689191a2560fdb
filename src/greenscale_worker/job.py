"""Jobs, their outcomes, and the format of producers."""

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from greenscale_worker.errors import BadInputError, Prior
from greenscale_worker.wire_json import fault_of, kind_of, read, read_leniently, write

MAX_DEPTH: Final = 64
LARGEST_READ: Final = 8 * 1024 * 1024  # whatever the settings say
JOB_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
JOB_ID_ACCEPTED: Final = "1 to 128 of letters, digits and . _ : - are accepted"
DEADLINE_ACCEPTED: Final = "a time with its offset from UTC is expected, such as 2030-01-02T03:04:05Z (RFC 3339)"
TRACEPARENT: Final = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
OBJECT_ACCEPTED: Final = 'a JSON object is expected, such as {"job_id": "test-001", "prompt": "What is 2+2?"}'
ENVELOPE: Final = ("job_id", "metadata", "deadline", "traceparent", "created_at")
OPTIONS: Final = frozenset(
    {"tenant", "path", "keep", "tokens", "notify"}
)  # the rest of the envelope, which most jobs leave out
TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
Path: TypeAlias = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
Keep: TypeAlias = Literal["text", "body"]
PATHS: Final[tuple[Path, ...]] = get_args(Path)
CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH = PATHS
KEEPS: Final[tuple[Keep, ...]] = get_args(Keep)
DRAIN: Final = "drain"  # the reason of a release at the end of a drain; as in release.lua
SNOOZED: Final = "snoozed"  # the reason of a release that a handler asked for; as in release.lua
CHAT: Final = "/chat/completions"
BATCH_LINE: Final = frozenset({"url", "body", "method", "custom_id"})


def is_job_id(text: object) -> bool:
    """Return whether a job can have this id."""
    return isinstance(text, str) and JOB_ID.fullmatch(text) is not None


def check_job_id(text: object) -> None:
    """Raise BadInputError unless a job can have this id."""
    if not is_job_id(text):
        raise BadInputError("bad_job_id", f"{text!r} is no job id; {JOB_ID_ACCEPTED}")


class Job(BaseModel):
    """One decoded job. `payload` is what the producer wrote, less the other fields here.

    `verbatim`: the payload is the whole request; only a model is added, where it names none. `path` is that of the
    endpoint's API, `keep` what is stored of the answer beside its text, `tokens` whether its text is shown as it comes,
    `notify` whether its end leaves a notice.
    Raises ValidationError for what the wire contract does not accept, such as a bad `job_id`.
    """

    __slots__ = ("_attempt", "_ends", "_show")  # of the current run; pydantic's private fields would cost 2 µs a job
    model_config = ConfigDict(frozen=True)

    job_id: Annotated[str, StringConstraints(strict=True, pattern=f"^{JOB_ID.pattern}$")]
    metadata: Annotated[dict[str, str] | None, Field(strict=True)] = None
    deadline: AwareDatetime | None = None
    traceparent: Annotated[str, StringConstraints(strict=True, pattern=TRACEPARENT)] | None = None
    created_at: AwareDatetime | None = None
    payload: dict[str, Any] = {}
    verbatim: bool = False
    tenant: str | None = None
    path: Path = CHAT_PATH
    keep: Keep = "text"
    tokens: Annotated[bool, Field(strict=True)] = False
    notify: Annotated[bool, Field(strict=True)] = False

    @property
    def attempt(self) -> int:
        """Number of this run: 1, and one more for each call that has failed before, as in the job's record.

        Runs ended by a crash or a drain are not counted: even at 1, part of the work may have been done.
        """
        return int(getattr(self, "_attempt", 1))

    @property
    def remaining(self) -> float:
        """Seconds until this call is cancelled, by the time limit or the deadline; infinite outside a worker."""
        return float(getattr(self, "_ends", math.inf)) - monotonic()

    def emit(self, text: str) -> None:
        """Show a piece of the answer, at once and from any thread, to those who follow the job.

        Pieces are a view of this run: the answer is what the run returns. Without `tokens`, and outside a worker, this
        does nothing. Raises TypeError for anything but a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"text: a string is expected, not {type(text).__name__}")
        show = getattr(self, "_show", None)
        if show is not None:
            show(text)


def begin(job: Job, *, attempt: int, ends: float) -> None:
    """Set the current run of a job, which is otherwise frozen; `ends` is by the monotonic clock."""
    object.__setattr__(job, "_attempt", attempt)
    object.__setattr__(job, "_ends", ends)


def show_by(job: Job, show: Callable[[str], None]) -> None:
    """Let `show` be called with the pieces that the current run of a job emits."""
    object.__setattr__(job, "_show", show)


TIME: Final = TypeAdapter(datetime)
DEADLINE: Final = TypeAdapter(AwareDatetime)


def deadline_of(text: str) -> datetime | None:
    """Parse a deadline. Return None if it is not valid."""
    try:
        return DEADLINE.validate_python(text)
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one answer cost, as the endpoint counted them; None where it did not say.

    Raises ValueError for anything but an integer from 0 up, or None.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None

    def __post_init__(self) -> None:
        for count in (self.prompt_tokens, self.completion_tokens, self.total_tokens):
            if count is not None and (type(count) is not int or count < 0):
                raise ValueError(f"tokens: a count is expected, not {count!r}")


@dataclass(frozen=True, slots=True)
class Rates:
    """What an endpoint said of the rate it allows: its limits, and what is left of them; None: nothing usable."""

    limit_requests: float | None = None
    remaining_requests: float | None = None
    limit_tokens: float | None = None
    remaining_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A backend's answer: the text that the client gets, and what is known about it.

    `body` is the endpoint's full answer, JSON as it came, empty where a backend has none. Raises TypeError where
    a field has the wrong type. `rates` is what the endpoint said of the rate it allows.
    """

    text: str
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage = Usage()
    body: bytes = b""
    rates: Rates | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"text: a string is expected, not {type(self.text).__name__}")
        for value in (self.model, self.finish_reason):
            if value is not None and not isinstance(value, str):
                raise TypeError("model, finish_reason: a string or None is expected")
        if not isinstance(self.usage, Usage):
            raise TypeError(f"usage: Usage is expected, not {type(self.usage).__name__}")
        if not isinstance(self.rates, Rates | None):
            raise TypeError(f"rates: Rates or None is expected, not {type(self.rates).__name__}")


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The job has an answer: result and record are written."""

    output: Output


@dataclass(frozen=True, slots=True)
class Failed:
    """The job has failed for good and becomes a dead letter. `code` is one word for machines, `usage` its cost."""

    code: str
    message: str
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Released:
    """The job was not finished and goes back to the queue, to be run `delay` seconds from now.

    With the reason SNOOZED, its crashes are counted from 0 again.
    """

    reason: str
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A call has failed, and the queue decides whether to retry it (docs/blame.md).

    `used` is how much of a try it uses up, `max_tries` how many tries make the job a dead letter, `delay` the least
    seconds until its next call. `prior` and `fingerprint` are those of `TransientError`. For `hold` seconds the
    endpoint wants no call of any worker, and `rates` is what it said of the rate it allows.
    """

    code: str
    message: str
    prior: Prior = "unknown"
    fingerprint: str = ""
    used: float = 1.0
    max_tries: float = 5.0
    delay: float = 0.0
    hold: float = 0.0
    rates: Rates | None = None


Outcome = Succeeded | Failed | Released


def decode(raw: bytes, *, max_bytes: int, default_job_id: str | None = None) -> Job:
    """Decode one payload as a producer wrote it (docs/wire-contract.md).

    `default_job_id` is the id of a payload that names none; it is checked like any other.
    Raises BadInputError with code `too_large`, `not_json`, `not_an_object`, `bad_job_id` or `bad_field`.
    """
    if len(raw) > max_bytes:
        job_id = _id_of(raw) if len(raw) <= LARGEST_READ else None
        fault = f"{len(raw)} bytes; at most {max_bytes} are accepted (GREENSCALE_MAX_PAYLOAD_BYTES)"
        raise BadInputError("too_large", fault, job_id=job_id or _usable(default_job_id))
    try:
        data = read(raw)
    except ValueError as error:
        fault = f"not JSON: {fault_of(error, raw)}; {OBJECT_ACCEPTED}"
        raise BadInputError("not_json", fault, job_id=_id_of(raw) or _usable(default_job_id)) from None
    if not isinstance(data, dict):
        fault = f"{kind_of(data)}; {OBJECT_ACCEPTED}"
        raise BadInputError("not_an_object", fault, job_id=_usable(default_job_id))
    job_id = data.get("job_id")
    if job_id is None and default_job_id is not None:
        job_id = data["job_id"] = default_job_id
    if not isinstance(job_id, str) or not JOB_ID.fullmatch(job_id):
        fault = "is missing" if job_id is None else "is not usable"
        raise BadInputError("bad_job_id", f"job_id {fault}; {JOB_ID_ACCEPTED}")
    _check_shape(data, raw, job_id)
    envelope, data = _opened(data, job_id)
    try:
        return Job(**envelope, payload=data)
    except ValidationError:
        return _mended(envelope, data)


def path_of(url: object) -> Path | None:
    """Return the path that the `url` of a line of OpenAI's Batch names, with or without a host; None if it is none."""
    if not isinstance(url, str):
        return None
    url = url.rstrip("/")  # of the paths, chat comes first, as it ends like another
    return next((path for path in PATHS if url.endswith(path.removeprefix("/v1"))), None)


def _opened(data: dict[str, Any], job_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the envelope and the payload. Raises BadInputError `bad_field`."""
    deadline = data.get("deadline")
    if deadline is not None and not isinstance(deadline, str):
        raise BadInputError("bad_field", f"deadline: {DEADLINE_ACCEPTED}", job_id=job_id)
    envelope: dict[str, Any] = {name: data.pop(name) for name in ENVELOPE if name in data}
    if not OPTIONS.isdisjoint(data):
        envelope |= _options(data, job_id)
    if "body" in data and (path := _path_of_line(data)) is not None:
        if envelope.setdefault("path", path) != path:
            raise BadInputError("bad_field", f"path: {path} or none is expected beside this url", job_id=job_id)
        data, envelope["verbatim"] = data["body"], True
    if "tokens" in envelope and envelope.get("path") == EMBEDDINGS_PATH:
        raise BadInputError("bad_field", f"tokens: {EMBEDDINGS_PATH} has none; false is expected", job_id=job_id)
    return envelope, data


def _path_of_line(data: dict[str, Any]) -> Path | None:
    """Return the path that a line of OpenAI's Batch names by its `url`; None if this is no such line."""
    is_line = data.keys() <= BATCH_LINE and isinstance(data["body"], dict)
    return path_of(data.get("url")) if is_line else None


def _options(data: dict[str, Any], job_id: str) -> dict[str, Any]:
    """Take the rest of the envelope out of a payload. A `tenant` is only accounted: a wrong one is left out."""
    given = {name: value for name in OPTIONS if (value := data.pop(name, None)) is not None}
    tenant = given.pop("tenant", None)
    for name, accepted in (("path", PATHS), ("keep", KEEPS)):
        if name in given and given[name] not in accepted:
            raise BadInputError("bad_field", f"{name}: {' or '.join(accepted)} is expected", job_id=job_id)
    for name in ("tokens", "notify"):
        if not isinstance(given.get(name, False), bool):
            raise BadInputError("bad_field", f"{name}: true or false is expected", job_id=job_id)
    if not given.get("tokens", True):
        del given["tokens"]
    return {**given, "tenant": tenant} if isinstance(tenant, str) and TENANT.fullmatch(tenant) else given


def _mended(envelope: dict[str, Any], payload: dict[str, Any]) -> Job:
    """Convert or drop bad fields that are only echoed or passed on: they must not fail a job."""
    mended = dict(envelope)
    created_at = mended.pop("created_at", None)
    with suppress(ValidationError):
        time = TIME.validate_python(created_at)
        mended["created_at"] = time if time.tzinfo else time.replace(tzinfo=UTC)
    metadata = mended.pop("metadata", None)
    if isinstance(metadata, dict):
        mended["metadata"] = {
            key: value if isinstance(value, str) else write(value).decode() for key, value in metadata.items()
        }
    traceparent = mended.pop("traceparent", None)
    if isinstance(traceparent, str) and re.fullmatch(TRACEPARENT, traceparent):
        mended["traceparent"] = traceparent
    try:
        return Job(**mended, payload=payload)
    except ValidationError:  # only the deadline can be wrong by now
        raise BadInputError("bad_field", f"deadline: {DEADLINE_ACCEPTED}", job_id=mended["job_id"]) from None


def _id_of(raw: bytes) -> str | None:
    """Return the id of a refused payload, None if it has none. The payload need not be strict JSON."""
    try:
        data = read_leniently(raw)
    except ValueError:
        return None
    return _usable(data.get("job_id")) if isinstance(data, dict) else None


def _usable(job_id: object) -> str | None:
    return job_id if isinstance(job_id, str) and JOB_ID.fullmatch(job_id) else None


def _check_shape(data: dict[str, Any], raw: bytes, job_id: str) -> None:
    """Refuse deep nesting and NUL characters. Walks the data only where the bytes do not rule them out."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH and b"\\u0000" not in raw:
        return
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.keys())
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif isinstance(value, str) and "\0" in value:
                raise BadInputError("bad_field", "a string holds a NUL character", job_id=job_id)
        if not inner:
            return
        level = inner
    raise BadInputError("bad_field", f"nested more than {MAX_DEPTH} levels deep", job_id=job_id)
