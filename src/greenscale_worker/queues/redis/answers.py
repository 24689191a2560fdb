"""What is kept of jobs: records, answers, notices and shown text."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from greenscale_worker.job import is_job_id
from greenscale_worker.queues import Notice, TokenPiece, check_positions
from greenscale_worker.queues.bodies import unpacked
from greenscale_worker.queues.redis.caller import Caller
from greenscale_worker.queues.redis.connections import READ_SECONDS
from greenscale_worker.queues.redis.errors import mapped
from greenscale_worker.queues.redis.notifier import Notifier
from greenscale_worker.queues.redis.redis_py import answers_of
from greenscale_worker.queues.redis.replies import read_notice, read_pieces, read_records, read_result
from greenscale_worker.queues.replaying import check_job_ids, check_notice_ids

PIECES: Final = 100  # of each job
BLOCK_SECONDS: Final = READ_SECONDS - 1
PORTION: Final = 100  # jobs or notices that one round trip deletes
LOOK_UPS: Final = 200  # jobs
BODIES: Final = 50  # whole answers that one round trip reads
FEW: Final = 4  # jobs whose answers may be read in vain
LISTEN_AGAIN_SECONDS: Final = 1.0


class Answers(Caller):
    """Reads and deletes what is kept of jobs, by their ids: a part of `RedisQueueClient`."""

    async def record(self, job_id: str) -> dict[str, str]:
        """Return a job's record; empty if there is none."""
        if not is_job_id(job_id):
            return {}
        (record,) = await self._records([job_id])
        return record

    async def result(self, job_id: str) -> bytes | None:
        """Return a job's answer; None if there is none (yet)."""
        if not is_job_id(job_id):
            return None
        async with self._calls.slot():
            answer = await self._client.get(self._keys.result(job_id))
            return None if answer is None else bytes(memoryview(answer))

    async def body(self, job_id: str) -> bytes | None:
        """Return the endpoint's whole answer, if the job succeeded and asked for it."""
        (body,) = await self.bodies([job_id])
        return body

    async def bodies(self, job_ids: Sequence[str]) -> list[bytes | None]:
        """Return the endpoint's whole answer of many jobs, a portion at a time."""
        found: list[bytes | None] = []
        for start in range(0, len(job_ids), BODIES):
            some = job_ids[start : start + BODIES]
            known = [job_id for job_id in some if is_job_id(job_id)]
            async with self._calls.slot():
                pipe = self._client.pipeline(transaction=False)
                for job_id in known:
                    pipe.hget(self._keys.record(job_id), "keep").get(self._keys.body(job_id))
                answers = [read_result(answer) for answer in await pipe.execute(raise_on_error=False)] if known else []
            kept = zip(known, answers[::2], answers[1::2], strict=True)
            bodies = {job_id: unpacked(body) for job_id, keep, body in kept if keep == b"body" and body is not None}
            found += [bodies.get(job_id) for job_id in some]
        return found

    async def forget(self, job_ids: Sequence[str]) -> int:
        """Delete record, answers and shown text of jobs that have ended, a portion at a time."""
        check_job_ids(job_ids)
        known, gone = [job_id for job_id in job_ids if is_job_id(job_id)], 0
        for start in range(0, len(known), PORTION):
            some, keys = known[start : start + PORTION], self._keys
            names = [name(each) for each in some for name in (keys.record, keys.result, keys.body, keys.tokens)]
            gone += await self._run("forget", [*keys.base, *names], some, int)
        return gone

    async def notices(self, limit: int = 100) -> list[Notice]:
        """Return the oldest notices that nobody has acknowledged."""
        async with self._calls.slot():
            found = await self._client.zrange(self._keys.notices, 0, limit - 1) if limit > 0 else []
            notices = {bytes(memoryview(each)): read_notice(each) for each in found}
            if foreign := [each for each, notice in notices.items() if notice is None]:  # none is to hide ours
                await self._client.zrem(self._keys.notices, *foreign)
        return [notice for notice in notices.values() if notice] or (await self.notices(limit) if foreign else [])

    async def acknowledge_notices(self, ids: Sequence[str]) -> None:
        """Delete notices, a portion at a time."""
        check_notice_ids(ids)
        for start in range(0, len(ids), PORTION):
            async with self._calls.slot():
                pipe = self._client.pipeline(transaction=False)
                for notice_id in ids[start : start + PORTION]:
                    pipe.zremrangebyscore(self._keys.notices, notice_id, notice_id)
                await answers_of(pipe)

    async def read_tokens(self, after: Mapping[str, str], *, wait: float) -> list[TokenPiece]:
        """Return pieces of the text of many jobs by one blocking command; if there are none, wait for some."""
        check_positions(after)
        known = {self._keys.tokens(job_id).encode(): job_id for job_id in after if is_job_id(job_id)}
        positions = [after[job_id] or "0-0" for job_id in known.values()]
        until = monotonic() + wait
        if not known:
            await asyncio.sleep(wait)
            return []
        if self._reader is None:
            self._reader = self._connect()
        while True:
            left = until - monotonic()
            blocks = ["BLOCK", int(1000 * min(left, BLOCK_SECONDS)) or 1] if left > 0 else []
            with mapped():  # no slot: it may wait for long
                words = ["COUNT", PIECES, *blocks, "STREAMS", *known, *positions]
                found = await self._reader.execute_command("XREAD", *words)
            if found or left <= 0:
                return read_pieces(known, found)

    async def look_up(self, job_ids: Sequence[str]) -> list[tuple[dict[str, str], bytes | None]]:
        """Return record and answer of many jobs, in two round trips per batch; of a few in one."""
        if 0 < len(job_ids) <= FEW and (few := await self._look_up_few(job_ids)) is not None:
            return few
        found: list[tuple[dict[str, str], bytes | None]] = []
        for start in range(0, len(job_ids), LOOK_UPS):
            some = job_ids[start : start + LOOK_UPS]
            records = await self._records(some)
            done = [job_id for job_id, record in zip(some, records, strict=True) if record.get("state") == "succeeded"]
            async with self._calls.slot():
                pipe = self._client.pipeline(transaction=False)
                for job_id in done:
                    pipe.get(self._keys.result(job_id))
                found_answers = await pipe.execute(raise_on_error=False) if done else []
                answers = dict(zip(done, (read_result(answer) for answer in found_answers), strict=True))
            found += [(record, answers.get(job_id)) for job_id, record in zip(some, records, strict=True)]
        return found

    async def _look_up_few(self, job_ids: Sequence[str]) -> list[tuple[dict[str, str], bytes | None]] | None:
        """Return record and answer of each, read in this order: an answer is there before its record says so.

        None if it must be done in two steps: the server does not know the script, or it is a Cluster.
        """
        if self._keys.cluster or not self._let_in or not all(map(is_job_id, job_ids)):
            return None
        keys = [*self._keys.base, *map(self._keys.record, job_ids)]
        async with self._calls.slot():
            pipe = self._client.pipeline(transaction=False)
            pipe.execute_command("EVALSHA", self._scripts["look"].sha, len(keys), *keys, "", self._store.word, *job_ids)
            for job_id in job_ids:
                pipe.get(self._keys.result(job_id))
            found, *answers = await pipe.execute(raise_on_error=False)
            if isinstance(found, Exception):
                return None
            records = read_records(job_ids, found)
        return [
            (record := records.get(job_id, {}), read_result(answer) if record.get("state") == "succeeded" else None)
            for job_id, answer in zip(job_ids, answers, strict=True)
        ]

    @asynccontextmanager
    async def listen(self, heard: Callable[[Sequence[str] | None], None]) -> AsyncIterator[None]:
        """Call `heard` with the ids of jobs that have ended, or with None when some may have been missed."""

        def read(message: bytes) -> None:
            heard(message.decode(errors="replace").split() or None)

        notifier = Notifier(self._connect(), (self._keys.ended,), read, patience=LISTEN_AGAIN_SECONDS, say=None)
        try:
            yield
        finally:
            await notifier.aclose()
