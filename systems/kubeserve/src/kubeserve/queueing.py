"""The queue of a deployment: one list in Redis, with names of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from greenscale_worker import ConfigError, GreenScaleError, QueueOptions, QueueUnavailableError, RedisOptions
from greenscale_worker.queues.redis.connections import close, open_redis
from greenscale_worker.queues.redis.errors import mapped

from kubeserve.errors import UnavailableError

LARGEST_BODY: Final = 4 * 1024 * 1024
RESULT_SECONDS: Final = 3600
SCAN_COUNT: Final = 1000
log = structlog.get_logger()


def queue_options(deployment_id: str) -> QueueOptions:
    """Return the options by which the API submits a deployment's predictions and its door takes them."""
    name = f"ks:{deployment_id}"
    return QueueOptions(name=name, result_prefix=f"{name}:", result_ttl=RESULT_SECONDS, backend="model")


def key_patterns(deployment_id: str) -> tuple[str, ...]:
    """Return glob patterns of every key that a deployment has in Redis."""
    name = f"ks:{deployment_id}"
    return name, f"{{{name}}}:*", f"{name}:*"


async def purge(redis: RedisOptions, deployment_id: str) -> int:
    """Delete every key of a deployment; return how many there were. Raises UnavailableError."""
    deleted = 0
    async with _opened(redis) as client:
        for pattern in key_patterns(deployment_id):
            async for key in client.scan_iter(pattern, count=SCAN_COUNT):
                deleted += await client.unlink(key)  # one at a time: in a cluster they are on several servers
    return deleted


async def ping(redis: RedisOptions) -> None:
    """Ask Redis whether it is there. Raises UnavailableError."""
    async with _opened(redis) as client:
        await client.ping()


def away(error: GreenScaleError) -> UnavailableError:
    """Say that the queue does not serve us. Why not is for the log: it may name addresses."""
    log.warning("queue_away", why=str(error))
    return UnavailableError("the queue does not answer; send it again in a moment")


@asynccontextmanager
async def _opened(redis: RedisOptions) -> AsyncIterator[Any]:
    client = open_redis(redis)
    try:
        with mapped():
            yield client
    except (QueueUnavailableError, ConfigError) as error:
        raise away(error) from error
    finally:
        await close(client)
