"""Takes what doors have counted out of Redis, into the table."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
from greenscale_worker import RedisOptions
from redis.exceptions import ResponseError

from kubeserve.errors import KubeServeError
from kubeserve.queueing import opened
from kubeserve.usage.store import Taken, UsageStore
from kubeserve.usage.wire import MINUTE, Bucket, key_of, read

TAKE_SECONDS: Final = 5.0
AHEAD_MINUTES: Final = 24 * 60  # what is later is left until the clock that is wrong is right
MOST_BUCKETS: Final = 5000  # of a transaction
FORGET: Final = """
for place = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[place]) == ARGV[place + 1] then redis.call('HDEL', KEYS[1], ARGV[place]) end
end"""  # what a door has counted since then stays
SCRIPT_FIELDS: Final = 1000  # of one call of it
log = structlog.get_logger()

Found = dict[bytes, bytes]


class Taker:
    """Brings what is counted into the database, and out of Redis only when it is there."""

    def __init__(self, redis: RedisOptions, store: UsageStore) -> None:
        self._redis = redis
        self._store = store
        self._unreadable = set[str]()

    async def run(self) -> None:
        """Take until cancelled. Redis or a database that is away is waited for; no error ends it."""
        while True:
            try:
                await self.take(await self._store.owners())
            except KubeServeError as error:
                log.warning("usage_waits", why=error.message)
            except Exception:
                log.exception("usage_failed")
            await asyncio.sleep(TAKE_SECONDS)

    async def take(self, owners: Mapping[str, str]) -> None:
        """Take what there is of these deployments, each with its owner. Raises UnavailableError."""
        async with opened(self._redis) as client:
            waiting: dict[str, Found] = {}
            for deployment_id in owners:
                if found := await self._found(client, deployment_id):
                    waiting[deployment_id] = found
                if sum(map(len, waiting.values())) >= MOST_BUCKETS:
                    await self._keep(client, owners, waiting)
                    waiting = {}
            await self._keep(client, owners, waiting)

    async def _found(self, client: Any, deployment_id: str) -> Found:
        try:
            found: Found = await client.hgetall(key_of(deployment_id))
        except ResponseError as error:  # another type, which nobody of ours has written: the others go on
            if deployment_id not in self._unreadable:
                log.warning("usage_unreadable", deployment=deployment_id, why=str(error))
                self._unreadable.add(deployment_id)
            return {}
        self._unreadable.discard(deployment_id)
        return found

    async def _keep(self, client: Any, owners: Mapping[str, str], waiting: Mapping[str, Found]) -> None:
        latest = int(time.time() // MINUTE) + AHEAD_MINUTES
        taken: list[Taken] = []
        for deployment_id, found in waiting.items():
            buckets = {field: read(_text(field), _text(value)) for field, value in found.items()}
            for field, bucket in buckets.items():
                if bucket is not None and bucket.minute <= latest:
                    taken.append(Taken(deployment_id, owners[deployment_id], bucket))
                else:
                    self._complain(deployment_id, bucket)
                    if bucket is not None:
                        del found[field]
        await self._store.keep(taken)
        for deployment_id, found in waiting.items():
            await _forget(client, deployment_id, found)

    def _complain(self, deployment_id: str, bucket: Bucket | None) -> None:
        why = "this is no count" if bucket is None else "it is of a time to come: a clock is wrong"
        log.warning("usage_not_taken", deployment=deployment_id, why=why)


async def _forget(client: Any, deployment_id: str, found: Found) -> None:
    pairs = list(found.items())
    for first in range(0, len(pairs), SCRIPT_FIELDS):
        words = [word for pair in pairs[first : first + SCRIPT_FIELDS] for word in pair]
        await client.eval(FORGET, 1, key_of(deployment_id), *words)


def _text(word: bytes) -> str:
    return word.decode(errors="replace")
