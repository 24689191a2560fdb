"""The client side of a queue in Redis, for producers, operators and the command line."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from greenscale_worker.errors import BadInputError, QueueUnavailableError
from greenscale_worker.job import check_job_id
from greenscale_worker.queues import (
    LIVE_SECONDS,
    MOST_TENANTS,
    Attendance,
    Cancellation,
    Change,
    Depth,
    Flow,
    JobClass,
    JobFilter,
    JobInfo,
    LedgerMinute,
    LiveWorker,
    QueueOptions,
    TenantLimits,
    TenantStanding,
)
from greenscale_worker.queues.putting import check_put, check_tenant, echoed_in
from greenscale_worker.queues.redis.answers import Answers
from greenscale_worker.queues.redis.keys import LEDGER, OF_LISTS, TURN_PAYLOADS, TURNS, Keys
from greenscale_worker.queues.redis.letters import Letters
from greenscale_worker.queues.redis.list_pages import created_at
from greenscale_worker.queues.redis.listing import Listing
from greenscale_worker.queues.redis.promotion import promotion
from greenscale_worker.queues.redis.record_fields import encoded
from greenscale_worker.queues.redis.redis_py import answers_of
from greenscale_worker.queues.redis.replies import (
    read_flag,
    read_flags,
    read_flow,
    read_joined,
    read_lanes,
    read_ledger,
    read_open,
    read_promoted,
    read_why,
)
from greenscale_worker.queues.redis.script_loader import Script
from greenscale_worker.queues.redis.store import Store
from greenscale_worker.queues.redis.tenants import entry_of, read_standings

PUT_GROUP: Final = 100
PAGE: Final = 500  # jobs that one script shows
MINUTES: Final = 1440  # of the ledger, read with one command
DAY: Final = 86_400
LATEST_MS: Final = 10**15  # of a time at which a job may be due
STEP: Final = 4_000_000_000_000_000  # between the places of two classes, as in prelude.lua
RANGES: Final = (("-inf", "(0"), (0, f"({STEP}"), (STEP, "+inf"))
CANCELLATIONS: Final[dict[bytes, Cancellation]] = {
    b"CANCELLED": "cancelled",
    b"FINISHED": "finished",
    b"LATER": "will_be_cancelled",
    b"UNKNOWN": "unknown",
}


class RedisQueueClient(Answers, Letters):
    """Implements `queues.QueueClient`."""

    def __init__(
        self,
        connect: Callable[[], Any],
        scripts: dict[str, Script],
        store: Store,
        keys: Keys,
        options: QueueOptions,
    ) -> None:
        super().__init__(connect, scripts, store, keys, options)
        self._listing = Listing(
            self._client, self._calls, store, keys, read_records=self._records, read_open=self._open
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
        async with self._calls.slot():
            found = await self._client.hgetall(self._keys.api_keys)
        return {key_id.decode(errors="replace"): bytes(memoryview(document)) for key_id, document in found.items()}

    async def set_key(self, key_id: str, document: bytes | None) -> None:
        """Keep an API key's document; None deletes it."""
        async with self._calls.slot():
            if document is None:
                await self._client.hdel(self._keys.api_keys, key_id)
            else:
                await self._client.hset(self._keys.api_keys, key_id, document)

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
        async with self._calls.slot():
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
        async with self._calls.slot():
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
        async with self._calls.slot():
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

    async def _open(self, place: str, behind: bytes) -> tuple[bytes, list[Any]]:
        return await self._run("open", self._keys.base, [place, behind, PAGE], read_open)


def _member(attendance: Attendance) -> str:
    return f"{attendance.job_id} {attendance.gateway} {attendance.number}"
