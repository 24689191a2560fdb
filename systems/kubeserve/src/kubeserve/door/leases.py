"""Tells the scaler of calls by HTTP, which no queue shows: `{ks:ID}:hot`, a sorted set for each deployment.

A member is one call that a door had at once with others, lately: `DOOR/0`, `DOOR/1` …; its score is when it expires, in
milliseconds since the epoch by Redis' clock. So the number of members is that of calls by HTTP.
"""

import asyncio
import secrets
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import structlog
from greenscale_worker import ConfigError, QueueUnavailableError, RedisOptions, redis_client

from kubeserve.queueing import hot_key

LASTING_SECONDS: Final = 60.0  # a member, and how long after its last call a door renews
EVERY_SECONDS: Final = 10.0
RELEASE_SECONDS: Final = 2.0
RENEW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for n = 0, ARGV[2] - 1 do
  redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1] .. '/' .. n)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3] + ARGV[4])
"""
log = structlog.get_logger()


@dataclass(slots=True)
class _Used:
    """Calls that run now, the most since the last renewal and ever, and when the last one ended."""

    running: int = 0
    most: int = 0
    written: int = 0
    ended_at: float = 0.0


class Leases:
    """Those of one door. Redis may be away: calls do not wait for it, and the next renewal makes up for it."""

    def __init__(self, redis: RedisOptions) -> None:
        self._redis = redis
        self._door = secrets.token_hex(8)
        self._used: dict[str, _Used] = {}
        self._first = asyncio.Event()

    def begin(self, deployment_id: str) -> None:
        """Count a call."""
        used = self._used.get(deployment_id)
        if used is None:
            used = self._used[deployment_id] = _Used()
            self._first.set()
        used.running += 1
        used.most = max(used.most, used.running)

    def end(self, deployment_id: str) -> None:
        """It ended."""
        used = self._used[deployment_id]
        used.running -= 1
        used.ended_at = monotonic()

    async def run(self) -> None:
        """Renew until cancelled: at the first call of a deployment, and then every ten seconds."""
        while True:
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._first.wait()
            except TimeoutError:
                pass
            self._first.clear()
            await self._renew()

    async def release(self, deployment_id: str) -> None:
        """Take back what this door wrote, for a deployment without calls: who answers now writes its own."""
        used = self._used.pop(deployment_id, None)
        if used is None or not used.written:
            return
        members = [f"{self._door}/{number}" for number in range(used.written)]
        await self._ask(RELEASE_SECONDS, "ZREM", hot_key(deployment_id), *members)

    async def _renew(self) -> None:
        now = monotonic()
        for deployment_id, used in list(self._used.items()):
            if not used.running and now - used.ended_at > LASTING_SECONDS:
                del self._used[deployment_id]
                continue
            most, used.most = max(1, used.most), used.running
            used.written = max(most, used.written)
            given = (self._door, most, round(1000 * LASTING_SECONDS), round(1000 * EVERY_SECONDS))
            if not await self._ask(EVERY_SECONDS, "EVAL", RENEW, 1, hot_key(deployment_id), *given):
                used.most = max(most, used.most)  # for the next renewal to tell
                return

    async def _ask(self, seconds: float, *command: Any) -> bool:
        """Return whether Redis is there: what it refuses for one deployment, it may do for the next."""
        try:
            async with asyncio.timeout(seconds), redis_client(self._redis) as client:
                await client.execute_command(*command)
        except (QueueUnavailableError, ConfigError, TimeoutError) as error:
            log.warning("hot_lease_failed", error=type(error).__name__)
            return isinstance(error, ConfigError)
        return True
