"""Everybody else's side of the list queue: producers, people and the command line."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import decode
from greenscale_worker.queues import Cancellation, DeadLetter, Depth, LiveWorker, QueueOptions
from greenscale_worker.queues.redis_common.connections import close
from greenscale_worker.queues.redis_common.errors import mapped
from greenscale_worker.queues.redis_common.scripts import Script
from greenscale_worker.queues.redis_list.keys import Keys
from greenscale_worker.queues.redis_list.records import LIVE_SECONDS

TOMBSTONE_SECONDS: Final = 3600
PUT_GROUP: Final = 100
SCAN_COUNT: Final = 100
CANCELLATIONS: Final[dict[bytes, Cancellation]] = {
    b"CANCELLED": "cancelled",
    b"FINISHED": "finished",
    b"LATER": "will_be_cancelled",
}


class RedisListAdmin:
    """Keeps the promises of `queues.QueueAdmin`."""

    def __init__(self, client: Any, scripts: dict[str, Script], keys: Keys, options: QueueOptions) -> None:
        self._client = client
        self._scripts = scripts
        self._keys = keys
        self._options = options

    async def put(self, jobs: Sequence[tuple[str, bytes]]) -> None:
        """Append jobs in order, each with a record that says `waiting`."""
        push = "LEFT" if self._options.take_from == "right" else "RIGHT"
        ttl = LIVE_SECONDS if self._options.result_ttl else 0
        for start in range(0, len(jobs), PUT_GROUP):
            keys, args = self._keys.base, ["", push, ttl]
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
            answer: bytes | None = await self._client.get(self._keys.result(job_id))
        return answer

    async def cancel(self, job_id: str) -> Cancellation:
        """End a job that has not finished, or leave word for when it comes up (for an hour)."""
        keys = [*self._keys.base, self._keys.record(job_id), self._keys.cancel(job_id)]
        answer = await self._run("cancel", keys, ["", job_id, TOMBSTONE_SECONDS, self._options.result_ttl])
        return CANCELLATIONS[answer]

    async def depth(self) -> Depth:
        """Count. A job in the list has no time of arrival but the `created_at` that its producer wrote."""
        keys, oldest_end = self._keys, -1 if self._options.take_from == "right" else 0
        with mapped():
            pipe = self._client.pipeline(transaction=False)
            pipe.llen(keys.name).zcard(keys.of("ready")).zcard(keys.of("suspect")).zcard(keys.of("delayed"))
            pipe.zcard(keys.of("lease")).hlen(keys.of("dead")).hexists(keys.of("control"), "paused")
            pipe.zrange(keys.of("ready"), 0, 0).zrange(keys.of("suspect"), 0, 0)
            pipe.lindex(keys.name, oldest_end)
            waiting, ready, suspect, delayed, running, dead, paused, *oldest, payload = await pipe.execute()
            now = await self._now()
        since = [int(ids[0]) / 1e6 for ids in oldest if ids]
        if payload is not None and (created := _created_at(payload)) is not None:
            since.append(created)
        return Depth(
            waiting=waiting + ready + suspect,
            running=running,
            delayed=delayed,
            dead=dead,
            oldest_seconds=max(0.0, now - min(since)) if since else None,
            paused=bool(paused),
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
        return bool(await self._run("replay", self._keys.base, ["", letter_id]) == b"OK")

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
            return await self._scripts[script](self._client, keys, args)

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


def _created_at(payload: bytes) -> float | None:
    with suppress(BadInputError):
        created = decode(payload, max_bytes=len(payload)).created_at
        return None if created is None else created.timestamp()
    return None
