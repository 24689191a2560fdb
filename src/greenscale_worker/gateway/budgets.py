"""Budgets of tenants: who waits for an answer that cannot be asked for soon is told when to come again."""

from typing import Final

from greenscale_worker.gateway.limits import MINUTE, headers_of, too_many
from greenscale_worker.gateway.shared import Shared
from greenscale_worker.queues import QueueClient, TenantStanding

KNOWN_SECONDS: Final = 2.0  # for so long it is believed which tenants have budgets
PATIENCE: Final = 1.0  # seconds until its turn, for which a request waits
BURST_SECONDS: Final = 10.0  # a budget holds what comes in so long, as in turns.lua


class Budgets:
    """The budgets of the tenants of a queue, which all gateways and batches share."""

    def __init__(self, queue: QueueClient, shared: Shared) -> None:
        self._queue = queue
        self._shared = shared

    async def check(self, tenant: str, queue_id: str) -> dict[str, str]:
        """Raise Problem if a job of a tenant, unless it is there already, would wait for the tenant's budget.

        Return headers on what is left.
        """
        with_budgets: set[str] = await self._shared.get("budgets", KNOWN_SECONDS, self._with_budgets)
        if tenant not in with_budgets:
            return {}
        headers: dict[str, str] = {}
        for standing in await self._queue.tenants(tenant):
            told, waits = _told_of(standing)
            headers |= told
            name, seconds = max(waits.items(), key=lambda each: each[1], default=("", 0.0))
            if seconds > PATIENCE and not await self._queue.record(queue_id):
                said = f"{getattr(standing.limits, name)} {name.partition('_')[0]} a minute"
                raise too_many(name, said, seconds, headers, whose="tenant")
        return headers

    async def _with_budgets(self) -> set[str]:
        limits = {each.name: each.limits for each in await self._queue.tenants()}
        return {name for name, each in limits.items() if each and (each.requests_per_minute or each.tokens_per_minute)}


def _told_of(standing: TenantStanding) -> tuple[dict[str, str], dict[str, float]]:
    """Return headers on each budget of a tenant, and in how many seconds its next job would begin for it."""
    limits, headers, waits = standing.limits, dict[str, str](), dict[str, float]()
    if limits is None:
        return headers, waits
    ahead = standing.interactive
    budgets = (
        ("requests", limits.requests_per_minute, standing.requests_left, ahead),
        ("tokens", limits.tokens_per_minute, standing.tokens_left, 0),
    )
    for what, per_minute, left, before in budgets:
        if per_minute is not None and left is not None:
            full = max(1.0, per_minute * BURST_SECONDS / MINUTE)
            headers |= headers_of(what, per_minute, left, (full - left) * MINUTE / per_minute)
            waits[f"{what}_per_minute"] = (before - left) * MINUTE / per_minute
    return headers, waits
