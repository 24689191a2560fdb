"""Meets the server: waits for it, and warns of settings that lose jobs."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from redis.exceptions import NoPermissionError, RedisError

from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.queues.redis_common.connections import READ_SECONDS
from greenscale_worker.queues.redis_common.errors import mapped
from greenscale_worker.telemetry import log

Answer = TypeVar("Answer")


async def patiently(ask: Callable[[], Awaitable[Answer]], *, patience: float) -> Answer:
    """Ask until the server answers, at most `patience` seconds apart. Raises ConfigError where it refuses us."""
    said = False
    while True:
        try:
            with mapped():
                async with asyncio.timeout(READ_SECONDS):
                    answer = await ask()
        except QueueUnavailableError as error:
            if not said:
                log.warning("queue_unavailable", error=str(error))
                said = True
        else:
            if said:
                log.info("queue_back")
            return answer
        await asyncio.sleep(random.uniform(0, patience))  # noqa: S311  jitter, not a secret


async def warn(client: Any) -> None:
    """Say which of the server's settings may lose jobs, as far as we may ask. Raises redis-py's errors."""
    try:
        info = await client.info()
    except NoPermissionError:
        return
    policy = info.get("maxmemory_policy")
    if policy not in {None, "noeviction"}:
        log.warning("redis_may_evict", maxmemory_policy=policy, accepted="noeviction")
    if info.get("aof_enabled") == 0:
        with suppress(RedisError):  # CONFIG is often forbidden; then nothing is known and nothing is said
            saves = (await client.config_get("save")).get("save")
            if saves == "":
                log.warning("redis_not_persistent", accepted="appendonly yes, or at least save")
