"""What goes in and out of the routes of files, as pydantic models."""

from typing import Literal

from pydantic import Field

from greenscale_worker.files.objects import LONGEST, SHORTEST
from greenscale_worker.gateway.schemas import In, Out


class FileRequest(In):
    """A form with a file. It expires 30 days after its creation, or when `expires_after` says."""

    file: str = Field(description="The file, with its name.", json_schema_extra={"format": "binary"})
    purpose: Literal["batch"] = Field(description="What it is for.")
    anchor: Literal["created_at"] | None = Field(
        None, alias="expires_after[anchor]", description="From when it counts."
    )
    seconds: int | None = Field(None, alias="expires_after[seconds]", ge=SHORTEST, le=LONGEST, description="How long.")


class FileDescription(Out):
    """A file; times are seconds since the epoch. `status` is always the same: nothing is done with it beforehand."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class FileList(Out):
    """A page of files."""

    object: Literal["list"]
    data: list[FileDescription]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(Out):
    """A file is gone."""

    id: str
    object: Literal["file"]
    deleted: bool


class FilesQuery(In):
    """Which files."""

    after: str | None = Field(None, description="The id behind which to go on: `last_id` of the page before.")
    limit: int = Field(10_000, ge=1, le=10_000, description="How many at most.")
    order: Literal["asc", "desc"] = Field("desc", description="`asc`: the oldest first.")
    purpose: str | None = Field(None, description="Only those for this.")
