"""What goes wrong, when, and to whom: drawn from a seed alone, so that a seed replays its schedule."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

LEASE: Final = 2.0  # seconds: short, so that many faults fit into two minutes
GAPS: Final = (0.2, 1.4)  # seconds between two faults
KILL: Final = "kill -9"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: how often it is drawn, and how many seconds it lasts."""

    weight: int = 1
    lasts: tuple[float, float] = (0.0, 0.0)
    endpoint: bool = False


KINDS: Final[Mapping[str, Kind]] = {
    KILL: Kind(weight=4, lasts=(0.0, 1.0)),
    "SIGTERM": Kind(weight=2),
    "SIGSTOP": Kind(lasts=(0.5 * LEASE, 2.5 * LEASE)),
    "connections cut": Kind(),
    "connections half-open": Kind(lasts=(0.5 * LEASE, 2.5 * LEASE)),
    "claim truncated": Kind(),
    "claim unanswered": Kind(lasts=(1.0, 2 * LEASE)),
    "settle truncated": Kind(),
    "settle unanswered": Kind(lasts=(1.0, 2 * LEASE)),
    "Redis killed": Kind(lasts=(0.1, LEASE)),
    "Redis full": Kind(lasts=(0.5, LEASE)),
    "CLIENT KILL": Kind(),
    "CLIENT PAUSE": Kind(lasts=(0.2, 1.5)),
    "DEBUG SLEEP": Kind(lasts=(0.2, 1.5)),
    "endpoint 429": Kind(lasts=(1.0, 3.0), endpoint=True),
    "endpoint 5xx": Kind(lasts=(1.0, 3.0), endpoint=True),
    "endpoint hangs": Kind(lasts=(1.0, 3.0), endpoint=True),
    "endpoint cuts": Kind(lasts=(1.0, 3.0), endpoint=True),
    "endpoint malformed": Kind(lasts=(1.0, 3.0), endpoint=True),
    "queue paused": Kind(lasts=(0.3, 1.5)),
    "dead letters replayed": Kind(),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `at` and `lasts` in seconds, the first since the start; `slot` is the worker's, where it hits one."""

    at: float
    kind: str
    lasts: float
    slot: int


def draw(seed: int, *, workers: int, seconds: float, kills: int = 0, only: Iterable[str] = KINDS) -> list[Fault]:
    """Draw a schedule of that many seconds; with `kills` one that ends with so many, half of its faults being kills."""
    rnd = random.Random(seed)  # noqa: S311  a seeded generator is what makes a run repeatable
    kinds = [kind for kind in KINDS if kind in set(only)]
    weights = [KINDS[kind].weight for kind in kinds]
    if kills and KILL in kinds:
        weights[kinds.index(KILL)] = max(1, sum(weights) - KINDS[KILL].weight)
    faults: list[Fault] = []
    at = killed = 0.0
    while killed < kills or (not kills and at < seconds):
        at += rnd.uniform(*GAPS)
        kind = rnd.choices(kinds, weights)[0]
        faults.append(Fault(round(at, 3), kind, round(rnd.uniform(*KINDS[kind].lasts), 3), rnd.randrange(workers)))
        killed += kind == KILL
    return faults
