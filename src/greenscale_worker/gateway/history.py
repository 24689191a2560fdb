"""`/v1/stats/history`: the past of a queue, from its ledger, and what scaling has saved."""

from dataclasses import asdict
from functools import partial
from time import time
from typing import Any, Final

from aiohttp import web

from greenscale_worker import report
from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.job_objects import json, moment
from greenscale_worker.gateway.route import Route
from greenscale_worker.gateway.schemas import History, HistoryQuery, Sums
from greenscale_worker.queues import LedgerMinute, QueueClient

DAY: Final = 86_400.0
FRESH_SECONDS: Final = 10.0
SUMS: Final = tuple(Sums.model_fields)


async def show_history(call: Call) -> web.Response:
    """GET /v1/stats/history."""
    query: HistoryQuery = call.query
    minutes: list[LedgerMinute] = await call.gateway.shared.get("ledger", FRESH_SECONDS, partial(_all, call.queue))
    until = time()
    since = until - query.since
    within = report.window(since, None, now=until, first=minutes[0].at if minutes else None)
    within = within or report.Window(until, until)
    steps = report.history(minutes, within, query.step) if within.seconds else []
    saved = report.savings(minutes, within, replicas=query.replicas, price=query.price)
    return json(
        {
            "object": "stats.history",
            "since": moment(since),
            "until": moment(until),
            "step_seconds": query.step,
            "series": [{"at": moment(step.at), **_sums(step)} for step in steps],
            "savings": {name: _rounded(value) for name, value in asdict(saved).items()},
        }
    )


async def totals(queue: QueueClient) -> dict[str, Any]:
    """Return the sums of the last 24 hours."""
    now = time()
    return _sums(report.total(await queue.ledger(now - DAY), report.Window(now - DAY - report.MINUTE, now)))


def _sums(step: report.Step) -> dict[str, Any]:
    return {name: _rounded(getattr(step, name)) for name in SUMS}


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


async def _all(queue: QueueClient) -> list[LedgerMinute]:
    return await queue.ledger(0)


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
