"""Brings a database to its newest form, as a process that starts does."""

import asyncio
import sys

from kubeserve.database import open_database


async def main() -> None:
    """Do it once."""
    database = await open_database(sys.argv[1])
    await database.migrate()
    await database.aclose()


asyncio.run(main())
