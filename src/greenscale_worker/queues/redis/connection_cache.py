"""Sends commands on connections kept open, at half the cost of going through a client's pool each time."""

from typing import Any

import hiredis
from redis.exceptions import ResponseError

from greenscale_worker.queues.redis.redis_py import connection_of


class ConnectionCache:
    """The connections of a client with one server (single, or behind Sentinel); as many as are busy at once."""

    def __init__(self, client: Any) -> None:
        self._pool = client.connection_pool
        self._free: list[Any] = []

    async def execute_command(self, *words: Any) -> Any:
        """Send one command and return its answer. Raises redis-py's errors; may be cancelled at any time."""
        connection = await self._take()
        try:
            await connection.send_packed_command([hiredis.pack_command(words)], check_health=False)
            answer = await connection.read_response()
        except ResponseError:  # an answer, too: the connection is still usable
            self._free.append(connection)
            raise
        except BaseException:
            await self._drop(connection)
            raise
        self._free.append(connection)
        return answer

    async def _take(self) -> Any:
        """Return an open connection, or a new one: servers close connections idle for long, which is no outage."""
        while self._free:
            connection = self._free.pop()
            if not connection.stale:
                return connection
            await self._drop(connection)
        return await connection_of(self._pool)

    async def drop_idle(self) -> None:
        """Close connections not in use: if one was dead, each of the others would cost a timeout."""
        while self._free:
            await self._drop(self._free.pop())
        await self._pool.disconnect(inuse_connections=False)

    async def _drop(self, connection: Any) -> None:
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)
