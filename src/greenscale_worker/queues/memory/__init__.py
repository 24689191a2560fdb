"""The queue within one process, for batch, quick start, embedding and tests.

It keeps the promises of the queues in Redis (docs/queue-protocol.md), but ends with its process.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from greenscale_worker.blame import decide
from greenscale_worker.job import DRAIN, SNOOZED, Failed, Failure, Job, Outcome, Released, Succeeded, Usage
from greenscale_worker.queues import (
    SUSPECT_CRASHES,
    Binding,
    DeadLetter,
    Lease,
    Observed,
    QueueOptions,
    Verdict,
    token_seconds,
)
from greenscale_worker.queues.memory.client import MemoryClient
from greenscale_worker.queues.memory.store import Beat, Entry, Store

SHORTEST_SLEEP: Final = 0.01


class MemoryQueue(MemoryClient):
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
        super().__init__(Store(options or QueueOptions(), lambda: epoch + clock()))
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

    async def lease(self, *, probe: bool = False) -> Lease:
        """See Queue."""
        store = self._store
        await asyncio.sleep(0)  # a lane that never waits would starve everything else
        while (lease := self._claim(probe=probe)) is None:
            bell = store.new_bell()
            try:
                async with asyncio.timeout(self._sleep(probe=probe)):
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
            store.tenants.ends(entry)
            self._drop(lease, entry)
            store.flow_control.dropped(lease)
            return "duplicate"
        if job.notify:
            store.notices.ask(job.job_id)
        if store.tombstones.pop(job.job_id):
            store.tenants.ends(entry)
            self._drop(lease, entry)
            store.flow_control.dropped(lease)
            store.records.cancelled(job.job_id)
            store.notices.ended(job.job_id, "cancelled")
            store.ledger.count("cancelled")
            return "cancelled"
        store.bound[job.job_id] = entry
        entry.bound_to = lease.job_id = job.job_id
        lease.tenant, lease.keep = job.tenant, job.keep
        lease.attempts = lease.runs + 1
        store.flow_control.bound_job(lease, job.payload)
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
        usage = outcome.usage if isinstance(outcome, Failed) else outcome.output.usage
        self._store.tenants.ends(entry, usage, called=bool(lease.call_seconds))
        self._drop(lease, entry)
        if isinstance(outcome, Failed):
            self._ended(lease, outcome.usage)
            self._bury(entry, lease.job_id, outcome, lease.attempts)
            self._store.ledger.count("failed", lease, outcome.usage)
        else:
            self._ended(lease, outcome.output.usage, succeeded=True)
            self._store.flow_control.hear(outcome.output.rates)
            self._store.ledger.count("ended", lease, outcome.output.usage)
            self._store.evidence.succeeded(self._began(lease), held=bool(self._store.held))
            if lease.job_id is not None:
                self._store.records.succeeded(lease.job_id, outcome.output, lease.keep)
                self._store.notices.ended(lease.job_id, "succeeded")
        return True

    async def write_tokens(self, lease: Lease, text: str, *, last: bool = False) -> bool:
        """See Queue."""
        entry, store = self._store.live(lease), self._store
        if entry is None or lease.job_id is None:
            return False
        if seconds := token_seconds(store.options, last=last):
            attempt = entry.runs + entry.crashes + 1
            store.tokens.write(lease, text, attempt=attempt, seconds=seconds)
        return True

    async def retry(self, lease: Lease, failure: Failure) -> Verdict:
        """See Queue."""
        entry, store = self._store.live(lease), self._store
        if entry is None:
            return "stale"
        entry.runs += 1
        store.tenants.ends(entry, called=bool(lease.call_seconds), again=True)
        if failure.hold > 0:
            store.flow_control.pause(failure.hold, len(store.leased))
        self._ended(lease)
        store.flow_control.hear(failure.rates)
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
            store.ledger.count("failed", lease)
        else:
            store.ledger.count("retried", lease)
            self._held.pop(lease.token, None)
            due = store.clock() + judged.delay
            store.delay(entry, due)
            if lease.job_id is not None:
                state = "held" if judged.verdict == "held" else "delayed"
                store.records.postponed(lease.job_id, due, state, failure.code, failure.message)
        return judged.verdict

    def _ended(self, lease: Lease, usage: Usage | None = None, *, succeeded: bool = False) -> None:
        """Put budgets and slow start right after a job, and wake lanes that it may have made room for."""
        control = self._store.flow_control
        was_used = control.is_used
        control.ended(lease, usage, worker=self._worker, succeeded=succeeded)
        if was_used:
            self._store.ring()

    def _began(self, lease: Lease) -> float:
        """Return when the call of a job began, by the queue's clock; without a call: now."""
        return self._store.clock() - (0.0 if lease.began is None else time.monotonic() - lease.began)

    async def observe(
        self, seconds: float, limit: int | None = None, *, calm: int = 0, why: str = ""
    ) -> Observed | None:
        """See Queue."""
        control, before = self._store.flow_control, self._store.flow_control.engine or 0
        if not control.observe(self._worker, seconds, limit, calm=calm, why=why):
            return None
        if (control.engine or 0) > before:
            self._store.ring()
        return Observed(control.engine, len(self._store.leased), control.engine_calm)

    async def beat(self, why: str | None = None, *, lanes: int | None = None, shut: bool = False) -> None:
        """See Queue."""
        store = self._store
        for lease in list(self._held.values()):
            entry = store.live(lease)
            if entry is not None:
                store.prolong(entry)
                store.flow_control.prolong(lease)
            else:
                del self._held[lease.token]
                lease.lose("taken" if int(lease.id) in store.open else "gone")
        self._tick()
        self._trim()
        store.notices.trim(store.options.notices_max_age, store.options.notices_max_count)
        self._count_time()
        store.promote()
        store.beats[self._worker] = Beat(store.clock(), why, lanes)
        store.flow_control.note_breaker(self._worker, shut=shut, alive=len(store.alive()), lanes=lanes or 1)

    async def aclose(self) -> None:
        """Leave the list of live workers. Jobs are never claimed ahead, so there is none to hand back."""
        if self._worker in self._store.beats:
            self._count_time()
        self._store.beats.pop(self._worker, None)

    def _count_time(self) -> None:
        """Count in the ledger what has passed since the last heartbeat; at most the time of two, as in ledger.lua."""
        store, now, most = self._store, self._store.clock(), 2 * self._store.options.heartbeat
        before = store.beats.get(self._worker, Beat(now)).at
        alive = {self._worker, *(name for name, beat in store.beats.items() if now - beat.at <= most)}
        store.ledger.worked(min(now - before, most), leases=len(self._held), alive=len(alive))

    def _claim(self, *, probe: bool) -> Lease | None:
        self._tick()
        if self._store.paused:
            return None
        suspect = any(held.crashes >= SUSPECT_CRASHES and not held.lost for held in self._held.values())
        lease = self._store.take(suspect=not suspect, probe=probe)
        if lease is not None:
            self._held[lease.token] = lease
        return lease

    def _sleep(self, *, probe: bool) -> float | None:
        store, due = self._store, self._store.next_due()
        if store.paused:
            return None
        why, seconds = store.flow_control.bound(len(store.leased), probe=probe)
        waits = [] if due is None else [due - store.clock()]
        waits += [] if why is None else [seconds]
        return max(SHORTEST_SLEEP, min(waits)) if waits else None

    def _tick(self) -> None:
        for entry in self._store.tick():
            outcome = Failed("crashed", f"the lease expired {entry.crashes} times")
            if entry.lease is not None:
                self._tell(entry.lease, outcome)
            self._store.forget(entry)
            self._bury(entry, entry.bound_to, outcome, entry.runs)
            self._store.ledger.count("failed")

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
        store.tenants.ends(entry)
        self._ended(lease)
        if outcome.reason == SNOOZED:
            entry.crashes = 0
        due = store.clock() + outcome.delay
        if outcome.delay > 0:
            store.delay(entry, due)
        else:
            store.requeue(entry)
        if lease.job_id is not None:
            store.records.postponed(lease.job_id, due, "delayed", outcome.reason)
            if outcome.reason == DRAIN:
                lease.drains = store.records.drained(lease.job_id)
        return True

    def _settle_late(self, lease: Lease, outcome: Succeeded | Failed) -> bool:
        """Let a finished answer replace the dead letter made of the same lease."""
        _, entry = self._store.dead.get(lease.id, (None, None))
        if entry is None or entry.lease is None or entry.lease.token != lease.token:
            return False
        if isinstance(outcome, Succeeded):
            self._tell(lease, outcome)
            del self._store.dead[lease.id]
            self._store.ledger.count("ended", lease, outcome.output.usage)
            if lease.job_id is not None:
                self._store.records.succeeded(lease.job_id, outcome.output, lease.keep)
                if entry.notify:
                    self._store.notices.ask(lease.job_id)
                self._store.notices.ended(lease.job_id, "succeeded")
        return True

    def _bury(self, entry: Entry, job_id: str | None, fault: Failed, attempts: int) -> None:
        store = self._store
        clash = job_id is not None and job_id in store.bound
        code = "conflict" if clash else fault.code
        counts = (attempts, entry.crashes, store.clock())
        letter = DeadLetter(str(entry.id), job_id, code, fault.message, *counts, entry.payload)
        store.dead[letter.id] = (letter, entry)
        entry.notify = not clash and store.notices.ended(job_id, "failed", code)
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
