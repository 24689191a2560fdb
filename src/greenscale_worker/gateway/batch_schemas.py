"""What goes in and out of the routes of batches, as pydantic models."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from greenscale_worker.files.objects import LONGEST, SHORTEST
from greenscale_worker.gateway.schemas import SPAN, UNITS, In, Out
from greenscale_worker.job import Path

SHORTEST_WINDOW: Final = 15 * 60
LONGEST_WINDOW: Final = 7 * 86_400


def seconds_of(window: str) -> int:
    """Return how long a completion window is. Raises ValueError for one that is not accepted."""
    found = SPAN.fullmatch(window)
    seconds = int(found[1]) * UNITS[found[2]] if found else 0
    if not SHORTEST_WINDOW <= seconds <= LONGEST_WINDOW:
        raise ValueError("15m to 7d are accepted, such as 24h")
    return seconds


def _window(value: str) -> str:
    seconds_of(value)
    return value


class OutputExpiry(In):
    """When the files of a batch's output expire, after their creation."""

    anchor: Literal["created_at"] = Field(description="From when it counts: the creation of the file.")
    seconds: int = Field(ge=SHORTEST, le=LONGEST, description="How long.")


class BatchRequest(In):
    """A batch: an uploaded file of lines, and when they have to be done."""

    input_file_id: str = Field(description="The file, uploaded with the purpose `batch`.")
    endpoint: Path = Field(description="The path of all its lines.")
    completion_window: Annotated[str, AfterValidator(_window), Field(pattern=f"^{SPAN.pattern}$")] = Field(
        description="When it expires: `24h`, and anything from `15m` to `7d`."
    )
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = Field(None, description="Texts that the batch keeps: 16, with names of 64 and values of 512 characters.")
    output_expires_after: OutputExpiry | None = Field(None, description="When its output expires; else after 30 days.")
    job_class: Literal["background", "standard"] = Field(
        "background", alias="class", description="Which jobs its lines wait for."
    )


class BatchFault(Out):
    """Why a batch has failed."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchFaults(Out):
    """Why a batch has failed: the first 50 reasons."""

    object: Literal["list"]
    data: list[BatchFault]


class BatchCounts(Out):
    """Lines of a batch; `total` is 0 until they were checked."""

    total: int
    completed: int
    failed: int


class InputDetails(Out):
    """Of the tokens of questions."""

    cached_tokens: int


class OutputDetails(Out):
    """Of the tokens of answers."""

    reasoning_tokens: int


class BatchUsage(Out):
    """Tokens, as the endpoint counted them."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class BatchObject(Out):
    """A batch; times are seconds since the epoch. `model` is that of all lines, if they name the same."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchFaults | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class BatchList(Out):
    """A page of batches."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchesQuery(In):
    """Which batches."""

    after: str | None = Field(None, description="The id behind which to go on: `last_id` of the page before.")
    limit: int = Field(20, ge=1, le=100, description="How many at most.")
