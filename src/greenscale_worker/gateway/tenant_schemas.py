"""What goes in and out of the routes of tenants, as pydantic models."""

from typing import Annotated, Literal

from pydantic import Field

from greenscale_worker.gateway.schemas import In, Out
from greenscale_worker.queues import MOST_OF_A_LIMIT, MOST_WEIGHT

Weight = Annotated[int, Field(ge=1, le=MOST_WEIGHT, description="Its share of each class, beside the others'.")]
Limit = Annotated[int, Field(ge=1, le=MOST_OF_A_LIMIT)]


class TenantLimitsIn(In):
    """Weight and limits; what is left out is not limited."""

    weight: Weight = 1
    in_flight: Limit | None = Field(None, description="Jobs that were claimed and have not ended.")
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None


class TenantLimitsOut(Out):
    """Weight and limits; null: no limit."""

    weight: int
    in_flight: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None


class TenantOut(Out):
    """A tenant."""

    id: str
    object: Literal["tenant"]
    limits: TenantLimitsOut | None = Field(description="Null: its entry was deleted, and jobs of its are left.")
    waiting: int = Field(description="Jobs that nobody has claimed.")
    in_flight: int
    oldest_seconds: float | None = Field(description="For how long the oldest of those that wait has waited.")
    held_back: Literal["in_flight", "requests", "tokens"] | None = Field(description="Which limit holds those back.")
    held_seconds: float = Field(description="When that may end at the earliest; 0: not known.")


class TenantList(Out):
    """All tenants that have an entry, or jobs from the time when they had one."""

    object: Literal["list"]
    data: list[TenantOut]


class TenantDeleted(Out):
    """An entry that is no more."""

    id: str
    object: Literal["tenant.deleted"]
    deleted: bool
