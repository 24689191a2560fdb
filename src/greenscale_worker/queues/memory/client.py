"""The side of producers and readers of the queue within one process."""

import itertools
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import check_job_id
from greenscale_worker.queues import (
    ENDED,
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
    Replay,
    TenantLimits,
    TenantStanding,
    TokenPiece,
    check_positions,
)
from greenscale_worker.queues.memory.listing import listed
from greenscale_worker.queues.memory.store import Scheduled, Store
from greenscale_worker.queues.putting import check_put, check_tenant, echoed_in
from greenscale_worker.queues.rate import rate_of
from greenscale_worker.queues.replaying import check_job_ids, check_letter_id, check_letter_ids, check_notice_ids


class MemoryClient:
    """QueueClient on a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

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
        """See QueueClient."""
        check_put(jobs, job_class, not_before)
        store, put = self._store, list[bool]()
        due = None if not_before is None or not_before <= store.clock() else not_before
        of_all = {"class": job_class, "tenant": tenant, "digest": digest}
        for job_id, payload in jobs:
            put.append(not self._skips(job_id, fold=fold, once=once, scheduled=due is not None))
            if not put[-1]:
                continue
            if notify:
                store.notices.ask(job_id)
            is_open = job_id in store.bound
            own = {**of_all, **echoed_in(job_id, unpack(payload) if unpack else payload)}
            if due is not None:
                store.later[job_id] = Scheduled(payload, job_class, due, tenant)
                if not is_open:
                    store.records.scheduled(job_id, due, **own)
            else:
                store.append(payload, job_class, tenant)
                if not is_open:
                    store.records.waiting(job_id, cancelled=store.tombstones.get(job_id) is not None, **own)
        if due is None:
            store.ring(sum(put))
        if attendance is not None:
            store.attending.begin(attendance)
        return put

    def _skips(self, job_id: str, *, fold: bool, once: bool, scheduled: bool) -> bool:
        store = self._store
        if job_id in store.later:
            return scheduled or fold or once
        state = store.records.get(job_id).get("state")
        ended_badly = state in {"failed", "cancelled"} and not once
        return (fold or once) and (job_id in store.bound or not (state is None or ended_badly))

    async def promote(self) -> int:
        """See QueueClient."""
        return self._store.promote()

    async def attend(self, gateway: str, changes: Sequence[tuple[Attendance, Change]]) -> list[bool]:
        """See QueueClient."""
        self._store.attending.show_alive(gateway)
        return [self._store.attending.note(attendance, change) for attendance, change in changes]

    async def join(self, alike: str, gateway: str, number: int) -> tuple[str | None, int]:
        """See QueueClient."""
        return self._store.attending.join(alike, gateway, number)

    async def keys(self) -> dict[str, bytes]:
        """See QueueClient."""
        return dict(self._store.api_keys)

    async def set_key(self, key_id: str, document: bytes | None) -> None:
        """See QueueClient."""
        self._store.api_keys.pop(key_id, None)
        if document is not None:
            self._store.api_keys[key_id] = document

    async def record(self, job_id: str) -> dict[str, str]:
        """See QueueClient."""
        return self._store.records.get(job_id)

    async def result(self, job_id: str) -> bytes | None:
        """See QueueClient."""
        return self._store.records.result(job_id)

    async def body(self, job_id: str) -> bytes | None:
        """See QueueClient."""
        return self._store.records.body(job_id)

    async def bodies(self, job_ids: Sequence[str]) -> list[bytes | None]:
        """See QueueClient."""
        return [self._store.records.body(job_id) for job_id in job_ids]

    async def forget(self, job_ids: Sequence[str]) -> int:
        """See QueueClient."""
        check_job_ids(job_ids)
        store, gone = self._store, 0
        for job_id in job_ids:
            if job_id not in store.bound and job_id not in store.later and store.records.forget(job_id):
                store.tokens.forget(job_id)
                gone += 1
        return gone

    async def notices(self, limit: int = 100) -> list[Notice]:
        """See QueueClient."""
        return self._store.notices.oldest(limit)

    async def acknowledge_notices(self, ids: Sequence[str]) -> None:
        """See QueueClient."""
        check_notice_ids(ids)
        self._store.notices.acknowledge(ids)

    async def read_tokens(self, after: Mapping[str, str], *, wait: float) -> list[TokenPiece]:
        """See QueueClient."""
        check_positions(after)
        return await self._store.tokens.read(after, wait)

    async def look_up(self, job_ids: Sequence[str]) -> list[tuple[dict[str, str], bytes | None]]:
        """See QueueClient."""
        records = [(job_id, self._store.records.get(job_id)) for job_id in job_ids]
        done = [record.get("state") == "succeeded" for _, record in records]
        return [
            (record, self._store.records.result(job_id) if ended else None)
            for (job_id, record), ended in zip(records, done, strict=True)
        ]

    @asynccontextmanager
    async def listen(self, heard: Callable[[Sequence[str] | None], None]) -> AsyncIterator[None]:
        """See QueueClient."""
        listeners = self._store.records.listeners
        listeners.add(heard)
        try:
            heard(None)
            yield
        finally:
            listeners.discard(heard)

    async def jobs(
        self,
        which: JobFilter | None = None,
        *,
        limit: int | None = None,
        unpack: Callable[[bytes], bytes] | None = None,
    ) -> AsyncIterator[JobInfo]:
        """See QueueClient."""
        for job in itertools.islice(filter(which, listed(self._store, unpack or bytes)), limit):
            yield job

    async def rate(self) -> float:
        """See QueueClient."""
        now = self._store.clock()
        return rate_of([now - ended for ended, _ in self._store.records.recent])

    async def cancel(self, job_id: str) -> Cancellation:
        """See QueueClient."""
        check_job_id(job_id)
        store = self._store
        entry, scheduled = store.bound.get(job_id), store.later.pop(job_id, None)
        if entry is not None:
            store.forget(entry)
            if entry.lease is not None:
                entry.lease.lose("gone")
        if entry is not None or scheduled is not None:
            store.records.cancelled(job_id)
            store.notices.ended(job_id, "cancelled")
            store.ledger.count("cancelled")
            return "cancelled"
        state = store.records.get(job_id).get("state")
        if state in ENDED:
            return "finished"
        store.tombstones.put(job_id, job_id, seconds=LIVE_SECONDS)
        if state is None:
            return "unknown"
        store.records.cancelling(job_id)
        return "will_be_cancelled"

    async def uncancel(self, job_id: str) -> bool:
        """See QueueClient."""
        check_job_id(job_id)
        if self._store.tombstones.pop(job_id) is None:
            return False
        self._store.records.uncancelled(job_id)
        return True

    async def depth(self) -> Depth:
        """See QueueClient."""
        store = self._store
        unclaimed, lined = store.unclaimed, store.tenants.waiting
        firsts = [entries[0] for entries in unclaimed.values() if entries]
        idle = [*firsts, *lined(), *store.ready, *store.suspects, *store.delayed, *store.held]
        return Depth(
            waiting=sum(map(len, unclaimed.values())) + len(lined()) + len(store.ready) + len(store.suspects),
            running=len(store.leased),
            delayed=len(store.delayed),
            dead=len(store.dead),
            oldest_seconds=store.clock() - min(entry.arrived for entry in idle) if idle else None,
            paused=store.paused,
            held=len(store.held),
            failing_seconds=None if store.evidence.since is None else store.clock() - store.evidence.since,
            failing_by=store.evidence.by or None,
            interactive=len(unclaimed["interactive"]) + len(lined("interactive")),
            background=len(unclaimed["background"]) + len(lined("background")),
            scheduled=len(store.later),
        )

    async def set_tenant(self, name: str, limits: TenantLimits | None) -> None:
        """See QueueClient."""
        check_tenant(name)
        tenants = self._store.tenants
        if limits is not None and not tenants.has(name) and len(tenants) >= MOST_TENANTS:
            raise BadInputError("bad_field", f"tenant {name}: {MOST_TENANTS} tenants have an entry, which are the most")
        tenants.set(name, limits)
        self._store.ring()

    async def tenants(self, name: str | None = None) -> list[TenantStanding]:
        """See QueueClient."""
        return self._store.tenants.standings(name)

    async def flow(self) -> Flow:
        """See QueueClient."""
        return self._store.flow()

    async def workers(self) -> list[LiveWorker]:
        """See QueueClient."""
        store = self._store
        workers = [
            LiveWorker(name, store.clock() - beat.at, beat.why, beat.lanes) for name, beat in store.beats.items()
        ]
        return [worker for worker in workers if worker.beat_seconds <= store.options.lease]

    async def ledger(
        self, since: float, until: float | None = None, *, tenant: str | None = None
    ) -> list[LedgerMinute]:
        """See QueueClient."""
        return self._store.ledger.between(since, until, tenant)

    async def pause(self, *, scale_to_zero: bool = False) -> None:
        """See QueueClient."""
        self._store.paused, self._store.scaled_to_zero = True, scale_to_zero

    async def resume(self) -> None:
        """See QueueClient."""
        self._store.paused = self._store.scaled_to_zero = False
        self._store.ring()

    async def dead(
        self,
        which: DeadFilter | None = None,
        *,
        limit: int | None = None,
        after: str | None = None,
        oldest_first: bool = False,
        payloads: bool = True,
    ) -> AsyncIterator[DeadLetter]:
        """See QueueClient."""
        chosen = self._chosen(which)
        if not oldest_first:
            chosen.reverse()
        begin = next((place for place, letter in enumerate(chosen, 1) if letter.id == after), 0)
        for letter in chosen[begin:][:limit]:
            yield letter if payloads else replace(letter, payload=b"")

    async def dead_letter(self, name: str, *, payload: bool = True) -> DeadLetter | None:
        """See QueueClient."""
        letters = self._chosen(None)
        found = [letter for letter in letters if letter.id == name] or [each for each in letters if each.job_id == name]
        return (found[-1] if payload else replace(found[-1], payload=b"")) if found else None

    async def dead_count(self, which: DeadFilter | None = None) -> int:
        """See QueueClient."""
        return len(self._chosen(which))

    async def dead_codes(self) -> dict[str, int]:
        """See QueueClient."""
        return dict(sorted(Counter(letter.code for letter in self._chosen(None)).items()))

    async def replay(self, letter_id: str) -> bool:
        """See QueueClient."""
        check_letter_id(letter_id)
        letter, entry = self._store.dead.pop(letter_id, (None, None))
        if letter is None or entry is None:
            return False
        self._store.replay(entry, letter.job_id)
        return True

    async def replay_many(self, letter_ids: Sequence[str]) -> list[Replay]:
        """See QueueClient."""
        check_letter_ids(letter_ids)
        return ["replayed" if await self.replay(letter_id) else "unknown" for letter_id in letter_ids]

    async def purge(self, *, older_than: float, code: str | None = None) -> int:
        """See QueueClient."""
        old = self._chosen(DeadFilter(code=code, older_than=older_than))
        for letter in old:
            del self._store.dead[letter.id]
        return len(old)

    async def discard(self, letter_ids: Sequence[str]) -> int:
        """See QueueClient."""
        check_letter_ids(letter_ids)
        return sum(self._store.dead.pop(letter_id, None) is not None for letter_id in letter_ids)

    def _chosen(self, which: DeadFilter | None) -> list[DeadLetter]:
        """Return matching letters, oldest first."""
        which, now = which or DeadFilter(), self._store.clock()
        since = max(which.since or 0.0, 0.0 if which.younger_than is None else now - which.younger_than)
        until = math.inf if which.older_than is None else now - which.older_than
        letters = (letter for letter, _ in self._store.dead.values())
        return [each for each in letters if since <= each.died_at <= until and which.code in (None, each.code)]
