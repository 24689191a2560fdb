"""What the answers to each tenant's predictions take in Redis, where each is kept for an hour.

All doors of a tenant count together, in `ks:user:TENANT:answers`: a hash of bytes by the minute of Redis' clock. A door
admits by the sum that it has read and what it has admitted since, and asks once a second, or as soon as it has admitted
1/64 of the bound. Doors may exceed the bound by the answers that they admit before they have asked. While Redis is away
each counts for itself.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import structlog
from greenscale_worker import RedisOptions
from redis.exceptions import ResponseError

from kubeserve.errors import UnavailableError
from kubeserve.queueing import RESULT_SECONDS, answers_key, opened

EVERY_SECONDS: Final = 1.0
PARTS: Final = 64  # of the bound
PAUSE_SECONDS: Final = 10.0  # while Redis cannot be asked
IDLE_SECONDS: Final = 60.0  # after which a sum is read again without new answers
ADD: Final = """
local minute, sum = math.floor(redis.call('TIME')[1] / 60), 0
if ARGV[1] ~= '0' then redis.call('HINCRBY', KEYS[1], minute, ARGV[1]) end
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  local at = tonumber(found[i])
  if at and math.abs(minute - at) <= ARGV[2] / 60 then  -- of another server's clock, too
    sum = sum + (tonumber(found[i + 1]) or 0)
  else
    redis.call('HDEL', KEYS[1], found[i])
  end
end
redis.call('EXPIRE', KEYS[1], 2 * ARGV[2])
return sum"""
log = structlog.get_logger()


@dataclass(slots=True)
class _Sum:
    """Bytes of the last hour as Redis told them, those that it has not been told of, and when it was asked."""

    read: int = 0
    added: int = 0
    asked_at: float = float("-inf")


class Kept:
    """Admits answers of a tenant as long as those of the last hour have at most `most` bytes together."""

    def __init__(self, most: int, redis: RedisOptions) -> None:
        self._most = most
        self._redis = redis
        self._sums: dict[str, _Sum] = {}
        self._many = asyncio.Event()

    def admit(self, tenant: str, size: int) -> bool:
        """Count an answer, unless it is too much."""
        found = self._sums.setdefault(tenant, _Sum())
        if found.read + found.added + size > self._most:
            return False
        found.added += size
        if found.added - size <= self._most / PARTS < found.added:  # no more than once until Redis has been told
            self._many.set()
        return True

    async def run(self) -> None:
        """Count together with other doors, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._many.wait()
            self._many.clear()
            try:
                await self.sync()
            except UnavailableError:
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception:
                log.exception("answers_not_counted")

    async def sync(self) -> None:
        """Tell Redis what was admitted, and read the sums of all doors. Raises UnavailableError."""
        now = monotonic()
        due = [(tenant, found) for tenant, found in self._sums.items() if found.added or _is_old(found, now)]
        if not due:
            return
        async with opened(self._redis) as client:
            for tenant, found in due:
                found.asked_at = now
                await self._sync(client, tenant, found)
                if not found.read + found.added:
                    self._sums.pop(tenant)

    async def _sync(self, client: Any, tenant: str, found: _Sum) -> None:
        added = found.added
        try:
            found.read = await client.eval(ADD, 1, answers_key(tenant), added, RESULT_SECONDS)
        except ResponseError as error:  # the key is of another type: the other tenants go on
            log.warning("answers_not_counted", tenant=tenant, why=str(error))
        else:
            found.added -= added


def _is_old(found: _Sum, now: float) -> bool:
    return now - found.asked_at > IDLE_SECONDS
