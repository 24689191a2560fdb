"""Jobs in a Redis stream, which producers fill by `XADD` (docs/queues.md)."""

from math import inf
from typing import Any, Final

import orjson

from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis import factory
from greenscale_worker.queues.redis.client import RedisQueueClient
from greenscale_worker.queues.redis.keys import Keys
from greenscale_worker.queues.redis.queue import RedisQueue
from greenscale_worker.queues.redis.redis_py import answers_of
from greenscale_worker.telemetry import Metrics

LONGEST_ID: Final = 20  # digits


class StreamStore:
    """See `store.Store`."""

    script: Final = "stream_store"
    own: Final = ()
    commands: Final = (
        ("XACK", "", "g", "0-1"),
        ("XADD", "", "*", "f", "v"),
        ("XCLAIM", "", "g", "c", "0", "0-1", "JUSTID"),
        ("XDEL", "", "0-1"),
        ("XGROUP", "CREATE", "", "g", "0"),
        ("XGROUP", "DELCONSUMER", "", "g", "c"),
        ("XINFO", "GROUPS", ""),
        ("XLEN", ""),
        ("XPENDING", "", "g", "IDLE", "0", "-", "+", "1"),
        ("XRANGE", "", "-", "+"),
        ("XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", "", ">"),
    )

    def __init__(self, options: QueueOptions) -> None:
        self.word = options.group
        self._name = options.name

    async def peek(self, client: Any, after: bytes, seconds: int) -> None:
        """Wait for an entry after the last one delivered to the group. One entry wakes every waiting worker."""
        await client.execute_command(
            "XREAD", "COUNT", 1, "BLOCK", 1000 * seconds, "STREAMS", self._name, after or b"0-0"
        )

    async def unclaimed(self, client: Any, keys: Keys) -> tuple[int, float | None]:
        """Count entries that are not claimed; the id of the oldest says when it was added."""
        pipe = client.pipeline(transaction=False)
        pipe.xlen(self._name).hlen(keys.of("meta"))
        length, claimed = await answers_of(pipe)
        if length <= claimed:
            return 0, None
        first = await self.waiting(client, None, 1)
        return length - claimed, self.first_seen(first[0][0]) if first else None

    async def waiting(self, client: Any, after: bytes | None, count: int) -> list[tuple[bytes, bytes, bytes | None]]:
        """Read entries after the last one delivered to the group."""
        if after is None:
            groups = await client.xinfo_groups(self._name) if await client.exists(self._name) else []
            after = next(
                (group["last-delivered-id"] for group in groups if group["name"] == self.word.encode()), b"0-0"
            )
        found = await client.xrange(self._name, min=b"(" + after, count=count)
        return [(id_, *_read(id_, fields)) for id_, fields in found]

    def first_seen(self, job: bytes) -> float:
        """Return when the entry was added; the id is in ms."""
        return int(ms) / 1000 if (ms := job.partition(b"-")[0]).isdigit() and len(ms) <= LONGEST_ID else inf


def _read(id_: bytes, fields: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Read an entry as stream_store.lua does: its payload, and the job's id if the payload has none."""
    if fields.keys() <= {b"job", b"job_id"} and b"job" in fields:
        return fields[b"job"], fields.get(b"job_id", id_)
    texts = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    return orjson.dumps(texts), id_


async def open_queue(redis: RedisOptions, options: QueueOptions, metrics: Metrics) -> RedisQueue:
    """Open the worker side; waits for a Redis that is absent or loading.

    Raises ConfigError if Redis refuses us or the queue's keys have another format.
    """
    return await factory.open_queue(StreamStore(options), redis, options, metrics)


async def open_client(redis: RedisOptions, options: QueueOptions) -> RedisQueueClient:
    """Open the client side; it connects on the first call. Raises ConfigError."""
    return await factory.open_client(StreamStore(options), redis, options)
