"""Tenants with an entry, in the ledger: their lines, and whose turn it is. Times here are those of turns."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.support.entries import BATCH, CLASSES

TENANTS = ["t", "u", "v"]


@dataclass
class Queue:
    """The tenants that are served in turn in a class, by one claim. `''` has all jobs in no line."""

    start: float
    times: dict[str, float]
    done: set[str] = field(default_factory=set)

    def next(self) -> str | None:
        left = [name for name in self.times if name not in self.done]
        return min(left, key=lambda name: self.times[name]) if left else None


@dataclass
class Tenancy:
    """`entries` are weight and most jobs in flight (0: any number) by name; `flag` says that there is any of this."""

    flag: str = ""
    entries: dict[str, tuple[int, int]] = field(default_factory=dict)
    lines: dict[tuple[str, str], deque[tuple[int, bytes]]] = field(default_factory=dict)
    number: int | None = None
    starts: dict[str, float] = field(default_factory=dict)
    times: dict[tuple[str, str], float] = field(default_factory=dict)
    checked: bytes = b""

    def set(self, name: str, entry: tuple[int, int] | None) -> None:
        if entry is not None:
            self.entries[name], self.flag = entry, "1"
            return
        self.entries.pop(name, None)
        for job_class in CLASSES:
            self.times.pop((job_class, name), None)
        if not self.entries and self.flag:
            self.flag = "0"

    def push(self, job_class: str, name: str, payload: bytes, now: int) -> None:
        self.number = max((self.number or 0) + 1, now * 1000)
        self.lines.setdefault((job_class, name), deque()).append((self.number, payload))

    def waiting(self, job_class: str | None = None) -> list[bytes]:
        return [
            payload
            for (its_class, _), line in self.lines.items()
            if job_class in (None, its_class)
            for _, payload in line
        ]

    def free(self, name: str, in_flight: int) -> float:
        """Say how many more of its jobs may be in flight."""
        most = self.entries.get(name, (1, 0))[1]
        return max(0, most - in_flight) if most else float("inf")

    def claimable(self, in_flight: Callable[[str], int]) -> int:
        """Count the jobs in lines that may be claimed now."""
        names = {name for _, name in self.lines}
        waiting = {name: sum(len(self.lines.get((each, name), ())) for each in CLASSES) for name in names}
        return sum(int(min(number, self.free(name, in_flight(name)))) for name, number in waiting.items())

    def begin(self, job_class: str) -> Queue | None:
        names = sorted(name for (its_class, name), line in self.lines.items() if its_class == job_class and line)
        if not names:
            return None
        start = self.starts.get(job_class, 0.0)
        times = {name: self.times.get((job_class, name), start) for name in ("", *names)}
        return Queue(start, {name: min(max(start, time), start + 1) for name, time in times.items()})

    def served(self, job_class: str, queue: Queue, name: str) -> None:
        weight = self.entries.get(name, (1, 0))[0]
        queue.start = self.starts[job_class] = max(queue.start, queue.times[name])
        queue.times[name] += 1 / weight
        self.times[job_class, name] = queue.times[name]

    def mend(self, in_flight: Iterable[bytes]) -> None:
        """Look through a part of what is in flight, as a heartbeat does; drop the flag where there is nothing left."""
        if not self.flag:
            return
        members = sorted(in_flight)
        if self.flag == "0" and not any(self.lines.values()) and not members:
            self.flag, self.number = "", None
            self.starts.clear()
            self.times.clear()
        behind = [member for member in members if not self.checked or member > self.checked[1:]]
        part = behind[:BATCH]
        self.checked = b"(" + part[-1] if part else b""

    def turn_times(self) -> dict[bytes, float]:
        """What lies in Redis of the times of turns."""
        return {f"turn|{job_class}".encode(): time for job_class, time in self.starts.items()} | {
            f"turn|{job_class}|{name}".encode(): time for (job_class, name), time in self.times.items()
        }

    def members(self) -> dict[bytes, bytes]:
        """What lies in Redis of the lines: payloads by member."""
        return {
            f"w|{job_class}|{name}|{number:016}".encode(): payload
            for (job_class, name), line in self.lines.items()
            for number, payload in line
        }
