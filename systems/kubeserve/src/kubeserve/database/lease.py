"""A lease: at most one process at a time does what must be done by one, such as reconciling."""

import time
from time import monotonic
from typing import Any

from sqlalchemy import ColumnElement, Double, cast, delete, extract, func, literal, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from kubeserve.database.engine import Database
from kubeserve.database.tables import leases


class Lease:
    """The lease `name`, for the process `holder`: held from `take` for `seconds`, by the database's clock."""

    def __init__(self, database: Database, name: str, holder: str, seconds: float) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._seconds = seconds
        self._ends: float | None = None  # by this machine's clock: not later than by the database's

    @property
    def lapsed(self) -> bool:
        """Whether it was held here and was not renewed in time, as by a process that stalled: others may hold it."""
        return self._ends is not None and monotonic() > self._ends

    async def take(self) -> bool:
        """Take the lease, or renew it. False while another one holds it."""
        began = monotonic()
        held = await self._take()
        self._ends = began + self._seconds if held else None
        return held

    async def _take(self) -> bool:
        try:
            async with self._database.begin() as connection:
                ends = _clock(connection) + self._seconds
                mine = update(leases).where(leases.c.name == self._name)
                over = or_(leases.c.expires <= _clock(connection), leases.c.expires > ends)  # the clock was set back
                mine = mine.where(or_(leases.c.holder == self._holder, over))
                if (await connection.execute(mine.values(holder=self._holder, expires=ends))).rowcount:
                    return True
                if (await connection.execute(select(leases.c.name).where(leases.c.name == self._name))).first():
                    return False
                row: dict[str, Any] = {"name": self._name, "holder": self._holder, "expires": ends}
                await connection.execute(leases.insert().values(row))
                return True
        except IntegrityError:  # another one has just made the row
            return False

    async def give_back(self) -> None:
        """Let others take it at once. Nothing happens if another one holds it."""
        self._ends = None
        async with self._database.begin() as connection:
            held = (leases.c.name == self._name) & (leases.c.holder == self._holder)
            await connection.execute(delete(leases).where(held))


def _clock(connection: AsyncConnection) -> ColumnElement[float]:
    """Give the time of the database; that of SQLite is this machine's."""
    if connection.dialect.name == "postgresql":
        return cast(extract("epoch", func.clock_timestamp()), Double)
    return literal(time.time())
