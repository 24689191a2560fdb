"""Which installation of the platform it is, among those that share a cluster or a Redis."""

import uuid

from sqlalchemy import insert, select

from kubeserve.database.engine import Database
from kubeserve.database.locks import lock
from kubeserve.database.tables import installation


async def name_of_installation(database: Database, namespace: str) -> str:
    """Return a UUID: that of this database, backups included, for the platform in this namespace.

    So neither a new database nor a copy that another namespace runs on takes the objects of this one for its own.
    """
    async with database.begin() as connection:
        await lock(connection, "installation")
        made = await connection.scalar(select(installation.c.id))
        if made is None:
            made = str(uuid.uuid4())
            await connection.execute(insert(installation).values(id=made))
    return str(uuid.uuid5(uuid.UUID(made), namespace))
