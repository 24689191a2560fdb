"""What readers of the queue of one process see: answers and records, for as long as they last."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

import orjson

from greenscale_worker.job import Failed, Job, Output, Usage
from greenscale_worker.queues import ENDED, LIVE_SECONDS, Lease, QueueOptions
from greenscale_worker.queues.replaying import replayed

MOST_RECENT: Final = 1000
OVER_AT_THE_END: Final = frozenset({"due_ms", "error_code", "error_message"})

V = TypeVar("V")
Record = dict[str, str]


class Expiring(Generic[V]):
    """A dict whose values may come to an end; what has ended is cleared away when something is added."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[str, tuple[V, float]] = {}
        self._ends: deque[tuple[float, str]] = deque()

    def get(self, key: str) -> V | None:
        """Read, where there is such a value and it has not ended."""
        value, end = self._values.get(key, (None, -math.inf))
        return value if end > self._clock() else None

    def put(self, key: str, value: V, *, seconds: float = math.inf) -> None:
        """Write a value that lasts so long. Where ends differ, the longest may keep others a while."""
        now = self._clock()
        self._values[key] = (value, now + seconds)
        if seconds < math.inf:
            self._ends.append((now + seconds, key))
        while self._ends and self._ends[0][0] <= now:
            self._clear(self._ends.popleft()[1], now)

    def pop(self, key: str) -> V | None:
        """Read and delete."""
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
        self.recent: deque[tuple[float, str]] = deque(maxlen=MOST_RECENT)  # when a job ended, and its id
        self.listeners: set[Callable[[Sequence[str] | None], None]] = set()

    def get(self, job_id: str) -> Record:
        """Read a record; empty where there is none."""
        return dict(self._records.get(job_id) or {})

    def result(self, job_id: str) -> bytes | None:
        """Read an answer."""
        return self._results.get(job_id)

    def waiting(self, job_id: str, *, cancelled: bool = False) -> None:
        """A job was handed in; perhaps one whose cancellation has come before it."""
        self._write(job_id, {"state": "cancelling" if cancelled else "waiting", "submitted_ms": ms(self._clock())})

    def replayed(self, job_id: str) -> None:
        """A dead letter waits again."""
        self._write(job_id, replayed(self.get(job_id)))

    def cancelling(self, job_id: str) -> None:
        """A job will be cancelled when it comes up."""
        self._write(job_id, {**self.get(job_id), "state": "cancelling"}, seconds=LIVE_SECONDS)

    def uncancelled(self, job_id: str) -> None:
        """A job that was to be cancelled waits again."""
        if self.get(job_id).get("state") == "cancelling":
            self._write(job_id, {**self.get(job_id), "state": "waiting"})

    def running(self, lease: Lease, job: Job, worker: str) -> None:
        """A run begins: a record tells of one run only, but when the job was handed in stays true for all."""
        record = {
            "state": "running",
            "attempts": str(lease.attempts),
            "crashes": str(lease.crashes),
            "first_claimed_ms": ms(lease.first_claimed_at),
            "claimed_ms": ms(lease.claimed_at),
            "worker": worker,
        }
        submitted = self.get(job.job_id).get("submitted_ms")
        known = {
            "submitted_ms": submitted,
            "backend": self._options.backend or None,
            "created_at": job.created_at.isoformat() if job.created_at else None,
            "metadata": orjson.dumps(job.metadata).decode() if job.metadata else None,
        }
        self._write(job.job_id, {**record, **_present(known)})

    def postponed(self, job_id: str, due: float, state: str, code: str, message: str = "") -> None:
        """A job went back to the queue."""
        why = {"error_code": code, **({"error_message": message} if message else {})}
        self._write(job_id, {**self.get(job_id), "state": state, "due_ms": ms(due), **why})

    def cancelled(self, job_id: str) -> None:
        """A job was ended by somebody who asked for it."""
        self._finish(job_id, {"state": "cancelled"})

    def succeeded(self, job_id: str, output: Output) -> None:
        """A job has its answer."""
        known = {
            "model": output.model,
            "finish_reason": output.finish_reason,
        }
        self._results.put(job_id, output.text.encode(errors="replace"), seconds=self._options.result_ttl)
        self._finish(job_id, {"state": "succeeded", **_present(known), **_tokens(output.usage)})

    def failed(self, job_id: str, fault: Failed, *, ran: bool, attempts: int, crashes: int) -> None:
        """A job became a dead letter. One that never ran takes nothing over from an earlier job of the same id."""
        if not ran and self.get(job_id).get("state") in ENDED:
            self._records.pop(job_id)
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

    def _write(self, job_id: str, record: Record, *, seconds: float = math.inf) -> None:
        if self._options.result_ttl:
            self._records.put(job_id, record, seconds=seconds)


def ms(seconds: float) -> str:
    """Write a time as records do."""
    return str(int(seconds * 1000))


def _tokens(usage: Usage) -> Record:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return _present({name: getattr(usage, name) for name in names})


def _present(fields: Mapping[str, str | int | None]) -> Record:
    return {name: str(value) for name, value in fields.items() if value is not None}
