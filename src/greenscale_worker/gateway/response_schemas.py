"""What goes in and out at `/v1/responses`, beside the request, as pydantic models."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from greenscale_worker.gateway.schemas import In, Out


class ResponseQuery(In):
    """How a response is to be told."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    stream: bool | None = Field(None, description="As events, from the first one on, until it has ended.")
    starting_after: int | None = Field(None, ge=0, le=2**53, description="Only events behind this `sequence_number`.")
    include: str | None = Field(None, alias="include[]", description="Taken, and adds nothing.")
    include_obfuscation: bool | None = Field(None, description="Taken, and adds nothing.")


class InputItemsQuery(In):
    """Which items of the input."""

    after: str | None = Field(None, description="The id behind which to go on: `last_id` of the page before.")
    limit: int = Field(20, ge=1, le=100, description="How many at most.")
    order: Literal["asc", "desc"] = Field("desc", description="`desc`: the last one first.")
    include: str | None = Field(None, alias="include[]", description="Taken, and adds nothing.")


class ResponseObject(BaseModel):
    """A response, with all fields of OpenAI's."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: list[dict[str, Any]]


class ItemList(Out):
    """A page of items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ResponseDeleted(Out):
    """A response is gone."""

    id: str
    object: Literal["response"]
    deleted: bool
