"""Answers and records of the queue within one process, until they expire."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from greenscale_worker.job import Failed, Job, Keep, Output, Usage
from greenscale_worker.queues import ENDED, LIVE_SECONDS, Lease, QueueOptions
from greenscale_worker.queues.putting import echoed
from greenscale_worker.queues.replaying import KEPT, OF_THE_JOB, replayed

MOST_RECENT: Final = 1000
OVER_AT_THE_END: Final = frozenset({"due_ms", "error_code", "error_message"})

V = TypeVar("V")
Record = dict[str, str]


class Expiring(Generic[V]):
    """A dict whose values may expire; expired ones are deleted when a value is added."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[str, tuple[V, float]] = {}
        self._ends: deque[tuple[float, str]] = deque()

    def get(self, key: str) -> V | None:
        """Return a value; None if there is none or it has expired."""
        value, end = self._values.get(key, (None, -math.inf))
        return value if end > self._clock() else None

    def put(self, key: str, value: V, *, seconds: float = math.inf) -> None:
        """Write a value that lasts so long. It is deleted no earlier than values added before it."""
        now = self._clock()
        self._values[key] = (value, now + seconds)
        if seconds < math.inf:
            self._ends.append((now + seconds, key))
        while self._ends and self._ends[0][0] <= now:
            self._clear(self._ends.popleft()[1], now)

    def pop(self, key: str) -> V | None:
        """Return a value and delete it."""
        value = self.get(key)
        self._values.pop(key, None)
        return value

    def _clear(self, key: str, now: float) -> None:
        if key in self._values and self._values[key][1] <= now:
            del self._values[key]


class Records:
    """Answers and records by job id. Times in records are milliseconds since the epoch."""

    def __init__(self, options: QueueOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._records: Expiring[Record] = Expiring(clock)
        self._results: Expiring[bytes] = Expiring(clock)
        self._bodies: Expiring[bytes] = Expiring(clock)
        self.recent: deque[tuple[float, str]] = deque(maxlen=MOST_RECENT)  # when a job ended, and its id
        self.listeners: set[Callable[[Sequence[str] | None], None]] = set()

    def get(self, job_id: str) -> Record:
        """Return a record; empty if there is none."""
        return dict(self._records.get(job_id) or {})

    def result(self, job_id: str) -> bytes | None:
        """Return an answer, or None."""
        return self._results.get(job_id)

    def body(self, job_id: str) -> bytes | None:
        """Return the endpoint's whole answer, or None."""
        return self._bodies.get(job_id) if self.get(job_id).get("keep") == "body" else None

    def forget(self, job_id: str) -> bool:
        """Delete record and answers of a job that has ended; return whether there was one."""
        if self.get(job_id).get("state") not in ENDED:
            return False
        for kept in (self._records, self._results, self._bodies):
            kept.pop(job_id)
        return True

    def waiting(self, job_id: str, *, cancelled: bool = False, **own: str) -> None:
        """Record a submitted job; `cancelled`: its cancellation came before it. `own` stays in the record."""
        state = "cancelling" if cancelled else "waiting"
        self._write(job_id, {"state": state, "submitted_ms": ms(self._clock()), **_said(own)})

    def scheduled(self, job_id: str, due: float, **own: str) -> None:
        """Record a submitted job that is not due yet."""
        submitted = {"submitted_ms": ms(self._clock()), "due_ms": ms(due)}
        self._write(job_id, {"state": "scheduled", **submitted, **_said(own)})

    def promoted(self, job_id: str, *, cancelled: bool) -> None:
        """Record that a scheduled job has become due."""
        said = {name: value for name, value in self.get(job_id).items() if name in KEPT}
        self.waiting(job_id, cancelled=cancelled, **said)

    def replayed(self, job_id: str) -> None:
        """Record that a dead letter waits again."""
        self._write(job_id, replayed(self.get(job_id)))

    def cancelling(self, job_id: str) -> None:
        """Record that a job will be cancelled when it is claimed."""
        self._write(job_id, {**self.get(job_id), "state": "cancelling"}, seconds=LIVE_SECONDS)

    def uncancelled(self, job_id: str) -> None:
        """Record that a job that was to be cancelled waits again."""
        if self.get(job_id).get("state") == "cancelling":
            self._write(job_id, {**self.get(job_id), "state": "waiting"})

    def running(self, lease: Lease, job: Job, worker: str) -> None:
        """Record the begin of a run. Of the record before, only what concerns no run is kept."""
        record = {
            "state": "running",
            "attempts": str(lease.attempts),
            "crashes": str(lease.crashes),
            "first_claimed_ms": ms(lease.first_claimed_at),
            "claimed_ms": ms(lease.claimed_at),
            "worker": worker,
        }
        backend = _present({"backend": self._options.backend or None})
        self._write(job.job_id, {**record, **backend, **echoed(job), **self._of_the_job(job.job_id)})

    def postponed(self, job_id: str, due: float, state: str, code: str, message: str = "") -> None:
        """Record that a job went back to the queue."""
        why = {"error_code": code, **({"error_message": message} if message else {})}
        self._write(job_id, {**self.get(job_id), "state": state, "due_ms": ms(due), **why})

    def drained(self, job_id: str) -> int:
        """Record that a drain has cut a job off; return how many have. 0 where no record is kept."""
        if not (record := self.get(job_id)):
            return 0
        drains = int(record.get("drains", 0)) + 1
        self._write(job_id, {**record, "drains": str(drains)})
        return drains

    def cancelled(self, job_id: str) -> None:
        """Record that a user cancelled a job."""
        self._finish(job_id, {"state": "cancelled"})

    def succeeded(self, job_id: str, output: Output, keep: Keep = "text") -> None:
        """Record a job's answer, and the endpoint's whole one if that is to be kept."""
        known = {
            "model": output.model,
            "finish_reason": output.finish_reason,
            "keep": "body" if keep == "body" and output.body else None,
        }
        if known["keep"]:
            self._bodies.put(job_id, output.body, seconds=self._options.result_ttl)
        self._results.put(job_id, output.text.encode(errors="replace"), seconds=self._options.result_ttl)
        self._finish(job_id, {"state": "succeeded", **_present(known), **_tokens(output.usage)})

    def failed(self, job_id: str, fault: Failed, *, ran: bool, attempts: int, crashes: int) -> None:
        """Record that a job became a dead letter. If it never ran, an ended job's record of its id is replaced."""
        if not ran and self.get(job_id).get("state") in ENDED:
            self._write(job_id, self._of_the_job(job_id))
        counts = {"attempts": str(attempts), "crashes": str(crashes)}
        why = {"state": "failed", **counts, "error_code": fault.code, "error_message": fault.message}
        self._finish(job_id, why | _tokens(fault.usage))

    def _finish(self, job_id: str, fields: Record) -> None:
        past = {name: value for name, value in self.get(job_id).items() if name not in OVER_AT_THE_END}
        final = {**past, **fields, "finished_ms": ms(self._clock())}
        self._write(job_id, final, seconds=self._options.result_ttl)
        if self._options.result_ttl:
            self.recent.appendleft((self._clock(), job_id))
            for heard in list(self.listeners):
                heard([job_id])

    def _of_the_job(self, job_id: str) -> Record:
        """Return what a record says whatever becomes of the job's runs."""
        return {name: value for name, value in self.get(job_id).items() if name in OF_THE_JOB}

    def _write(self, job_id: str, record: Record, *, seconds: float = math.inf) -> None:
        if self._options.result_ttl:
            self._records.put(job_id, record, seconds=seconds)


def ms(seconds: float) -> str:
    """Format seconds as ms, as in records."""
    return str(int(seconds * 1000))


def _tokens(usage: Usage) -> Record:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return _present({name: getattr(usage, name) for name in names})


def _said(fields: Record) -> Record:
    return {name: value for name, value in fields.items() if value}


def _present(fields: Mapping[str, str | int | None]) -> Record:
    return {name: str(value) for name, value in fields.items() if value is not None}
