"""Writes inside a transaction, says so, and waits there to be killed."""

import asyncio
import sys

from sqlalchemy import insert, update

from kubeserve.database import open_database
from kubeserve.database.tables import leases


async def main() -> None:
    """Never end."""
    database = await open_database(sys.argv[1])
    async with database.begin() as connection:
        await connection.execute(update(leases).values(holder="changed"))
        await connection.execute(insert(leases).values(name="half", holder="", expires=0))
        sys.stdout.write("holding\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


asyncio.run(main())
