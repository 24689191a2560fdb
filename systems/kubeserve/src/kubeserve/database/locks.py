"""Locks that last until the transaction ends. In SQLite a transaction that may write is alone anyway."""

import hashlib

from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import AsyncConnection


async def lock(connection: AsyncConnection, name: str) -> None:
    """Wait until no other transaction holds the lock of this name, and hold it."""
    await connection.run_sync(lock_sync, name)


def lock_sync(connection: Connection, name: str) -> None:
    """Do as `lock` does, for a connection that is not asynchronous."""
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(f"kubeserve {name}".encode()).digest()[:8], signed=True)
        connection.execute(select(func.pg_advisory_xact_lock(number)))
