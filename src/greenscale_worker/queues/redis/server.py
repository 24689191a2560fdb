"""Waits for the server, checks that it can keep a queue, and warns of settings that lose jobs."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError, ResponseError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random

from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.queues.redis.connections import READ_SECONDS
from greenscale_worker.queues.redis.errors import LEAST, NEEDED, mapped
from greenscale_worker.telemetry import log

Answer = TypeVar("Answer")

CLOSED: Final = re.compile(r"closed by server|reset by peer|no answer in time|Timeout reading")
HINT: Final = "is it Redis? One with TLS wants REDIS_URL=rediss://…"
VERSION: Final = re.compile(r"(\d+)\.(\d+)")


async def patiently(ask: Callable[[], Awaitable[Answer]], *, patience: float) -> Answer:
    """Call `ask` until the server answers, at most `patience` seconds apart. Raises ConfigError if it refuses us."""

    async def once() -> Answer:
        with mapped():
            async with asyncio.timeout(READ_SECONDS):
                return await ask()

    def say(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            error = str(state.outcome.exception())
            log.warning("queue_unavailable", error=error, **({"hint": HINT} if CLOSED.search(error) else {}))

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(QueueUnavailableError), wait=wait_random(0, patience), before_sleep=say
    )
    answer: Answer = await retrying(once)
    if retrying.statistics["attempt_number"] > 1:
        log.info("queue_back")
    return answer


async def meet(client: Any) -> None:
    """Refuse a server that is too old, and log settings that may lose jobs, if INFO is permitted.

    Raises redis-py's errors, and ConfigError.
    """
    try:
        info = await client.info()
    except ResponseError:
        return
    version = str(info.get("redis_version", ""))
    found = VERSION.match(version)
    if found is not None and (int(found[1]), int(found[2])) < LEAST:
        raise ConfigError(f"{NEEDED} (found {version})")
    policy = info.get("maxmemory_policy")
    if policy not in {None, "noeviction"}:
        log.warning("redis_may_evict", maxmemory_policy=policy, accepted="noeviction")
    if info.get("aof_enabled") == 0:
        with suppress(RedisError):  # CONFIG is often forbidden
            saves = (await client.config_get("save")).get("save")
            if saves == "":
                log.warning("redis_not_persistent", accepted="appendonly yes, or at least save")
