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
from kubeserve.usage.wire import MINUTE, key_of, read

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
        self._told = set[tuple[str, str]]()

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
                else:
                    self._tell("usage_not_taken", deployment_id, None)
                if sum(map(len, waiting.values())) >= MOST_BUCKETS:
                    await self._keep(client, owners, waiting)
                    waiting = {}
            await self._keep(client, owners, waiting)

    async def _found(self, client: Any, deployment_id: str) -> Found:
        try:
            found: Found = await client.hgetall(key_of(deployment_id))
        except ResponseError as error:  # another type, which nobody of ours has written: the others go on
            self._tell("usage_unreadable", deployment_id, str(error))
            return {}
        self._tell("usage_unreadable", deployment_id, None)
        return found

    async def _keep(self, client: Any, owners: Mapping[str, str], waiting: Mapping[str, Found]) -> None:
        latest = int(time.time() // MINUTE) + AHEAD_MINUTES
        taken: list[Taken] = []
        for deployment_id, found in waiting.items():
            buckets = {field: read(_text(field), _text(value)) for field, value in found.items()}
            why = None
            for field, bucket in buckets.items():
                if bucket is None:
                    why = "there is something that is no count"
                elif bucket.minute <= latest:
                    taken.append(Taken(deployment_id, owners[deployment_id], bucket))
                else:
                    why = "it is of a time to come: a clock is wrong"
                    del found[field]
            self._tell("usage_not_taken", deployment_id, why)
        await self._store.keep(taken)
        for deployment_id, found in waiting.items():
            await _forget(client, deployment_id, found)

    def _tell(self, event: str, deployment_id: str, why: str | None) -> None:
        """Warn of it once, until nothing is to be told."""
        if why is None:
            self._told.discard((event, deployment_id))
        elif (event, deployment_id) not in self._told:
            self._told.add((event, deployment_id))
            log.warning(event, deployment=deployment_id, why=why)


async def _forget(client: Any, deployment_id: str, found: Found) -> None:
    pairs = list(found.items())
    for first in range(0, len(pairs), SCRIPT_FIELDS):
        words = [word for pair in pairs[first : first + SCRIPT_FIELDS] for word in pair]
        await client.eval(FORGET, 1, key_of(deployment_id), *words)


def _text(word: bytes) -> str:
    return word.decode(errors="replace")
