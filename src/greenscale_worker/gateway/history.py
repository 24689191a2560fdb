"""The past of a queue, from its ledger."""

from collections.abc import Sequence
from typing import Any, Final

from greenscale_worker.queues import QueueClient

DAY: Final = 86_400.0
COUNTED: Final = ("ended", "failed", "retried", "prompt_tokens", "completion_tokens")
TIMED: Final = ("call_seconds", "replica_seconds", "busy_lane_seconds")


async def minutes(queue: QueueClient, since: float, until: float | None = None) -> Sequence[Any]:
    """Return the ledger's minutes; none for a queue that keeps no ledger."""
    ledger = getattr(queue, "ledger", None)
    return [] if ledger is None else await ledger(since, until)


def sums(of: Sequence[Any]) -> dict[str, Any]:
    """Return what minutes add up to."""
    counts = {name: sum(getattr(minute, name) for minute in of) for name in COUNTED}
    times = {name: round(sum((getattr(minute, name) for minute in of), 0.0), 3) for name in TIMED}
    return {**counts, **times, "replicas_peak": max((minute.replicas_peak for minute in of), default=0)}
