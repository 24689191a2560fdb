"""Jobs in a plain Redis list, which producers fill by `LPUSH` (docs/queue-protocol.md)."""

from contextlib import suppress
from math import inf
from typing import Any, Final

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import decode
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis import factory
from greenscale_worker.queues.redis.client import RedisQueueClient
from greenscale_worker.queues.redis.keys import Keys
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
        self.commands = (("LLEN", ""), (f"{self.word[0]}POP", "", "1"))
        self._name = options.name

    async def peek(self, client: Any, _after: bytes, seconds: int) -> None:
        """Wait for a payload: take the oldest and put it back in place, in one step."""
        await client.execute_command("BLMOVE", self._name, self._name, self.word, self.word, seconds)

    async def unclaimed(self, client: Any, _keys: Keys) -> tuple[int, float | None]:
        """Count the list. When a payload came is known only from the `created_at` that its producer wrote."""
        pipe = client.pipeline(transaction=False)
        pipe.llen(self._name).lindex(self._name, -1 if self.word == "RIGHT" else 0)
        waiting, payload = await answers_of(pipe)
        return waiting, None if payload is None else _created_at(payload)

    async def waiting(self, client: Any, after: bytes | None, count: int) -> list[tuple[bytes, bytes, bytes | None]]:
        """Read a part of the list, from its oldest end, which moves as jobs are taken.

        So each part begins at the last job of the part before. If that has moved, it is looked for nearer the oldest
        end; if it was taken, so was everything before it.
        """
        if after is None:
            return _placed(await self._part(client, 0, count), 0)
        text, _, known = after.partition(b" ")
        place, step = int(text), 0
        while True:
            start = max(0, place - step)
            found = await self._part(client, start, place - start + 1 + count)
            ahead = reversed(found[: place - start + 1])
            at = next((place - start - back for back, payload in enumerate(ahead) if payload == known), None)
            if at is not None or start == 0:
                begin = 0 if at is None else at + 1
                return _placed(found[begin : begin + count], start + begin)
            step = 2 * step + count

    async def _part(self, client: Any, start: int, count: int) -> list[bytes]:
        """Read `count` jobs, the first of which is `start` places from the oldest end."""
        if self.word == "LEFT":
            return list(await client.lrange(self._name, start, start + count - 1))
        return list(reversed(await client.lrange(self._name, -start - count, -start - 1)))

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


def _placed(payloads: list[bytes], start: int) -> list[tuple[bytes, bytes, bytes | None]]:
    return [(b"%d %b" % (place, payload), payload, None) for place, payload in enumerate(payloads, start)]


def _created_at(payload: bytes) -> float | None:
    with suppress(BadInputError):
        created = decode(payload, max_bytes=len(payload)).created_at
        return None if created is None else created.timestamp()
    return None
