"""What happened to the things of owners, append-only.

One thing's events have rising ids in the order in which they were committed: a transaction changes or locks the
thing's row before it writes the event.
"""

from typing import Any, Final, Protocol

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from kubeserve.database.tables import events
from kubeserve.database.values import now
from kubeserve.domain import Event

LARGEST_PAGE: Final = 1000
LARGEST_ID: Final = 2**63 - 1
PLATFORM: Final = "platform"  # the actor of what nobody asked for just now


class Owned(Protocol):
    """A thing that things happen to."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def owner_id(self) -> str:
        """Whose it is."""


async def write_event(
    connection: AsyncConnection, action: str, thing: Owned, detail: dict[str, Any], actor: str | None = None
) -> None:
    """Write that `action`, such as `version.created`, was done to the thing: by its owner unless told otherwise."""
    subject, _, verb = action.partition(".")
    row = {"at": now(), "owner_id": thing.owner_id, "actor": actor or thing.owner_id, "subject": subject}
    await connection.execute(insert(events).values(**row, subject_id=thing.id, action=verb, detail=detail))


async def read_events(
    connection: AsyncConnection, owner_id: str, subject_id: str, after: int, limit: int
) -> list[Event]:
    """Read at most `limit` events, 1 to 1000, of the owner's thing after the one with the id `after`, oldest first."""
    after, limit = max(0, min(after, LARGEST_ID)), max(1, min(limit, LARGEST_PAGE))
    mine = (events.c.owner_id == owner_id) & (events.c.subject_id == subject_id) & (events.c.id > after)
    rows = await connection.execute(select(events).where(mine).order_by(events.c.id).limit(limit))
    return [Event(**row) for row in rows.mappings()]
