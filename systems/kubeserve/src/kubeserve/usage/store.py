"""The table of usage."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, case, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from kubeserve.database import Database
from kubeserve.database.tables import deployments, events, usage
from kubeserve.domain import Usage
from kubeserve.usage.wire import Bucket

MOST_STEPS: Final = 1500
MOST_DEPLOYMENTS: Final = 1000  # of which an owner is told: those that were asked most
MICROSECONDS: Final = 1_000_000
NAMES: Final = ("predictions", "errors", "rows", "busy", "replicas")
SUMS: Final = tuple(func.sum(usage.c[name]).label(name) for name in NAMES)


@dataclass(frozen=True, slots=True)
class Taken:
    """A bucket, and whose it is."""

    deployment_id: str
    owner_id: str
    bucket: Bucket


class UsageStore:
    """What deployments have used, also those that are gone. Times are minutes since the epoch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, taken: Iterable[Taken]) -> None:
        """Keep buckets. Of one that is there already the greater numbers hold, for they only rise."""
        rows = [
            {"deployment_id": each.deployment_id, "owner_id": each.owner_id}
            | {"minute": each.bucket.minute, "bucket": each.bucket.name, **asdict(each.bucket.sums)}
            for each in taken
        ]
        rows.sort(key=lambda row: (row["deployment_id"], row["minute"], row["bucket"]))  # two at once lock alike
        if rows:
            async with self._database.begin() as connection:
                await connection.execute(_upsert(connection), rows)

    async def steps(self, owner_id: str, deployment_id: str, begin: int, end: int, step: int) -> Sequence[Usage]:
        """Sum what a deployment used from `begin` up to `end`, by `step` minutes; steps without any are left out."""
        at = (usage.c.minute // step * step).label("at")
        mine = (usage.c.owner_id == owner_id) & (usage.c.deployment_id == deployment_id) & _within(begin, end)
        query = select(at, *SUMS).where(mine).group_by("at").order_by("at").limit(MOST_STEPS)
        async with self._database.read() as connection:
            return [_usage(row, row.at) for row in await connection.execute(query)]

    async def totals(self, owner_id: str, begin: int, end: int) -> dict[str, tuple[str | None, Usage]]:
        """Sum what each deployment of an owner used, by its id, with its name, that which was asked most first."""
        mine = (usage.c.owner_id == owner_id) & _within(begin, end)
        query = select(usage.c.deployment_id, *SUMS).where(mine).group_by(usage.c.deployment_id)
        query = query.order_by(SUMS[0].desc(), usage.c.deployment_id).limit(MOST_DEPLOYMENTS)
        async with self._database.read() as connection:
            found = {row.deployment_id: _usage(row, begin) for row in await connection.execute(query)}
            names = await _names(connection, owner_id, found)
        return {name: (names.get(name), each) for name, each in found.items()}

    async def owners(self) -> dict[str, str]:
        """Give the owner of each deployment there is, of those that are to be deleted, too."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(deployments.c.id, deployments.c.owner_id))
            return {row.id: row.owner_id for row in rows}

    async def forget(self, before: int) -> int:
        """Forget what was before a minute. Return how many rows that were."""
        async with self._database.begin() as connection:
            return (await connection.execute(delete(usage).where(usage.c.minute < before))).rowcount


def _upsert(connection: AsyncConnection) -> Any:
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(usage)
    new = {name: _greater(insert.excluded[name], usage.c[name]) for name in NAMES}
    return insert.on_conflict_do_update(index_elements=list(usage.primary_key), set_=new)


def _greater(one: ColumnElement[int], other: ColumnElement[int]) -> ColumnElement[int]:
    return case((one > other, one), else_=other)


def _within(begin: int, end: int) -> ColumnElement[bool]:
    return (usage.c.minute >= begin) & (usage.c.minute < end)


def _usage(row: Row[Any], at: int) -> Usage:
    """Make the value of a row of sums, which PostgreSQL gives as decimals."""
    predictions, errors, rows, busy, replicas = (int(getattr(row, name)) for name in NAMES)
    return Usage(at, predictions, errors, rows, busy / MICROSECONDS, replicas / MICROSECONDS)


async def _names(connection: AsyncConnection, owner_id: str, those: Iterable[str]) -> dict[str, str]:
    """Give the names of deployments; of one that is gone, that which it had at its end."""
    its = (events.c.owner_id == owner_id) & (events.c.subject == "deployment") & (events.c.action == "removed")
    gone = select(events.c.subject_id, events.c.detail).where(its, events.c.subject_id.in_(list(those)))
    found = {row.subject_id: row.detail.get("name") for row in await connection.execute(gone)}
    here = select(deployments.c.id, deployments.c.name).where(deployments.c.owner_id == owner_id)
    return found | {row.id: row.name for row in await connection.execute(here)}
