"""Jobs in a plain Redis list, which producers fill by `LPUSH` (docs/queue-protocol.md)."""

from math import inf
from typing import Any, Final

from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis import factory
from greenscale_worker.queues.redis.client import RedisQueueClient
from greenscale_worker.queues.redis.keys import Keys
from greenscale_worker.queues.redis.list_pages import ListPages, created_at
from greenscale_worker.queues.redis.queue import RedisQueue
from greenscale_worker.queues.redis.redis_py import answers_of
from greenscale_worker.telemetry import Metrics

LONGEST_ID: Final = 16  # digits


class ListStore:
    """See `store.Store`."""

    script: Final = "list_store"
    own: Final = ("open",)

    def __init__(self, options: QueueOptions) -> None:
        self.word = options.take_from.upper()
        self.commands = ((f"{self.word[0]}POP", "", "1"),)
        self._name = options.name
        self._pages = ListPages(options.name, self.word)

    async def peek(self, client: Any, _after: bytes, seconds: int) -> None:
        """Wait for a payload: take the oldest and put it back in place, in one step."""
        await client.execute_command("BLMOVE", self._name, self._name, self.word, self.word, seconds)

    async def unclaimed(self, client: Any, _keys: Keys) -> tuple[int, float | None]:
        """Count the list. When a payload came is known only from the `created_at` that its producer wrote."""
        pipe = client.pipeline(transaction=False)
        pipe.llen(self._name).lindex(self._name, -1 if self.word == "RIGHT" else 0)
        waiting, payload = await answers_of(pipe)
        return waiting, created_at(payload)

    async def waiting(self, client: Any, after: bytes | None, count: int) -> list[tuple[bytes, bytes, bytes | None]]:
        """Read a part of the list, from its oldest end."""
        return await self._pages.waiting(client, after, count)

    def first_seen(self, job: bytes) -> float:
        """Return the first claim's time; the id is in µs."""
        return int(job) / 1e6 if job.isdigit() and len(job) <= LONGEST_ID else inf


async def open_queue(redis: RedisOptions, options: QueueOptions, metrics: Metrics) -> RedisQueue:
    """Open the worker side; waits for a Redis that is absent or loading.

    Raises ConfigError if Redis refuses us or the queue's keys have another format.
    """
    return await factory.open_queue(ListStore(options), redis, options, metrics)


async def open_client(redis: RedisOptions, options: QueueOptions) -> RedisQueueClient:
    """Open the client side; it connects on the first call. Raises ConfigError."""
    return await factory.open_client(ListStore(options), redis, options)
