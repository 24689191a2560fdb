"""What the door counts of each deployment's usage, and how that comes into Redis."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import structlog
from greenscale_worker import RedisOptions
from redis.exceptions import ResponseError

from kubeserve.errors import UnavailableError
from kubeserve.queueing import opened
from kubeserve.usage.wire import LATE_MINUTES, MINUTE, Bucket, Sums, key_of, written

WRITE_SECONDS: Final = 2.0
LAST_SECONDS: Final = 3.0  # for which the end of a door waits for Redis
KEPT_SECONDS: Final = 2 * LATE_MINUTES * MINUTE  # in Redis, after the last count
MOST_FIELDS: Final = 10_000  # of a deployment in Redis, while nobody takes them
MICROSECONDS: Final = 1_000_000
WRITE: Final = """
local time = redis.call('TIME')
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    local minute = tonumber(string.match(field, '^%d+')) or 0
    if minute < time[1] / 60 - tonumber(ARGV[2]) then redis.call('HDEL', KEYS[1], field) end
  end
  if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[1]) then return redis.error_reply('FULL of what nobody takes') end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {tonumber(time[1]), tonumber(time[2])}"""
log = structlog.get_logger()


class Meter:
    """Counts the usage of one deployment, by the minute of `clock`, in seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[int, Bucket] = {}
        self._written: dict[str, Sums] = {}  # by bucket
        self._standing = 0
        self._settled_at = time.monotonic()

    def called(self, rows: int, *, failed: bool) -> None:
        """Count a call that has ended."""
        sums = self._now()
        sums.predictions += 1
        sums.errors += failed
        sums.rows += rows

    def worked(self, seconds: float) -> None:
        """Count the time that a replica took for rows."""
        self._now().busy += round(seconds * MICROSECONDS)

    def stands(self, change: int) -> None:
        """Note that so many replicas more stand, or fewer."""
        self.settle()
        self._standing += change

    def settle(self) -> None:
        """Count the time for which replicas have stood since this was done before."""
        now = time.monotonic()
        if self._standing:
            self._now().replicas += round(self._standing * (now - self._settled_at) * MICROSECONDS)
        self._settled_at = now

    def unwritten(self) -> list[Bucket]:
        """Return buckets as they are, but those that were written so; of too many the oldest are dropped."""
        for minute in sorted(self._buckets)[:-LATE_MINUTES]:
            self._drop(minute)
        buckets = [replace(each, sums=replace(each.sums)) for each in self._buckets.values()]
        return [each for each in buckets if self._written.get(each.name) != each.sums]

    def wrote(self, buckets: list[Bucket]) -> None:
        """Note that these are in Redis. Of the minutes that are over, what is there whole is forgotten."""
        self._written |= {each.name: each.sums for each in buckets}
        now = int(self._clock() // MINUTE)
        for minute, bucket in list(self._buckets.items()):
            if minute != now and self._written.get(bucket.name) == bucket.sums:
                self._drop(minute)

    def _drop(self, minute: int) -> None:
        self._written.pop(self._buckets.pop(minute).name, None)

    def _now(self) -> Sums:
        minute = int(self._clock() // MINUTE)
        if minute not in self._buckets:
            self._buckets[minute] = Bucket(minute, secrets.token_hex(8), Sums())
        return self._buckets[minute].sums


class Meters:
    """The meters of a door's deployments. Their clock is that of Redis, as soon as it has told it."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()
        self._meters: dict[str, Meter] = {}
        self._ended = set[str]()

    def of(self, deployment_id: str) -> Meter:
        """Return the meter of a deployment."""
        if deployment_id not in self._meters:
            self._meters[deployment_id] = Meter(self._clock)
        self._ended.discard(deployment_id)
        return self._meters[deployment_id]

    def end(self, deployment_id: str) -> None:
        """Forget a meter as soon as all it has counted is in Redis."""
        self._ended.add(deployment_id)

    def unwritten(self) -> dict[str, list[Bucket]]:
        """Return what is to be written, by deployment."""
        found: dict[str, list[Bucket]] = {}
        for name, meter in list(self._meters.items()):
            meter.settle()
            if buckets := meter.unwritten():
                found[name] = buckets
            elif name in self._ended:
                del self._meters[name]
                self._ended.discard(name)
        return found

    def wrote(self, deployment_id: str, buckets: list[Bucket], now: float) -> None:
        """Note that these are in Redis, whose clock said `now`."""
        self._ahead = now - time.monotonic()
        self._meters[deployment_id].wrote(buckets)

    def _clock(self) -> float:
        return time.monotonic() + self._ahead


class UsageWriter:
    """Writes what meters have counted into Redis, now and then."""

    def __init__(self, meters: Meters, redis: RedisOptions) -> None:
        self._meters = meters
        self._redis = redis
        self._refused: dict[str, str] = {}
        self._alone = asyncio.Lock()

    async def run(self) -> None:
        """Write until cancelled. While Redis is away it is counted on, for a day at most."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            try:
                await self.write()
            except UnavailableError:
                log.warning("usage_waits", retry_seconds=WRITE_SECONDS)
            except Exception:
                log.exception("usage_failed")

    async def finish(self) -> None:
        """Write the last counts, where Redis answers soon."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self.write()
        except (UnavailableError, TimeoutError):
            log.warning("usage_lost", deployments=len(self._meters.unwritten()))

    async def write(self) -> None:
        """Write what is new. Raises UnavailableError."""
        async with self._alone:
            if not (unwritten := self._meters.unwritten()):
                return
            async with opened(self._redis) as client:
                for deployment_id, buckets in unwritten.items():
                    await self._write(client, deployment_id, buckets)

    async def _write(self, client: Any, deployment_id: str, buckets: list[Bucket]) -> None:
        words = [word for bucket in buckets for word in written(bucket)]
        try:
            seconds, microseconds = await client.eval(
                WRITE, 1, key_of(deployment_id), MOST_FIELDS, LATE_MINUTES, KEPT_SECONDS, *words
            )
        except ResponseError as error:  # the key is of another type, or full: the other deployments go on
            if self._refused.get(deployment_id) != str(error):
                log.warning("usage_refused", deployment=deployment_id, why=str(error))
                self._refused[deployment_id] = str(error)
            return
        self._refused.pop(deployment_id, None)
        self._meters.wrote(deployment_id, buckets, seconds + microseconds / MICROSECONDS)
