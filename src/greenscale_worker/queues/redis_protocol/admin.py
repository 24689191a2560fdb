"""Everybody else's side of a queue in Redis: producers, people and the command line."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import Cancellation, DeadLetter, Depth, LiveWorker, QueueOptions
from greenscale_worker.queues.redis_common.connections import close
from greenscale_worker.queues.redis_common.errors import mapped
from greenscale_worker.queues.redis_common.scripts import Script
from greenscale_worker.queues.redis_protocol.keys import Keys
from greenscale_worker.queues.redis_protocol.records import LIVE_SECONDS
from greenscale_worker.queues.redis_protocol.store import Store

TOMBSTONE_SECONDS: Final = 3600
PUT_GROUP: Final = 100
SCAN_COUNT: Final = 100
CANCELLATIONS: Final[dict[bytes, Cancellation]] = {
    b"CANCELLED": "cancelled",
    b"FINISHED": "finished",
    b"LATER": "will_be_cancelled",
}


class RedisQueueAdmin:
    """Keeps the promises of `queues.QueueAdmin`."""

    def __init__(
        self, client: Any, scripts: dict[str, Script], store: Store, keys: Keys, options: QueueOptions
    ) -> None:
        self._client = client
        self._scripts = scripts
        self._store = store
        self._keys = keys
        self._options = options

    async def put(self, jobs: Sequence[tuple[str, bytes]]) -> None:
        """Append jobs in order, each with a record that says `waiting`."""
        ttl = LIVE_SECONDS if self._options.result_ttl else 0
        for start in range(0, len(jobs), PUT_GROUP):
            keys: list[str] = self._keys.base
            args: list[Any] = [ttl]
            for job_id, payload in jobs[start : start + PUT_GROUP]:
                keys.append(self._keys.record(job_id))
                args += [job_id, payload]
            await self._run("put", keys, args)

    async def record(self, job_id: str) -> dict[str, str]:
        """Read a job's record; empty where there is none."""
        with mapped():
            fields = await self._client.hgetall(self._keys.record(job_id))
            return {name.decode(): value.decode("utf-8", "replace") for name, value in fields.items()}

    async def result(self, job_id: str) -> bytes | None:
        """Read a job's answer; None where there is none (yet)."""
        with mapped():
            answer = await self._client.get(self._keys.result(job_id))
            return None if answer is None else bytes(memoryview(answer))

    async def cancel(self, job_id: str) -> Cancellation:
        """End a job that has not finished, or leave word for when it comes up (for an hour)."""
        keys = [*self._keys.base, self._keys.record(job_id), self._keys.cancel(job_id)]
        answer = await self._run("cancel", keys, [job_id, TOMBSTONE_SECONDS, self._options.result_ttl])
        with mapped():
            return CANCELLATIONS[answer]

    async def depth(self) -> Depth:
        """Count. How old the oldest job is that does not run is known as far as the store knows when it came."""
        keys = self._keys
        with mapped():
            unclaimed, came = await self._store.unclaimed(self._client, keys)
            pipe = self._client.pipeline(transaction=False)
            pipe.zcard(keys.of("ready")).zcard(keys.of("suspect")).zcard(keys.of("delayed"))
            pipe.zcard(keys.of("lease")).hlen(keys.of("dead")).hexists(keys.of("control"), "paused")
            pipe.zcard(keys.of("held"))
            pipe.zrange(keys.of("ready"), 0, 0).zrange(keys.of("suspect"), 0, 0).zrange(keys.of("held"), 0, 0)
            ready, suspect, delayed, running, dead, paused, held, *oldest = await pipe.execute()
            now = await self._now()
        since = [self._store.first_seen(ids[0]) for ids in oldest if ids]
        if came is not None:
            since.append(came)
        return Depth(
            waiting=unclaimed + ready + suspect,
            running=running,
            delayed=delayed,
            dead=dead,
            oldest_seconds=max(0.0, now - min(since)) if since else None,
            paused=bool(paused),
            held=held,
        )

    async def workers(self) -> list[LiveWorker]:
        """List the worker processes whose heartbeat is no older than a lease."""
        with mapped():
            now = await self._now()
            since = (now - self._options.lease) * 1000
            found = await self._client.zrangebyscore(self._keys.of("workers"), since, "+inf", withscores=True)
            return [LiveWorker(name.decode(), max(0.0, now - beat_ms / 1000)) for name, beat_ms in found]

    async def pause(self) -> None:
        """Let no worker claim until `resume`."""
        with mapped():
            await self._client.hset(self._keys.of("control"), "paused", 1)

    async def resume(self) -> None:
        """End a pause."""
        with mapped():
            await self._client.hdel(self._keys.of("control"), "paused")
        with suppress(ConfigError), mapped():  # where PUBLISH is forbidden, workers see it by themselves
            await self._client.publish(self._keys.bell, "ready")

    async def dead(self) -> AsyncIterator[DeadLetter]:
        """Walk through all dead letters, in no order."""
        cursor = 0
        while True:
            with mapped():
                cursor, found = await self._client.hscan(self._keys.of("dead"), cursor, count=SCAN_COUNT)
            for id_, letter in found.items():
                yield _read(id_.decode(), letter)
            if cursor == 0:
                return

    async def replay(self, letter_id: str) -> bool:
        """Put a dead letter back to the head of the queue. False: there is none."""
        return bool(await self._run("replay", self._keys.base, [letter_id]) != b"GONE")

    async def purge(self, *, older_than: float) -> int:
        """Delete dead letters that died more than so many seconds ago; says how many."""
        with mapped():
            limit = await self._now() - older_than
        old = [letter.id async for letter in self.dead() if letter.died_at < limit]
        gone = 0
        for start in range(0, len(old), SCAN_COUNT):
            with mapped():
                gone += await self._client.hdel(self._keys.of("dead"), *old[start : start + SCAN_COUNT])
        return gone

    async def aclose(self) -> None:
        """Close every connection."""
        await close(self._client)

    async def _run(self, script: str, keys: list[str], args: list[Any]) -> Any:
        with mapped():
            return await self._scripts[script](self._client, keys, ["", self._store.word, *args])

    async def _now(self) -> float:
        seconds, micros = await self._client.time()
        return int(seconds) + int(micros) / 1e6


def _read(id_: str, letter: bytes) -> DeadLetter:
    head, _, payload = letter.partition(b"\n")
    header = orjson.loads(head.decode("utf-8", "replace"))
    return DeadLetter(
        id=id_,
        job_id=header["job_id"] or None,
        code=header["code"],
        message=header["message"],
        tries=int(header["tries"]),
        crashes=int(header["crashes"]),
        died_at=int(header["died_ms"]) / 1000,
        payload=payload,
    )
