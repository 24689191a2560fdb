"""The client side of a queue in Redis, for producers, operators and the command line."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any, Final, TypeVar

from greenscale_worker.errors import BadInputError, QueueUnavailableError
from greenscale_worker.job import check_job_id, is_job_id
from greenscale_worker.queues import (
    LIVE_SECONDS,
    MOST_TENANTS,
    Attendance,
    Cancellation,
    Change,
    DeadFilter,
    DeadLetter,
    Depth,
    Flow,
    JobClass,
    JobFilter,
    JobInfo,
    LedgerMinute,
    LiveWorker,
    Notice,
    QueueOptions,
    Replay,
    TenantLimits,
    TenantStanding,
    TokenPiece,
    check_positions,
)
from greenscale_worker.queues.bodies import unpacked
from greenscale_worker.queues.putting import check_put, check_tenant, echoed_in
from greenscale_worker.queues.redis.connections import READ_SECONDS, close
from greenscale_worker.queues.redis.errors import mapped
from greenscale_worker.queues.redis.keys import LEDGER, OF_LISTS, TURN_PAYLOADS, TURNS, Keys
from greenscale_worker.queues.redis.lines import entry_of, read_standings
from greenscale_worker.queues.redis.list_pages import created_at
from greenscale_worker.queues.redis.listing import Listing
from greenscale_worker.queues.redis.notifier import Notifier
from greenscale_worker.queues.redis.promotion import promotion
from greenscale_worker.queues.redis.record_fields import encoded
from greenscale_worker.queues.redis.redis_py import answers_of
from greenscale_worker.queues.redis.replies import (
    read_counts,
    read_cursor,
    read_flag,
    read_flags,
    read_flow,
    read_found,
    read_joined,
    read_lanes,
    read_ledger,
    read_notice,
    read_open,
    read_page,
    read_pieces,
    read_promoted,
    read_purge,
    read_records,
    read_replays,
    read_result,
    read_why,
)
from greenscale_worker.queues.redis.script_loader import Script
from greenscale_worker.queues.redis.store import Store
from greenscale_worker.queues.redis.turns import Turns
from greenscale_worker.queues.replaying import check_job_ids, check_letter_id, check_letter_ids, check_notice_ids

Answer = TypeVar("Answer")

PIECES: Final = 100  # of each job
BLOCK_SECONDS: Final = READ_SECONDS - 1
PUT_GROUP: Final = 100
PORTION: Final = 100  # dead letters that one script deletes, replays or mends
PAGE: Final = 500  # dead letters that one script shows
PAGE_BYTES: Final = 4 * 1024 * 1024
LOOK_UPS: Final = 200  # jobs
BODIES: Final = 50  # whole answers that one round trip reads
FEW: Final = 4  # jobs whose answers may be read in vain
MINUTES: Final = 1440  # of the ledger, read with one command
DAY: Final = 86_400
LISTEN_AGAIN_SECONDS: Final = 1.0
LATEST_MS: Final = 10**15  # of a time at which a job may be due
STEP: Final = 4_000_000_000_000_000  # between the places of two classes, as in prelude.lua
RANGES: Final = (("-inf", "(0"), (0, f"({STEP}"), (STEP, "+inf"))
CANCELLATIONS: Final[dict[bytes, Cancellation]] = {
    b"CANCELLED": "cancelled",
    b"FINISHED": "finished",
    b"LATER": "will_be_cancelled",
    b"UNKNOWN": "unknown",
}


class RedisQueueClient:
    """Implements `queues.QueueClient`."""

    def __init__(
        self,
        connect: Callable[[], Any],
        scripts: dict[str, Script],
        store: Store,
        keys: Keys,
        options: QueueOptions,
    ) -> None:
        self._connect = connect
        self._client = connect()
        self._scripts = scripts
        self._store = store
        self._keys = keys
        self._options = options
        self._reader: Any = None  # blocks, so it has connections of its own
        self._let_in = False
        self._turns = Turns()
        self._listing = Listing(
            self._client, self._turns, store, keys, read_records=self._records, read_open=self._open
        )

    async def put(  # noqa: PLR0913  as `QueueClient`
        self,
        jobs: Sequence[tuple[str, bytes]],
        *,
        fold: bool = False,
        once: bool = False,
        job_class: JobClass = "standard",
        not_before: float | None = None,
        tenant: str = "",
        digest: str = "",
        unpack: Callable[[bytes], bytes] | None = None,
        attendance: Attendance | None = None,
        notify: bool = False,
    ) -> list[bool]:
        """Append jobs in order, each with a record, in groups that are put as a whole."""
        check_put(jobs, job_class, not_before)
        due = "" if not_before is None else math.ceil(min(max(not_before * 1000, 0), LATEST_MS))
        head: list[Any] = [self._live_seconds, "once" if once else "fold" if fold else "none", job_class, due]
        head += [encoded(tenant), encoded(digest), "" if attendance is None else _member(attendance), int(notify)]
        found_by = [] if attendance is None else [self._keys.gateways, self._keys.alike(attendance.alike)]
        put = list[bool]()
        for start in range(0, len(jobs), PUT_GROUP):
            keys: list[str] = self._keys.base
            args = [*head]
            for job_id, payload in jobs[start : start + PUT_GROUP]:
                keys += [self._keys.record(job_id), self._keys.cancel(job_id)]
                said = echoed_in(job_id, unpack(payload) if unpack else payload)
                args += [job_id, payload, said.get("created_at", ""), said.get("metadata", "")]
            try:
                put += await self._run("put", [*keys, *found_by], args, read_flags)
            except QueueUnavailableError as error:
                error.undone = error.undone and not put
                raise
        return put

    async def promote(self) -> int:
        """Append jobs that have become due to their class, a portion at a time, and return how many."""
        promoted, due = await self._run("promote", self._keys.base, [self._live_seconds], read_promoted)
        while due:
            keys, args = promotion(self._keys, self._live_seconds, due)
            some, due = await self._run("promote", keys, args, read_promoted)
            promoted += some
        return promoted

    async def attend(self, gateway: str, changes: Sequence[tuple[Attendance, Change]]) -> list[bool]:
        """Show that a gateway lives, and note what has become of its clients, in groups."""
        held = list[bool]()
        for start in range(0, max(len(changes), 1), PUT_GROUP):
            group = changes[start : start + PUT_GROUP]
            keys = [*self._keys.base, self._keys.gateways, *(self._keys.alike(each.alike) for each, _ in group)]
            args = [word for each, change in group for word in (_member(each), change)]
            held += await self._run("attend", keys, [gateway, *args], read_flags)
        return held

    async def join(self, alike: str, gateway: str, number: int) -> tuple[str | None, int]:
        """Return a job of equal requests whose client has gone, and how many clients wait."""
        keys = [*self._keys.base, self._keys.gateways, self._keys.alike(alike)]
        return await self._run("join", keys, [gateway, number], read_joined)

    async def keys(self) -> dict[str, bytes]:
        """Return the API keys' documents by id."""
        async with self._turns.take():
            found = await self._client.hgetall(self._keys.api_keys)
        return {key_id.decode(errors="replace"): bytes(memoryview(document)) for key_id, document in found.items()}

    async def set_key(self, key_id: str, document: bytes | None) -> None:
        """Keep an API key's document; None deletes it."""
        async with self._turns.take():
            if document is None:
                await self._client.hdel(self._keys.api_keys, key_id)
            else:
                await self._client.hset(self._keys.api_keys, key_id, document)

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
        async with self._turns.take():
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
            async with self._turns.take():
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
        async with self._turns.take():
            found = await self._client.zrange(self._keys.notices, 0, limit - 1) if limit > 0 else []
            notices = {bytes(memoryview(each)): read_notice(each) for each in found}
            if foreign := [each for each, notice in notices.items() if notice is None]:  # none is to hide ours
                await self._client.zrem(self._keys.notices, *foreign)
        return [notice for notice in notices.values() if notice] or (await self.notices(limit) if foreign else [])

    async def acknowledge_notices(self, ids: Sequence[str]) -> None:
        """Delete notices, a portion at a time."""
        check_notice_ids(ids)
        for start in range(0, len(ids), PORTION):
            async with self._turns.take():
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
            with mapped():  # no turn: it may wait for long
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
            async with self._turns.take():
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
        async with self._turns.take():
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

    async def jobs(
        self,
        which: JobFilter | None = None,
        *,
        limit: int | None = None,
        unpack: Callable[[bytes], bytes] | None = None,
    ) -> AsyncIterator[JobInfo]:
        """Iterate over jobs: running, waiting, delayed and held ones, then those that ended lately."""
        which, left = which or JobFilter(), limit
        async with aclosing(self._listing.jobs(which, unpack or bytes)) as jobs:
            while left is None or left > 0:
                job = await anext(jobs, None)
                if job is None:
                    return
                if which(job):
                    left = None if left is None else left - 1
                    yield job

    async def rate(self) -> float:
        """Return how many jobs lately ended per second."""
        return await self._listing.rate()

    async def cancel(self, job_id: str) -> Cancellation:
        """Cancel a job that has not finished, or leave a tombstone for when it is claimed."""
        check_job_id(job_id)
        keys = [*self._keys.base, self._keys.record(job_id), self._keys.cancel(job_id)]
        args = [job_id, LIVE_SECONDS, self._options.result_ttl]
        return await self._run("cancel", keys, args, CANCELLATIONS.__getitem__)

    async def uncancel(self, job_id: str) -> bool:
        """Withdraw a cancellation that has not taken effect. Return False if there is none."""
        check_job_id(job_id)
        keys = [*self._keys.base, self._keys.record(job_id), self._keys.cancel(job_id)]
        return await self._run("uncancel", keys, [LIVE_SECONDS], read_flag)

    async def depth(self) -> Depth:
        """Count jobs by state. The age of the oldest is known as far as the store knows when it came."""
        keys = self._keys
        async with self._turns.take():
            unclaimed, came = await self._store.unclaimed(self._client, keys)
            pipe = self._client.pipeline(transaction=False)
            pipe.zcard(keys.of("ready")).zcard(keys.of("suspect")).zcard(keys.of("delayed"))
            pipe.zcard(keys.of("lease")).hlen(keys.of("dead")).zcard(keys.of("held")).zcard(keys.of("later"))
            pipe.hmget(keys.of("control"), "paused", "blamed", "blamed_by")
            for unserved in OF_LISTS:
                pipe.llen(keys.of(unserved)).lindex(keys.of(unserved), -1)
                pipe.zlexcount(keys.of(TURNS), f"[w|{unserved}|", f"(w|{unserved}}}")
            pipe.hlen(keys.of(TURN_PAYLOADS))
            for place in ("ready", "suspect", "held"):
                for low, high in RANGES:  # the oldest of each class
                    pipe.zrangebyscore(keys.of(place), low, high, start=0, num=1)
            ready, suspect, delayed, running, dead, held, scheduled, control, *rest = await answers_of(pipe)
            now = await self._now()
            paused, failing_ms, failing_by = control
        interactive, first, lined, background, second, lined_behind, in_lines, *oldest = rest
        lists = interactive + background
        interactive, background = interactive + lined, background + lined_behind
        waits = [each.oldest_seconds for each in await self.tenants()] if in_lines else []
        since = [self._store.first_seen(ids[0]) for ids in oldest if ids]
        since += [time for time in (came, created_at(first), created_at(second)) if time is not None]
        since += [now - seconds for seconds in waits if seconds is not None]
        return Depth(
            waiting=unclaimed + lists + in_lines + ready + suspect,
            running=running,
            delayed=delayed,
            dead=dead,
            oldest_seconds=max(0.0, now - min(since)) if since else None,
            paused=paused is not None,
            held=held,
            failing_seconds=max(0.0, now - int(failing_ms) / 1000) if failing_ms and failing_ms.isdigit() else None,
            failing_by=failing_by.decode("utf-8", "replace") if failing_by else None,
            interactive=interactive,
            background=background,
            scheduled=scheduled,
        )

    async def set_tenant(self, name: str, limits: TenantLimits | None) -> None:
        """Give a tenant an entry; None deletes it."""
        check_tenant(name)
        if not await self._run("set_tenant", self._keys.base, [name, entry_of(limits), MOST_TENANTS], read_flag):
            raise BadInputError("bad_field", f"tenant {name}: {MOST_TENANTS} tenants have an entry, which are the most")

    async def tenants(self, name: str | None = None) -> list[TenantStanding]:
        """Tell how each tenant stands, or one."""
        wanted = encoded(name or "")
        return await self._run("tenants", self._keys.base, [wanted], read_standings)

    async def flow(self) -> Flow:
        """Tell what holds jobs back, by one script."""
        return await self._run("read_flow", self._keys.base, [int(2000 * self._options.heartbeat)], read_flow)

    async def workers(self) -> list[LiveWorker]:
        """List the worker processes whose heartbeat is no older than a lease."""
        async with self._turns.take():
            now = await self._now()
            since = (now - self._options.lease) * 1000
            found = await self._client.zrangebyscore(self._keys.of("workers"), since, "+inf", withscores=True)
            pipe = self._client.pipeline(transaction=False)
            for name, _ in found:
                pipe.get(self._keys.why(name.decode())).get(self._keys.lanes(name.decode()))
            said = await pipe.execute(raise_on_error=False) if found else []
            return [
                LiveWorker(name.decode(), max(0.0, now - beat_ms / 1000), read_why(why), read_lanes(lanes))
                for (name, beat_ms), why, lanes in zip(found, said[::2], said[1::2], strict=True)
            ]

    async def ledger(
        self, since: float, until: float | None = None, *, tenant: str | None = None
    ) -> list[LedgerMinute]:
        """Return what happened in each minute, oldest first."""
        async with self._turns.take():
            now = await self._now()
            last = int(now if until is None else max(0, min(now, until))) // 60
            first = int(min(now + 60, max(since, now - (self._options.ledger_days + 1) * DAY))) // 60
            found: list[LedgerMinute] = []
            for start in range(first, last + 1, MINUTES):
                minutes = range(start, min(last + 1, start + MINUTES))
                fields = [f"{minute}|{tenant}" if tenant else str(minute) for minute in minutes]
                pipe = self._client.pipeline(transaction=False)
                pipe.hmget(self._keys.of(LEDGER), fields)
                (answer,) = await pipe.execute(raise_on_error=False)
                found += read_ledger(minutes, answer)
            return found

    async def pause(self, *, scale_to_zero: bool = False) -> None:
        """Stop workers from claiming until `resume`, and tell KEDA at once."""
        await self._run("pause", [*self._keys.base, self._keys.room], ["zero" if scale_to_zero else "pause"], bytes)

    async def resume(self) -> None:
        """End a pause. Where PUBLISH is forbidden, workers notice by themselves."""
        await self._run("pause", [*self._keys.base, self._keys.room], ["resume"], bytes)

    async def dead(
        self,
        which: DeadFilter | None = None,
        *,
        limit: int | None = None,
        after: str | None = None,
        oldest_first: bool = False,
        payloads: bool = True,
    ) -> AsyncIterator[DeadLetter]:
        """Iterate over dead letters, a page at a time."""
        order, left, cursor = "oldest" if oldest_first else "latest", limit, b""
        await self._tidy()
        while left is None or left > 0:
            n = PAGE if left is None else min(PAGE, left)
            args = [*_filter(which), order, cursor, n, PAGE_BYTES, int(payloads), _id(after or "")]
            _, cursor, letters = await self._run("list", self._keys.base, args, read_page)
            for letter in letters:
                yield letter
            if not cursor:
                return
            left = None if left is None else left - len(letters)

    async def dead_letter(self, name: str, *, payload: bool = True) -> DeadLetter | None:
        """Return a dead letter by its own id, or by its job's."""
        await self._tidy()
        return await self._run("find", self._keys.base, [_id(name), int(payload)], read_found)

    async def dead_count(self, which: DeadFilter | None = None) -> int:
        """Count dead letters."""
        await self._tidy()
        args = [*_filter(which), "latest", "", 0, 0, 0, ""]
        total, _, _ = await self._run("list", self._keys.base, args, read_page)
        return total

    async def dead_codes(self) -> dict[str, int]:
        """Count dead letters by code."""
        await self._tidy()
        counts: list[tuple[bytes, int]] = []
        after = b""
        while found := await self._run("codes", self._keys.base, [after, PORTION], read_counts):
            counts += found
            after = found[-1][0]
        return {code.decode("utf-8", "replace"): count for code, count in counts}

    async def replay(self, letter_id: str) -> bool:
        """Requeue a dead letter at the head of the queue. Return False if there is none."""
        return await self.replay_many([letter_id]) == ["replayed"]

    async def replay_many(self, letter_ids: Sequence[str]) -> list[Replay]:
        """Replay dead letters, in batches limited by number and bytes. Raises TypeError for one id."""
        check_letter_ids(letter_ids)
        done: list[Replay] = []
        while len(done) < len(letter_ids):
            ids = [_id(each) for each in letter_ids[len(done) : len(done) + PORTION]]
            done += await self._run("replay", self._keys.base, [PAGE_BYTES, *ids], read_replays)
        return done

    async def purge(self, *, older_than: float, code: str | None = None) -> int:
        """Delete dead letters at least `older_than` seconds old, in batches, and return how many."""
        await self._tidy()
        args = [*_filter(DeadFilter(code=code, older_than=older_than)), "", PORTION, "purged"]
        gone, more = 0, True
        while more:
            some, more = await self._run("purge", self._keys.base, args, read_purge)
            gone += some
        return gone

    async def discard(self, letter_ids: Sequence[str]) -> int:
        """Delete dead letters by their ids, in batches. Raises TypeError for one id."""
        check_letter_ids(letter_ids)
        await self._tidy()
        gone = 0
        for start in range(0, len(letter_ids), PORTION):
            ids = [_id(each) for each in letter_ids[start : start + PORTION]]
            gone += await self._run("discard", self._keys.base, ["purged", *ids], int)
        return gone

    async def aclose(self) -> None:
        """Close every connection."""
        await close(self._client)
        if self._reader is not None:
            await close(self._reader)

    @property
    def _live_seconds(self) -> int:
        """How long a live record lasts; 0: none is written."""
        return LIVE_SECONDS if self._options.result_ttl else 0

    async def _run(self, script: str, keys: list[str], args: list[Any], read: Callable[[Any], Answer]) -> Answer:
        """Run a script and read its answer; if that fails, the server is not Redis."""
        async with self._turns.take():
            if not self._let_in:  # a server that requires a password answers a long command by hanging up
                await self._client.time()
                self._let_in = True
            return read(await self._scripts[script](self._client, keys, ["", self._store.word, *args]))

    async def _records(self, job_ids: Sequence[str]) -> list[dict[str, str]]:
        """Read records, all at one moment; empty ones for invalid ids."""
        known = [job_id for job_id in job_ids if is_job_id(job_id)]
        if not known:
            return [{} for _ in job_ids]
        keys = [*self._keys.base, *map(self._keys.record, known)]
        found = await self._run("look", keys, known, partial(read_records, known))
        return [found.get(job_id, {}) for job_id in job_ids]

    async def _open(self, place: str, behind: bytes) -> tuple[bytes, list[Any]]:
        return await self._run("open", self._keys.base, [place, behind, PAGE], read_open)

    async def _tidy(self) -> None:
        """Repair dead letters and their index, in case another program has changed them."""
        cursor = b""
        while cursor := await self._run("tidy", self._keys.base, [cursor, PORTION], read_cursor):
            pass

    async def _now(self) -> float:
        seconds, micros = await self._client.time()
        return int(seconds) + int(micros) / 1e6


def _filter(which: DeadFilter | None) -> list[Any]:
    """Encode a filter as script arguments."""
    which = which or DeadFilter()
    times = (which.since, which.younger_than, which.older_than)
    return [(which.code or "").encode(errors="replace"), *("" if time is None else int(time * 1000) for time in times)]


def _member(attendance: Attendance) -> str:
    return f"{attendance.job_id} {attendance.gateway} {attendance.number}"


def _id(name: str) -> bytes:
    """Encode an id; an invalid one becomes another that no letter has. Raises TypeError if it is no string."""
    check_letter_id(name)
    return name.encode(errors="replace")
