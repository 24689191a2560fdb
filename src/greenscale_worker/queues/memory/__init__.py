"""The queue within one process, for batch, quick start, embedding and tests.

It keeps the promises of the queues in Redis (docs/queue-protocol.md), but ends with its process.
"""

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from greenscale_worker.blame import decide
from greenscale_worker.job import Failed, Failure, Job, Outcome, Released, Succeeded, check_job_id
from greenscale_worker.queues import (
    ENDED,
    LIVE_SECONDS,
    SUSPECT_CRASHES,
    Binding,
    Cancellation,
    DeadFilter,
    DeadLetter,
    Depth,
    JobFilter,
    JobInfo,
    Lease,
    LiveWorker,
    QueueOptions,
    Replay,
    Verdict,
)
from greenscale_worker.queues.memory.listing import listed
from greenscale_worker.queues.memory.store import Entry, Store
from greenscale_worker.queues.rate import rate_of
from greenscale_worker.queues.replaying import check_letter_id, check_letter_ids

SHORTEST_SLEEP: Final = 0.01


class MemoryQueue:
    """Queue and QueueClient in one object, for the lanes of one worker; `beside` opens one for another worker.

    `options` are those of the Redis queues, except for what concerns a server. `clock` counts seconds from any start
    and never goes back. `on_settled` is called with every outcome just before its job is acknowledged; if it raises,
    the job stays leased.
    """

    def __init__(
        self,
        options: QueueOptions | None = None,
        *,
        worker: str = "memory",
        clock: Callable[[], float] = time.monotonic,
        on_settled: Callable[[Lease, Outcome], None] | None = None,
    ) -> None:
        epoch = time.time() - clock()
        self._store = Store(options or QueueOptions(), lambda: epoch + clock())
        self._worker = worker
        self._on_settled = on_settled
        self._held: dict[str, Lease] = {}

    def beside(self, worker: str) -> "MemoryQueue":
        """Open the same jobs for another worker of this process."""
        other = MemoryQueue(worker=worker, on_settled=self._on_settled)
        other._store = self._store
        return other

    @property
    def options(self) -> QueueOptions:
        """See Queue."""
        return self._store.options

    @property
    def up(self) -> bool:
        """See Queue: there is no server that could be down."""
        return True

    async def lease(self) -> Lease:
        """See Queue."""
        store = self._store
        await asyncio.sleep(0)  # a lane that never waits would starve everything else
        while (lease := self._claim()) is None:
            bell = store.new_bell()
            try:
                async with asyncio.timeout(self._sleep()):
                    await bell
            except TimeoutError:
                continue
            except asyncio.CancelledError:
                store.ring(1)  # another lane takes the job that this one was woken for
                raise
            finally:
                store.bells.pop(bell, None)
        return lease

    async def bind(self, lease: Lease, job: Job) -> Binding:
        """See Queue."""
        entry, store = self._store.live(lease), self._store
        if entry is None:
            return "stale"
        other = store.bound.get(job.job_id, entry)
        if other.payload != entry.payload:
            return "conflict"
        if other is not entry:
            self._drop(lease, entry)
            return "duplicate"
        if store.tombstones.pop(job.job_id):
            self._drop(lease, entry)
            store.records.cancelled(job.job_id)
            return "cancelled"
        store.bound[job.job_id] = entry
        entry.bound_to = lease.job_id = job.job_id
        lease.attempts = lease.runs + 1
        store.records.running(lease, job, self._worker)
        return "run"

    async def settle(self, lease: Lease, outcome: Outcome) -> bool:
        """See Queue."""
        if isinstance(outcome, Released):
            return self._release(lease, outcome)
        entry = self._store.latest(lease)
        if entry is None:
            return self._settle_late(lease, outcome)
        self._tell(lease, outcome)
        self._drop(lease, entry)
        if isinstance(outcome, Failed):
            self._bury(entry, lease.job_id, outcome, lease.attempts)
        else:
            self._store.evidence.succeeded(self._began(lease), held=bool(self._store.held))
            if lease.job_id is not None:
                self._store.records.succeeded(lease.job_id, outcome.output)
        return True

    async def retry(self, lease: Lease, failure: Failure) -> Verdict:
        """See Queue."""
        entry, store = self._store.live(lease), self._store
        if entry is None:
            return "stale"
        entry.runs += 1
        judged = decide(
            failure,
            store.evidence,
            now=store.clock(),
            tries=entry.tries,
            runs=entry.runs - 1,
            failed=entry.failed,
            began=self._began(lease),
            alone=lambda: store.alone(entry),
        )
        entry.tries, entry.failed = judged.tries, judged.failed
        lease.attempts, lease.due_in = entry.runs, judged.delay
        if judged.verdict == "dead":
            outcome = Failed(failure.code, failure.message)
            self._tell(lease, outcome)
            self._drop(lease, entry)
            self._bury(entry, lease.job_id, outcome, lease.attempts)
        else:
            self._held.pop(lease.token, None)
            due = store.clock() + judged.delay
            store.delay(entry, due)
            if lease.job_id is not None:
                state = "held" if judged.verdict == "held" else "delayed"
                store.records.postponed(lease.job_id, due, state, failure.code, failure.message)
        return judged.verdict

    def _began(self, lease: Lease) -> float:
        """Return when the call of a job began, by the queue's clock; without a call: now."""
        return self._store.clock() - (0.0 if lease.began is None else time.monotonic() - lease.began)

    async def beat(self, why: str | None = None) -> None:
        """See Queue."""
        store = self._store
        for lease in list(self._held.values()):
            entry = store.live(lease)
            if entry is not None:
                store.prolong(entry)
            else:
                del self._held[lease.token]
                lease.lose("taken" if int(lease.id) in store.open else "gone")
        self._tick()
        self._trim()
        store.beats[self._worker] = store.clock(), why

    async def aclose(self) -> None:
        """Leave the list of live workers. Jobs are never claimed ahead, so there is none to hand back."""
        self._store.beats.pop(self._worker, None)

    async def put(self, jobs: Sequence[tuple[str, bytes]], *, fold: bool = False) -> list[bool]:
        """See QueueClient."""
        store, put = self._store, []
        for job_id, _ in jobs:
            check_job_id(job_id)
        for job_id, payload in jobs:
            known = job_id in store.bound or store.records.get(job_id).get("state") not in {None, "failed", "cancelled"}
            put.append(not (fold and known))
            if put[-1]:
                if job_id not in store.bound:
                    store.records.waiting(job_id, cancelled=store.tombstones.get(job_id) is not None)
                store.append(payload)
        store.ring(sum(put))
        return put

    async def record(self, job_id: str) -> dict[str, str]:
        """See QueueClient."""
        return self._store.records.get(job_id)

    async def result(self, job_id: str) -> bytes | None:
        """See QueueClient."""
        return self._store.records.result(job_id)

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
        entry = store.bound.get(job_id)
        if entry is not None:
            store.forget(entry)
            store.records.cancelled(job_id)
            if entry.lease is not None:
                entry.lease.lose("gone")
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
        idle = [*itertools.islice(store.waiting, 1), *store.ready, *store.suspects, *store.delayed, *store.held]
        return Depth(
            waiting=len(store.waiting) + len(store.ready) + len(store.suspects),
            running=len(store.leased),
            delayed=len(store.delayed),
            dead=len(store.dead),
            oldest_seconds=store.clock() - min(entry.arrived for entry in idle) if idle else None,
            paused=store.paused,
            held=len(store.held),
            failing_seconds=None if store.evidence.since is None else store.clock() - store.evidence.since,
            failing_by=store.evidence.by or None,
        )

    async def workers(self) -> list[LiveWorker]:
        """See QueueClient."""
        store = self._store
        workers = [LiveWorker(name, store.clock() - beat, why) for name, (beat, why) in store.beats.items()]
        return [worker for worker in workers if worker.beat_seconds <= store.options.lease]

    async def pause(self) -> None:
        """See QueueClient."""
        self._store.paused = True

    async def resume(self) -> None:
        """See QueueClient."""
        self._store.paused = False
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

    def _chosen(self, which: DeadFilter | None) -> list[DeadLetter]:
        """Return matching letters, oldest first."""
        which, now = which or DeadFilter(), self._store.clock()
        since = max(which.since or 0.0, 0.0 if which.younger_than is None else now - which.younger_than)
        until = math.inf if which.older_than is None else now - which.older_than
        letters = (letter for letter, _ in self._store.dead.values())
        return [each for each in letters if since <= each.died_at <= until and which.code in (None, each.code)]

    def _claim(self) -> Lease | None:
        self._tick()
        if self._store.paused:
            return None
        suspect = any(held.crashes >= SUSPECT_CRASHES and not held.lost for held in self._held.values())
        lease = self._store.take(suspect=not suspect)
        if lease is not None:
            self._held[lease.token] = lease
        return lease

    def _sleep(self) -> float | None:
        due = self._store.next_due()
        return None if due is None or self._store.paused else max(SHORTEST_SLEEP, due - self._store.clock())

    def _tick(self) -> None:
        for entry in self._store.tick():
            outcome = Failed("crashed", f"the lease expired {entry.crashes} times")
            if entry.lease is not None:
                self._tell(entry.lease, outcome)
            self._store.forget(entry)
            self._bury(entry, entry.bound_to, outcome, entry.runs)

    def _tell(self, lease: Lease, outcome: Outcome) -> None:
        if self._on_settled is not None:
            self._on_settled(lease, outcome)

    def _drop(self, lease: Lease, entry: Entry) -> None:
        self._held.pop(lease.token, None)
        self._store.forget(entry)

    def _release(self, lease: Lease, outcome: Released) -> bool:
        entry, store = self._store.live(lease), self._store
        if entry is None:
            return False
        self._tell(lease, outcome)
        self._held.pop(lease.token, None)
        due = store.clock() + outcome.delay
        if outcome.delay > 0:
            store.delay(entry, due)
        else:
            store.requeue(entry)
        if lease.job_id is not None:
            store.records.postponed(lease.job_id, due, "delayed", outcome.reason)
        return True

    def _settle_late(self, lease: Lease, outcome: Succeeded | Failed) -> bool:
        """Let a finished answer replace the dead letter made of the same lease."""
        _, entry = self._store.dead.get(lease.id, (None, None))
        if entry is None or entry.lease is None or entry.lease.token != lease.token:
            return False
        if isinstance(outcome, Succeeded):
            self._tell(lease, outcome)
            del self._store.dead[lease.id]
            if lease.job_id is not None:
                self._store.records.succeeded(lease.job_id, outcome.output)
        return True

    def _bury(self, entry: Entry, job_id: str | None, fault: Failed, attempts: int) -> None:
        store = self._store
        clash = job_id is not None and job_id in store.bound
        code = "conflict" if clash else fault.code
        counts = (attempts, entry.crashes, store.clock())
        letter = DeadLetter(str(entry.id), job_id, code, fault.message, *counts, entry.payload)
        store.dead[letter.id] = (letter, entry)
        self._trim()
        if job_id is not None and not clash:
            store.records.failed(job_id, fault, ran=entry.bound_to == job_id, attempts=attempts, crashes=entry.crashes)

    def _trim(self) -> None:
        """Delete dead letters that exceed the age or the number allowed."""
        dead, options, now = self._store.dead, self._store.options, self._store.clock()
        while options.dead_max_count and len(dead) > options.dead_max_count:
            del dead[next(iter(dead))]
        while options.dead_max_age and dead and next(iter(dead.values()))[0].died_at < now - options.dead_max_age:
            del dead[next(iter(dead))]
