"""`/v1/stats`: the numbers of a queue, at most a second old however many ask."""

from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from time import time
from typing import Any, Final

from aiohttp import web

from greenscale_worker.client.standing import FAILING_SECONDS, MOST_READ, Standing, standing
from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.history import FRESH_SECONDS as TOTALS_SECONDS
from greenscale_worker.gateway.history import totals
from greenscale_worker.gateway.job_objects import json
from greenscale_worker.gateway.route import Route
from greenscale_worker.gateway.schemas import Stats
from greenscale_worker.gateway.shared import Shared
from greenscale_worker.queues import Depth, JobFilter, JobInfo, QueueClient

FRESH_SECONDS: Final = 1.0


async def show_stats(call: Call) -> web.Response:
    """GET /v1/stats."""
    name = call.gateway.options.queue
    return json(
        await call.gateway.shared.get("stats", FRESH_SECONDS, partial(_read, call.queue, name, call.gateway.shared))
    )


async def _read(queue: QueueClient, name: str, shared: Shared) -> dict[str, Any]:
    stands, rate = await standing(queue), await queue.rate()
    depth, now = stands.depth, time()
    jobs = [job async for job in queue.jobs(JobFilter(state="running"), limit=MOST_READ)] if depth.running else []
    runs = defaultdict[str | None, list[JobInfo]](list)
    for job in jobs:
        runs[job.worker].append(job)
    reasons = list(stands.reasons(patience=FAILING_SECONDS).values())
    return {
        "object": "stats",
        "queue": name,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "depth": _depth(depth),
        "rate_per_second": round(rate, 3),
        "remaining_seconds": _remaining(stands, rate, reasons),
        "reasons": reasons,
        "held_back": stands.held_back,
        "workers": [
            {
                "name": worker.name,
                "beat_seconds": round(worker.beat_seconds, 3),
                "why": worker.why,
                "lanes": worker.lanes,
                "busy_lanes": len(runs[worker.name]) if depth.running <= MOST_READ else None,
                "running": [_running(job, now) for job in runs[worker.name]],
            }
            for worker in sorted(stands.workers, key=lambda each: each.name)
        ],
        "totals": await shared.get("totals", TOTALS_SECONDS, partial(totals, queue)),
    }


def _depth(depth: Depth) -> dict[str, Any]:
    interactive, background = depth.interactive, depth.background
    return {
        "waiting": depth.waiting,
        "interactive": interactive,
        "standard": max(0, depth.waiting - interactive - background),
        "background": background,
        "scheduled": depth.scheduled,
        "running": depth.running,
        "delayed": depth.delayed,
        "held": depth.held,
        "dead": depth.dead,
        "oldest_seconds": None if depth.oldest_seconds is None else round(depth.oldest_seconds, 3),
        "paused": depth.paused,
    }


def _running(job: JobInfo, now: float) -> dict[str, Any]:
    since = None if job.claimed_at is None else round(max(0.0, now - job.claimed_at), 3)
    return {"id": job.job_id, "attempts": job.attempts, "since_seconds": since}


def _remaining(stands: Standing, rate: float, reasons: list[str]) -> float | None:
    """Return in how many seconds all is done at the recent rate; None if nothing waits, or nothing moves."""
    waits = stands.open_jobs > stands.depth.running
    return round(stands.open_jobs / rate, 1) if waits and rate and not reasons else None


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/stats",
        handler=show_stats,
        summary="How much there is to do, who does it, and why nothing moves.",
        scope="read",
        whole=True,
        answers={200: Stats},
    ),
)
