"""What a ledger says about a window of time: sums by step, and what scaling saved. Nothing here reads a queue.

All times are seconds; points in time are seconds since the epoch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Final

from greenscale_worker.errors import BadInputError
from greenscale_worker.queues import LedgerMinute

MINUTE: Final = 60
HOUR: Final = 3600
MOST_STEPS: Final = 11_520  # as many minutes as the ledger has by default

SUMS: Final = tuple(field.name for field in fields(LedgerMinute) if field.name not in {"at", "replicas_peak"})


@dataclass(frozen=True, slots=True)
class Step(LedgerMinute):
    """The sums of `seconds` from `at` on."""

    seconds: float = 0.0

    @property
    def seconds_per_call(self) -> float | None:
        """How long a call took on average; None: there was none. A refused job counts as one, though none was made."""
        calls = self.ended + self.failed + self.retried
        return self.call_seconds / calls if calls else None

    @property
    def replicas(self) -> float:
        """How many workers there were on average."""
        return self.replica_seconds / self.seconds if self.seconds else 0.0

    @property
    def busy_lanes(self) -> float:
        """How many jobs were in flight on average."""
        return self.busy_lane_seconds / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """From when until when: whole minutes, except that it may end now. It is not empty."""

    since: float
    until: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.until - self.since

    def has(self, minute: LedgerMinute) -> bool:
        """Return whether a minute is in it."""
        return self.since <= minute.at < self.until


def window(since: float, until: float | None, *, now: float, first: float | None) -> Window | None:
    """Return the window from the minute of `since` to that of `until`, or to now.

    `first` is when the ledger begins: about the time before nothing is known, so no saving may be claimed for it. None
    if there is nothing to report: the ledger is empty, or begins later.
    """
    if first is None:
        return None
    end = now if until is None or until >= now else until // MINUTE * MINUTE
    begin = max(since, first) // MINUTE * MINUTE
    return Window(begin, end) if begin < end else None


def total(minutes: Iterable[LedgerMinute], within: Window) -> Step:
    """Return the sums of a window."""
    return _sum([minute for minute in minutes if within.has(minute)], within.since, within.until)


def history(minutes: Iterable[LedgerMinute], within: Window, step: float = HOUR) -> list[Step]:
    """Return the sums of each step of a window, oldest first; also of those in which nothing happened.

    Steps begin at multiples of `step`, in UTC; the first and the last may be cut short by the window. Raises
    BadInputError for a step that is no whole number of minutes, or too short for so long a window.
    """
    if step < MINUTE or step % MINUTE:
        raise BadInputError("bad_step", f"step: whole minutes are expected, not {step:g} s")
    if within.seconds / step > MOST_STEPS:
        raise BadInputError("bad_step", f"step: {step:g} s are too short for this window; at most {MOST_STEPS} steps")
    first = within.since // step * step
    edges = [within.since]
    while edges[-1] < within.until:
        edges.append(min(within.until, first + len(edges) * step))
    by_step: dict[int, list[LedgerMinute]] = {}
    for minute in filter(within.has, minutes):
        by_step.setdefault(int((minute.at - first) // step), []).append(minute)
    return [_sum(by_step.get(number, []), *edge) for number, edge in enumerate(pairwise(edges))]


@dataclass(frozen=True, slots=True)
class Savings:
    """The time of workers in a window, compared with that of a fixed number of workers. Negative: more was used.

    Prices and `saved` have no currency; None: no price was named.
    """

    replicas_always_on: int
    window_seconds: float
    always_on_replica_seconds: float
    measured_replica_seconds: float
    saved_replica_seconds: float
    price_per_replica_hour: float | None
    saved: float | None


def savings(
    minutes: Iterable[LedgerMinute], within: Window, *, replicas: int | None = None, price: float | None = None
) -> Savings:
    """Compare with `replicas` workers that are always on; None: the most that were seen in the window.

    `price` is that of one worker for an hour. Tokens are not counted: they cost the same either way.
    """
    used = total(minutes, within)
    number = used.replicas_peak if replicas is None else replicas
    always_on = number * within.seconds
    saved = always_on - used.replica_seconds
    return Savings(
        replicas_always_on=number,
        window_seconds=within.seconds,
        always_on_replica_seconds=always_on,
        measured_replica_seconds=used.replica_seconds,
        saved_replica_seconds=saved,
        price_per_replica_hour=price,
        saved=None if price is None else saved / HOUR * price,
    )


def _sum(minutes: list[LedgerMinute], since: float, until: float) -> Step:
    sums: dict[str, Any] = {name: sum(getattr(minute, name) for minute in minutes) for name in SUMS}
    peak = max((minute.replicas_peak for minute in minutes), default=0)
    return Step(since, **sums, replicas_peak=peak, seconds=until - since)
