"""The schedule of faults: drawn from a seed alone, so that a seed replays its schedule."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

LEASE: Final = 2.0  # seconds: short, so that many faults fit into two minutes
GAPS: Final = (0.2, 1.4)  # seconds between two faults
KILL: Final = "kill -9"
SEAT_KILLED: Final = "kill -9 of who has a seat"
SEAT_STOPPED: Final = "SIGSTOP of who has a seat"
SEAT_STARVED: Final = "no network for who has a seat"
LATE: Final = "heartbeats a lease apart"
STOOD_STILL: Final = "the machine stood still"
ALL_ILL: Final = "endpoint ill for all"
MODEL_ILL: Final = "endpoint ill for one model"
GATEWAY: Final = "gateway: "  # how the names of faults begin that hit a gateway
GATEWAY_KILLED: Final = f"{GATEWAY}{KILL}"
GATEWAY_ENDED: Final = f"{GATEWAY}SIGTERM"
GATEWAY_STOPPED: Final = f"{GATEWAY}SIGSTOP"
FILES_AWAY: Final = "files away"
ILLNESSES: Final = ("400", "500", "cut", "403", "hang", "503")  # in turn: a status without words, or another fault


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: how often it is drawn, and how many seconds it lasts."""

    weight: int = 1
    lasts: tuple[float, float] = (0.0, 0.0)


KINDS: Final[Mapping[str, Kind]] = {
    KILL: Kind(weight=4, lasts=(0.0, 1.0)),
    "SIGTERM": Kind(weight=2),
    "SIGSTOP": Kind(lasts=(0.5 * LEASE, 2.5 * LEASE)),
    SEAT_KILLED: Kind(),
    SEAT_STOPPED: Kind(lasts=(0.5 * LEASE, 2.5 * LEASE)),
    SEAT_STARVED: Kind(lasts=(0.5 * LEASE, 2.5 * LEASE)),
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
    "endpoint 429": Kind(lasts=(1.0, 3.0)),
    "endpoint 5xx": Kind(lasts=(1.0, 3.0)),
    "endpoint hangs": Kind(lasts=(1.0, 3.0)),
    "endpoint cuts": Kind(lasts=(1.0, 3.0)),
    "endpoint malformed": Kind(lasts=(1.0, 3.0)),
    "endpoint slow": Kind(lasts=(1.0, 3.0)),
    ALL_ILL: Kind(weight=2, lasts=(1.5, 4.0)),
    MODEL_ILL: Kind(lasts=(2.0, 5.0)),
    "queue paused": Kind(lasts=(0.3, 1.5)),
    "dead letters replayed": Kind(),
    FILES_AWAY: Kind(lasts=(0.5, LEASE)),
    GATEWAY_KILLED: Kind(weight=2),
    GATEWAY_ENDED: Kind(weight=2),
    GATEWAY_STOPPED: Kind(lasts=(0.5 * LEASE, 2.5 * LEASE)),
    f"{GATEWAY}connections cut": Kind(),
    f"{GATEWAY}connections half-open": Kind(lasts=(0.5 * LEASE, 2.5 * LEASE)),
    f"{GATEWAY}put truncated": Kind(weight=2),
    f"{GATEWAY}put unanswered": Kind(lasts=(1.0, 2 * LEASE)),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: begins `at` seconds after the start and `lasts` seconds; `slot` is the worker's or gateway's."""

    at: float
    kind: str
    lasts: float
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run's settings. `kills`: instead of `seconds`, run until so many workers were killed, by half of all faults.

    `only` are the kinds of faults, `rate` the jobs pushed per second, `limit` the calls that all workers may have open;
    with one, there are budgets, and tenants with entries. 0: none of it.
    """

    seed: int
    seconds: float = 120.0
    kills: int = 0
    queue: str = "list"
    workers: int = 5
    rate: float = 20.0
    limit: int = 0
    only: Sequence[str] = tuple(KINDS)


def draw(plan: Plan) -> list[Fault]:
    """Draw a plan's schedule."""
    rnd = random.Random(plan.seed)  # noqa: S311  a seeded generator is what makes a run repeatable
    kinds = [kind for kind in KINDS if kind in plan.only]
    weights = [KINDS[kind].weight for kind in kinds]
    if plan.kills and KILL in kinds:
        weights[kinds.index(KILL)] = max(1, sum(weights) - KINDS[KILL].weight)
    faults: list[Fault] = []
    at, killed = 0.0, 0
    while killed < plan.kills or (not plan.kills and at < plan.seconds):
        at += rnd.uniform(*GAPS)
        kind = rnd.choices(kinds, weights)[0]
        lasts, slot = rnd.uniform(*KINDS[kind].lasts), rnd.randrange(plan.workers)
        faults.append(Fault(round(at, 3), kind, round(lasts, 3), slot))
        killed += kind == KILL
    return faults
