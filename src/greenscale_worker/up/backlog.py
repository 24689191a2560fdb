"""What `up` says of jobs that will go on: those of a worker that was killed, and those left by an earlier `up`."""

import asyncio
from contextlib import aclosing
from typing import Final

from greenscale_worker.config import Settings, queue_options, redis_options
from greenscale_worker.errors import GreenScaleError
from greenscale_worker.queues import JobFilter
from greenscale_worker.queues.registry import open_client

SECONDS: Final = 2.0  # a start is delayed by this at most


async def told(settings: Settings, killed: int | None) -> str:
    """Return how many jobs go on, and when: those that the process `killed` was running; None: all open jobs.

    With None, also whether the queue is paused, which a restart does not change. Empty if there is nothing to say, or
    Redis does not answer.
    """
    try:
        async with asyncio.timeout(SECONDS):
            return await _told(settings, killed)
    except (GreenScaleError, TimeoutError):
        return ""


async def _told(settings: Settings, killed: int | None) -> str:
    options = queue_options(settings)
    async with aclosing(await open_client(settings.queue, redis_options(settings), options)) as client:
        if killed is not None:
            running = [job.worker or "" async for job in client.jobs(JobFilter(state="running"))]
            ran = sum(f":{killed}:" in worker for worker in running)
            return f"{_jobs(ran)} that it was running {_again(ran, options.lease)}" if ran else ""
        depth = await client.depth()
    waiting = depth.waiting + depth.delayed + depth.held
    parts = [f"{_jobs(waiting)} {'waits' if waiting == 1 else 'wait'}"] if waiting else []
    parts += [f"{_jobs(depth.running)} that ran {_again(depth.running, options.lease)}"] if depth.running else []
    told = [f"from before, {' and '.join(parts)}"] if parts else []
    told += [f"the queue {options.name!r} is paused; greenscale-worker resume ends that"] if depth.paused else []
    return "; ".join(told)


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"


def _again(count: int, lease: float) -> str:
    """Return when they run again: no heartbeat extends their leases any more."""
    return f"{'runs' if count == 1 else 'run'} again when the lease ends, in {lease:g} s at most"
