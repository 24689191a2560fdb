"""Tenants: their shares, their limits, and how they stand."""

from dataclasses import dataclass
from typing import Final, Literal

MOST_TENANTS: Final = 1000  # with an entry; as many lines a claim looks at, as in turns.lua
MOST_WEIGHT: Final = 1000  # as in turns.lua
MOST_OF_A_LIMIT: Final = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimits:
    """A tenant's entry: its share, and what it may use. None: no limit.

    Of the jobs of a class, tenants are served by `weight`: 1 to MOST_WEIGHT. `in_flight` is how many of its jobs may
    be claimed and not have ended: those that run, or wait to be tried again. Raises ValueError.
    """

    weight: int = 1
    in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= MOST_WEIGHT:
            raise ValueError(f"weight {self.weight}: 1 to {MOST_WEIGHT} is expected")
        for name in ("in_flight", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST_OF_A_LIMIT:
                raise ValueError(f"{name} {value}: 1 to {MOST_OF_A_LIMIT:,} is expected")


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStanding:
    """A tenant that has an entry, or jobs from the time when it had one; then `limits` is None.

    `waiting` of its jobs nobody has claimed, the oldest of them for `oldest_seconds`; `interactive` of them are of
    that class. `in_flight` were claimed and have not ended. `held` names what keeps its waiting jobs from being
    claimed, and `held_seconds` when that may end at the earliest; empty: nothing of its own. `requests_left` and
    `tokens_left` are what it may use at once; below 0 it has used more than that. None: no limit.
    """

    name: str
    limits: TenantLimits | None
    waiting: int = 0
    interactive: int = 0
    in_flight: int = 0
    oldest_seconds: float | None = None
    held: Literal["", "in_flight", "requests", "tokens"] = ""
    held_seconds: float = 0.0
    requests_left: float | None = None
    tokens_left: float | None = None
