"""What happened in each minute, for the queue of one process (`LedgerMinute`)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Literal

from greenscale_worker.job import Usage
from greenscale_worker.queues import Lease, LedgerMinute

MINUTE: Final = 60
MINUTES_OF_A_DAY: Final = 1440
MOST_TENANTS: Final = 32  # of a minute, as in ledger.lua
End = Literal["ended", "failed", "cancelled", "retried"]


class Ledger:
    """Sums by minute and tenant; kept for so many days, 0: not at all. `clock` gives seconds since the epoch."""

    def __init__(self, days: int, clock: Callable[[], float]) -> None:
        self._days = days
        self._clock = clock
        self._minutes: dict[int, dict[str, LedgerMinute]] = {}  # by tenant; "" is the total

    def count(self, what: End, lease: Lease | None = None, usage: Usage | None = None) -> None:
        """Count a job, and what its call took."""
        usage = usage or Usage()
        tokens = {"prompt_tokens": usage.prompt_tokens or 0, "completion_tokens": usage.completion_tokens or 0}
        self._add("", **{what: 1}, **tokens, call_seconds=(lease.call_seconds if lease else None) or 0.0)
        if lease is not None and lease.tenant and what != "retried":
            self._add(lease.tenant, **{what: 1}, **tokens)

    def worked(self, seconds: float, *, leases: int, alive: int) -> None:
        """Count a worker's time since its last heartbeat, and that of the leases it holds."""
        self._add("", replica_seconds=seconds, busy_lane_seconds=seconds * leases, replicas_peak=alive)

    def between(self, since: float, until: float | None, tenant: str | None) -> list[LedgerMinute]:
        """See `QueueClient.ledger`."""
        last = self._clock() if until is None else until
        minutes = [each for each in sorted(self._minutes) if since // MINUTE <= each <= last // MINUTE]
        found = [self._minutes[each].get(tenant or "") for each in minutes]
        return [minute for minute in found if minute is not None]

    def _add(self, tenant: str, **more: float) -> None:
        if not self._days:
            return
        minute = int(self._clock() // MINUTE)
        if minute not in self._minutes:
            oldest = minute - self._days * MINUTES_OF_A_DAY
            self._minutes = {each: sums for each, sums in self._minutes.items() if each >= oldest}
        tenants = self._minutes.setdefault(minute, {})
        if tenant in tenants or len(tenants) <= MOST_TENANTS:
            tenants[tenant] = _sum(tenants.get(tenant) or LedgerMinute(float(minute * MINUTE)), more)


def _sum(sums: LedgerMinute, more: dict[str, float]) -> LedgerMinute:
    added: dict[str, Any] = {name: getattr(sums, name) + value for name, value in more.items()}
    if "replicas_peak" in more:
        added["replicas_peak"] = max(sums.replicas_peak, more["replicas_peak"])
    return replace(sums, **added)
