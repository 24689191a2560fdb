"""Workers as the random walk knows them: what they hold, and what they have sent and nobody has answered."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


def id_in(payload: bytes) -> str:
    """The job id in one of the walk's payloads; empty where there is none."""
    return payload.partition(b"\0")[0].decode()


@dataclass(eq=False)
class Held:
    """What a worker believes to have. `step`: claimed, bound or conflict; sent: its end is on the wire."""

    id: int
    token: str
    payload: bytes
    crashes: int
    step: str = "claimed"

    @property
    def job_id(self) -> str:
        return id_in(self.payload)

    @property
    def usable(self) -> bool:
        return self.job_id != "" and not self.payload.partition(b"\0")[2].startswith(b"bad")


@dataclass(eq=False)
class Process:
    """A worker process with its leases, what it was ever told, and the calls that nobody has answered yet."""

    name: str
    max_crashes: int
    held: dict[int, Held] = field(default_factory=dict)
    told: set[tuple[int, str]] = field(default_factory=set)
    unanswered: list["Call"] = field(default_factory=list)

    def at(self, *steps: str) -> list[Held]:
        return [held for held in self.held.values() if held.step in steps]

    def let_go(self, group: Iterable[Held]) -> None:
        for held in group:
            if self.held.get(held.id) is held:
                del self.held[held.id]


@dataclass(eq=False)
class Call:
    """A worker's call of a script, repeated word for word where its reply was lost.

    `expected` asks the ledger; `seen` is told what Redis answered, `heard` what the worker hears of it.
    """

    script: str
    keys: list[str]
    args: list[Any]
    expected: Callable[[], Any]
    group: list[Held]
    seen: Callable[[Any], None]
    heard: Callable[[Any], None]
