"""The queue `packed`: GreenScale's Redis list, with payloads compressed.

It promises what the list promises, because the list keeps the promises; long prompts take less of Redis' memory.
Producers may push plain JSON beside packed jobs. The same job packed by two versions of zlib may count as two payloads.
"""

import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from greenscale_worker import (
    DeadFilter,
    DeadLetter,
    JobFilter,
    JobInfo,
    Lease,
    Metrics,
    Queue,
    QueueClient,
    QueueOptions,
    RedisOptions,
)
from greenscale_worker import open_client as open_any_client
from greenscale_worker import open_queue as open_any_queue

LARGEST = 16 * 1024 * 1024  # a few bytes can unpack to gigabytes; what is larger stays packed, and is no JSON then


async def open_queue(redis: RedisOptions, options: QueueOptions, metrics: Metrics) -> "PackedQueue":
    """Open the worker's side."""
    return PackedQueue(await open_any_queue("list", redis, options, metrics), options)


async def open_client(redis: RedisOptions, options: QueueOptions) -> "PackedClient":
    """Open everybody else's side."""
    return PackedClient(await open_any_client("list", redis, options))


def pack(payload: bytes) -> bytes:
    """Compress."""
    return zlib.compress(payload)


def unpack(raw: bytes) -> bytes:
    """Undo `pack`; what was never packed, or would be too large, stays as it is."""
    unpacker = zlib.decompressobj()
    try:
        payload = unpacker.decompress(raw, LARGEST)
    except zlib.error:
        return raw
    return payload if unpacker.eof and not unpacker.unused_data else raw


_unpack = unpack  # where an argument has its name


class PackedQueue:
    """The worker's side: unpacks what it leases, and leaves the rest to the list."""

    def __init__(self, queue: Queue, options: QueueOptions) -> None:
        self.options = options  # so that nobody has to tell a worker the lease again
        self._queue = queue
        self.bind = queue.bind
        self.write_tokens = queue.write_tokens
        self.settle = queue.settle
        self.retry = queue.retry
        self.beat = queue.beat
        self.observe = queue.observe
        self.aclose = queue.aclose

    @property
    def up(self) -> bool:
        """Whether Redis answered when it was last asked."""
        return self._queue.up

    async def lease(self, *, probe: bool = False) -> Lease:
        """Wait for a job and take it."""
        lease = await self._queue.lease(probe=probe)
        lease.payload = unpack(lease.payload)
        return lease


class PackedClient:
    """Everybody else's side: packs what is put, unpacks what is dead, and leaves the rest to the list."""

    def __init__(self, client: QueueClient) -> None:
        self._client = client
        self.promote = client.promote
        self.attend = client.attend
        self.join = client.join
        self.keys = client.keys
        self.set_key = client.set_key
        self.record = client.record
        self.result = client.result
        self.body = client.body
        self.bodies = client.bodies
        self.forget = client.forget
        self.notices = client.notices
        self.acknowledge_notices = client.acknowledge_notices
        self.read_tokens = client.read_tokens
        self.look_up = client.look_up
        self.listen = client.listen
        self.rate = client.rate
        self.cancel = client.cancel
        self.uncancel = client.uncancel
        self.depth = client.depth
        self.set_tenant = client.set_tenant
        self.tenants = client.tenants
        self.flow = client.flow
        self.workers = client.workers
        self.ledger = client.ledger
        self.pause = client.pause
        self.resume = client.resume
        self.dead_count = client.dead_count
        self.dead_codes = client.dead_codes
        self.replay = client.replay
        self.replay_many = client.replay_many
        self.purge = client.purge
        self.discard = client.discard
        self.aclose = client.aclose

    async def put(self, jobs: Sequence[tuple[str, bytes]], **how: Any) -> list[bool]:
        """Append jobs."""
        return await self._client.put([(job_id, pack(payload)) for job_id, payload in jobs], unpack=unpack, **how)

    def jobs(
        self,
        which: JobFilter | None = None,
        *,
        limit: int | None = None,
        unpack: Callable[[bytes], bytes] | None = None,
    ) -> AsyncIterator[JobInfo]:
        """Walk through jobs."""
        return self._client.jobs(which, limit=limit, unpack=unpack or _unpack)

    async def dead(
        self,
        which: DeadFilter | None = None,
        *,
        limit: int | None = None,
        after: str | None = None,
        oldest_first: bool = False,
        payloads: bool = True,
    ) -> AsyncIterator[DeadLetter]:
        """Walk through dead letters."""
        found = self._client.dead(which, limit=limit, after=after, oldest_first=oldest_first, payloads=payloads)
        async for letter in found:
            yield replace(letter, payload=unpack(letter.payload))

    async def dead_letter(self, name: str, *, payload: bool = True) -> DeadLetter | None:
        """Find a dead letter."""
        letter = await self._client.dead_letter(name, payload=payload)
        return letter and replace(letter, payload=unpack(letter.payload))
