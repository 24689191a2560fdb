"""Notices of ends, until somebody acknowledges them."""

from collections.abc import Callable, Sequence
from itertools import islice

from greenscale_worker.queues import Notice, State


class Notices:
    """The jobs whose end is to leave a notice, and the notices that were left."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked: set[str] = set()
        self._left: dict[str, Notice] = {}
        self._last = 0

    def ask(self, job_id: str) -> None:
        """Let the end of a job leave a notice."""
        self._asked.add(job_id)

    def ended(self, job_id: str | None, state: State, code: str | None = None) -> bool:
        """Note the end of a job; return whether it left a notice."""
        if job_id is None or job_id not in self._asked:
            return False
        self._asked.remove(job_id)
        self._last += 1
        self._left[str(self._last)] = Notice(str(self._last), job_id, state, self._clock(), code or None)
        return True

    def oldest(self, limit: int) -> list[Notice]:
        """Return so many."""
        return list(islice(self._left.values(), max(limit, 0)))

    def trim(self, max_age: float, max_count: int) -> None:
        """Delete those that are older than `max_age` seconds, and the oldest beyond `max_count`."""
        oldest = self._clock() - max_age
        while self._left:
            first = next(iter(self._left.values()))
            if len(self._left) <= max_count and first.at >= oldest:
                break
            del self._left[first.id]

    def acknowledge(self, ids: Sequence[str]) -> None:
        """Delete some."""
        for each in ids:
            self._left.pop(each, None)
