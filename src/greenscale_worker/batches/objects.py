"""What is known of a batch: what was asked, and how it stands."""

import secrets
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict

from greenscale_worker.batch.raw_lines import Place
from greenscale_worker.job import Path
from greenscale_worker.queues import JobClass

Status: TypeAlias = Literal["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelled"]
Ending: TypeAlias = Literal["cancelled", "expired", "failed"]
Event: TypeAlias = Literal["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]
EVENTS: Final[Mapping[str, Event]] = {name.removeprefix("batch."): name for name in get_args(Event)}  # by status
FINAL: Final = frozenset(EVENTS)
LATEST: Final = 2**48 - 1  # ms since the epoch, of which ids count down: the newest batch is the first in order


class Frozen(BaseModel):
    """Part of an object in Files."""

    model_config = ConfigDict(frozen=True)


class Request(Frozen):
    """What was asked. Times are whole seconds since the epoch, `expires_in` and `output_expires_in` seconds."""

    id: str
    tenant: str | None = None
    created_at: int
    expires_in: int
    endpoint: Path
    input_file_id: str
    completion_window: str
    job_class: JobClass = "background"
    metadata: dict[str, str] | None = None
    output_expires_in: int | None = None

    @property
    def expires_at(self) -> int:
        """When it is to end."""
        return self.created_at + self.expires_in

    @property
    def queue_id(self) -> str:
        """The id of its job; those of its lines begin with it."""
        return self.id if self.tenant is None else f"{self.tenant}:{self.id}"

    def line_id(self, number: int) -> str:
        """Return the id of a line's job."""
        return f"{self.queue_id}.{number}"


class Fault(Frozen):
    """Why a batch has failed."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class OpenLine(NamedTuple):
    """A line whose end is in no part: its number from 1, where it is in the file, and its name."""

    number: int
    offset: int
    length: int
    custom_id: str


class Part(NamedTuple):
    """A piece of an output: its key, its bytes, and how often parts were merged to make it."""

    key: str
    size: int
    level: int = 0


class Usage(Frozen):
    """Tokens, as the endpoint counted them."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Return the sum."""
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields})


class State(Frozen):
    """How a batch stands, by one commit. Lines up to `place` are in a part of `outputs` or `errors`, or `open`.

    `number` is that of the commit, `writer` differs for each. `read_all`: no line is behind `place`. `ending` is how it
    will end, if that is before all lines were done. `checked` is the key of what is known of the lines that were
    validated. `taken` are the lines that this commit took: what Redis has of them
    is not needed. Both file ids are chosen when it begins to be `finalizing`; at the end, those without a part go.
    """

    number: int = 0
    writer: str = ""
    status: Status = "validating"
    ending: Ending | None = None
    cancelling_at: int | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    ended_at: int | None = None
    model: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    usage: Usage = Usage()
    checked: str | None = None
    place: Place = Place()
    read_all: bool = False
    open: tuple[OpenLine, ...] = ()
    taken: tuple[int, ...] = ()
    outputs: tuple[Part, ...] = ()
    errors: tuple[Part, ...] = ()
    faults: tuple[Fault, ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in FINAL

    def next(self, **changes: Any) -> "State":
        """Return the state that follows this one."""
        return self.model_copy(update={"number": self.number + 1, "writer": secrets.token_hex(8), **changes})


def new_id(now: float) -> str:
    """Return the id of a batch that is made now."""
    return f"batch_{LATEST - int(now * 1000):012x}{secrets.token_hex(6)}"


def shown(request: Request, state: State, cancelling_at: int | None = None) -> dict[str, Any]:
    """Return the batch as OpenAI's clients see it. `cancelling_at` is when somebody asked to cancel it, if so."""
    status: str = state.status
    cancelling_at = state.cancelling_at or cancelling_at
    if cancelling_at is not None and status in {"validating", "in_progress"}:
        status = "cancelling"
    ended = {f"{name}_at": state.ended_at if status == name else None for name in sorted(FINAL)}
    usage = state.usage
    return {
        "id": request.id,
        "object": "batch",
        "endpoint": request.endpoint,
        "model": state.model,
        "errors": {"object": "list", "data": [each.model_dump() for each in state.faults]} if state.faults else None,
        "input_file_id": request.input_file_id,
        "completion_window": request.completion_window,
        "status": status,
        "output_file_id": state.output_file_id if state.is_final else None,
        "error_file_id": state.error_file_id if state.is_final else None,
        "created_at": request.created_at,
        "in_progress_at": state.in_progress_at,
        "expires_at": request.expires_at,
        "finalizing_at": state.finalizing_at,
        **ended,
        "cancelling_at": cancelling_at if status in {"cancelling", "cancelled"} else None,
        "request_counts": {"total": state.total, "completed": state.completed, "failed": state.failed},
        "usage": {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.total_tokens,
        },
        "metadata": request.metadata,
    }
