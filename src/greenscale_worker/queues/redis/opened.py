"""The queue's Redis, for commands of a program's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from greenscale_worker.queues import RedisOptions
from greenscale_worker.queues.redis.connections import close, open_redis
from greenscale_worker.queues.redis.errors import mapped


@asynccontextmanager
async def redis_client(options: RedisOptions) -> AsyncIterator[Any]:
    """Yield redis-py's asynchronous client of what `options` name: a server, Sentinel or Cluster, with TLS or without.

    It connects on its first command and is closed at the end of the block. Within the block every error of Redis is
    raised as QueueUnavailableError if it cannot answer now, else as ConfigError. Raises ConfigError for a wrong URL.
    """
    client = open_redis(options)
    try:
        with mapped():
            yield client
    finally:
        await close(client)
