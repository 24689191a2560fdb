"""Limits of requests a minute, which all gateways share: GCRA in Redis, by its clock."""

import asyncio
import math
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from greenscale_worker import ConfigError, QueueUnavailableError, RedisOptions, redis_client
from redis.exceptions import RedisError

from kubeserve.errors import LimitedError
from kubeserve.queueing import away, queue_options

MINUTE: Final = 60.0
MICROSECONDS: Final = 1_000_000
MOST_AT_ONCE: Final = 16  # each takes a connection
TAKE_SECONDS: Final = 5.0  # waiting for a turn, too: behind a silent Redis, one in turn after another would wait for it
NAME: Final = "requests_per_minute"
AWAY: Final = "the limit of requests cannot be looked at, for Redis does not answer; send it again in a moment"
# The key holds when as many requests may come at once again as in a minute, in microseconds. What is no such time, or
# is later than it can be by a clock that was set back, is as none.
TAKE: Final = """
local clock = redis.call('TIME')
local now, minute = clock[1] * 1000000 + clock[2], 60000000
local each = minute / tonumber(ARGV[1])
local full = redis.pcall('GET', KEYS[1])
full = type(full) == 'string' and string.match(full, '^%d+$') and tonumber(full) or now
if full < now or full > now + minute + each then full = now end
local wait = full + each - minute - now
if wait > 0 then return {0, 0, full - now, math.ceil(wait)} end
full = full + each
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
return {1, math.floor((minute - (full - now)) / each + 0.000001), math.ceil(full - now), 0}"""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in a minute, and as many at once; `whose` they are, counted under `key`."""

    whose: str
    key: str
    per_minute: int


def of_key(key_id: str, per_minute: int) -> Limit:
    """Return the limit of an API key."""
    return Limit("key", f"ks:key:{key_id}:rate", per_minute)


def of_deployment(deployment_id: str, per_minute: int) -> Limit:
    """Return the limit of all who call a deployment."""
    return Limit("deployment", f"{{{queue_options(deployment_id).name}}}:rate", per_minute)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of a limit: `wait` is in how many seconds one more may come, 0 where one has been counted."""

    limit: Limit
    remaining: int
    reset: float
    wait: float

    @property
    def headers(self) -> dict[str, str]:
        """Return it as OpenAI's headers tell it."""
        told = {"limit": str(self.limit.per_minute), "remaining": str(self.remaining), "reset": f"{self.reset:.3f}s"}
        return {f"x-ratelimit-{name}-requests": value for name, value in told.items()}

    @property
    def refusal(self) -> LimitedError | None:
        """Return what is said where it is reached."""
        if not self.wait:
            return None
        said = f"the {self.limit.whose}'s limit is {self.limit.per_minute} requests a minute"
        text = f"{NAME}: {said}; try again in {math.ceil(self.wait)} s"
        return LimitedError(text, code="rate_limit_exceeded", retry_after=self.wait)


class Limits:
    """Counts requests. Its connection is opened by the first one that has a limit."""

    def __init__(self, redis: RedisOptions) -> None:
        self._redis = redis
        self._opened = AsyncExitStack()
        self._script: Any = None
        self._opening = asyncio.Lock()
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def take(self, limit: Limit) -> Standing:
        """Count a request, unless the limit is reached. Raises UnavailableError while Redis does not answer."""
        try:
            async with self._opening:
                if self._script is None:
                    client = await self._opened.enter_async_context(redis_client(self._redis))
                    self._script = client.register_script(TAKE)
            async with asyncio.timeout(TAKE_SECONDS), self._turns:
                _, remaining, reset, wait = await self._script(keys=[limit.key], args=[limit.per_minute])
        except (RedisError, OSError, TimeoutError, QueueUnavailableError, ConfigError) as error:
            raise away(error, AWAY) from error
        return Standing(limit, remaining, reset / MICROSECONDS, wait / MICROSECONDS)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._opened.aclose()
