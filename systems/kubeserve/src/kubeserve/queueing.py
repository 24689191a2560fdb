"""The queue of a deployment: one list in Redis, with names of its own."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from greenscale_worker import (
    ConfigError,
    QueueOptions,
    QueueUnavailableError,
    RedisOptions,
    redis_client,
)

from kubeserve.errors import UnavailableError

LARGEST_BODY: Final = 4 * 1024 * 1024
RESULT_SECONDS: Final = 3600  # an answer is kept
LARGEST_BACKLOG: Final = 256 * 1024 * 1024  # bytes of a deployment's predictions that nobody has taken up
ANSWERS_FULL: Final = "answers_full"
MOST_FAILED: Final = 10  # predictions of a deployment that are kept with their rows
WHERE: Final = re.compile(r"\[(?P<row>\d{1,9})(\.(?P<field>.{1,80}?))?\] (?P<message>.*)", re.DOTALL)
AWAY: Final = "the queue does not answer; send it again in a moment"
SCAN_COUNT: Final = 1000
SAMPLES: Final = 50
log = structlog.get_logger()


def queue_options(deployment_id: str) -> QueueOptions:
    """Return the options by which the API submits a deployment's predictions and its door takes them."""
    name = f"ks:{deployment_id}"
    return QueueOptions(
        name=name,
        result_prefix=f"{name}:",
        result_ttl=RESULT_SECONDS,
        dead_max_age=RESULT_SECONDS,
        dead_max_count=MOST_FAILED,
        backend="model",
    )


def hot_key(deployment_id: str) -> str:
    """Return the key by which doors tell how many calls by HTTP there are: a sorted set."""
    return f"{{ks:{deployment_id}}}:hot"


def answers_key(tenant: str) -> str:
    """Return the key by which the doors of a tenant count the bytes of its answers: a hash, by the minute."""
    return f"ks:user:{tenant}:answers"


def told_at(row: int | None, field: str | None, message: str) -> str:
    """Put before a message which row and field it is about, for `place_of`."""
    if row is None:
        return message
    return f"[{row}] {message}" if not field else f"[{row}.{field}] {message}"


def place_of(text: str) -> tuple[str | None, str]:
    """Return where in the request it is, as `instances.0.age`, and the message; None where it names no row."""
    found = WHERE.fullmatch(text)
    if found is None:
        return None, text
    return ".".join(("instances", found["row"], *([found["field"]] if found["field"] else []))), found["message"]


def key_patterns(deployment_id: str) -> tuple[str, ...]:
    """Return glob patterns of every key that a deployment has in Redis."""
    name = f"ks:{deployment_id}"
    return name, f"{{{name}}}:*", f"{name}:*"


async def purge(redis: RedisOptions, deployment_id: str) -> int:
    """Delete every key of a deployment; return how many there were. Raises UnavailableError."""
    deleted = 0
    async with opened(redis) as client:
        for pattern in key_patterns(deployment_id):
            async for key in client.scan_iter(pattern, count=SCAN_COUNT):
                deleted += await client.unlink(key)  # one at a time: in a cluster they are on several servers
    return deleted


async def backlog(redis: RedisOptions, deployment_id: str) -> int:
    """Return about how many bytes of memory the predictions take that nobody has taken up. Raises UnavailableError."""
    async with opened(redis) as client:
        return int(await client.memory_usage(queue_options(deployment_id).name, samples=SAMPLES) or 0)


async def ping(redis: RedisOptions) -> None:
    """Ask Redis whether it is there. Raises UnavailableError."""
    async with opened(redis) as client:
        await client.ping()


def away(error: Exception, message: str = AWAY) -> UnavailableError:
    """Say that the queue does not serve us. Why not is for the log: it may name addresses."""
    log.warning("queue_away", why=str(error))
    return UnavailableError(message)


@asynccontextmanager
async def opened(redis: RedisOptions) -> AsyncIterator[Any]:
    """Yield a client of Redis. In the block, its errors are raised as UnavailableError."""
    try:
        async with redis_client(redis) as client:
            yield client
    except (QueueUnavailableError, ConfigError) as error:
        raise away(error) from error
