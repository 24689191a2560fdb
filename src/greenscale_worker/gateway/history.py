"""`/v1/stats/history`: the past of a queue, from its ledger, and what scaling has saved."""

from collections.abc import Mapping, Sequence
from functools import partial
from time import time
from typing import Any, Final

from aiohttp import web

from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.job_objects import json, moment
from greenscale_worker.gateway.route import Route
from greenscale_worker.gateway.schemas import History, HistoryQuery
from greenscale_worker.queues import LedgerMinute, QueueClient

DAY: Final = 86_400.0
MINUTE: Final = 60
HOUR: Final = 3600
FRESH_SECONDS: Final = 10.0
COUNTED: Final = ("ended", "failed", "retried", "prompt_tokens", "completion_tokens")
TIMED: Final = ("call_seconds", "replica_seconds", "busy_lane_seconds")


async def show_history(call: Call) -> web.Response:
    """GET /v1/stats/history."""
    query: HistoryQuery = call.query
    minutes: list[LedgerMinute] = await call.gateway.shared.get("ledger", FRESH_SECONDS, partial(_all, call.queue))
    until = time()
    since = until - query.since
    chosen = [minute for minute in minutes if minute.at > since - MINUTE]
    return json(
        {
            "object": "stats.history",
            "since": moment(since),
            "until": moment(until),
            "step_seconds": query.step,
            "series": _series(chosen, query.step),
            "savings": savings(
                chosen,
                # What was before the first heartbeat that is known has saved nothing.
                window=until - (since if minutes and minutes[0].at <= since else chosen[0].at if chosen else until),
                replicas=query.replicas,
                price=query.price,
            ),
        }
    )


async def totals(queue: QueueClient) -> dict[str, Any]:
    """Return the sums of the last 24 hours."""
    return sums(await queue.ledger(time() - DAY))


def sums(of: Sequence[LedgerMinute]) -> dict[str, Any]:
    """Return what minutes add up to."""
    counts = {name: sum(getattr(minute, name) for minute in of) for name in COUNTED}
    times = {name: round(sum((getattr(minute, name) for minute in of), 0.0), 3) for name in TIMED}
    return {**counts, **times, "replicas_peak": max((minute.replicas_peak for minute in of), default=0)}


def savings(
    of: Sequence[LedgerMinute], *, window: float, replicas: int | None, price: float | None
) -> Mapping[str, Any]:
    """Return what the fleet saved against `replicas` that are always on, by default the most that were alive at once.

    It may be negative. `price` is that of a replica for an hour.
    """
    always_on = max((minute.replicas_peak for minute in of), default=0) if replicas is None else replicas
    measured = sum((minute.replica_seconds for minute in of), 0.0)
    saved = always_on * window - measured
    return {
        "replicas_always_on": always_on,
        "window_seconds": round(window, 3),
        "always_on_replica_seconds": round(always_on * window, 3),
        "measured_replica_seconds": round(measured, 3),
        "saved_replica_seconds": round(saved, 3),
        "price_per_replica_hour": price,
        "saved": None if price is None else round(saved / HOUR * price, 4),
    }


async def _all(queue: QueueClient) -> list[LedgerMinute]:
    return await queue.ledger(0)


def _series(minutes: Sequence[LedgerMinute], step: int) -> list[dict[str, Any]]:
    """Return the sums of each step in which something happened; steps begin at multiples of their length."""
    steps: dict[float, list[LedgerMinute]] = {}
    for minute in minutes:
        steps.setdefault(minute.at // step * step, []).append(minute)
    return [{"at": moment(at), **sums(of)} for at, of in steps.items()]


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/stats/history",
        handler=show_history,
        summary="What has happened, by time, and what scaling has saved.",
        scope="read",
        whole=True,
        query=HistoryQuery,
        answers={200: History},
    ),
)
