"""SAQ: jobs as JSON in Redis, moved to an active list by BLMOVE."""

import asyncio
from collections.abc import Sequence
from typing import Any

from saq import Queue

from harness.job import LANES, REDIS_URL, RESULT_TTL, TIMEOUT, Push, produce
from harness.peers.by_aiohttp import ask, session


async def answer(ctx: dict[str, Any], *, prompt: str) -> str:
    return await ask(ctx["http"], prompt)


async def startup(ctx: dict[str, Any]) -> None:
    ctx["http"] = session()


async def shutdown(ctx: dict[str, Any]) -> None:
    await ctx["http"].close()


queue = Queue.from_url(REDIS_URL)
settings = {
    "queue": queue,
    "functions": [answer],
    "concurrency": LANES,
    "startup": startup,
    "shutdown": shutdown,
}


async def producer() -> Push:
    await queue.connect()

    async def push(jobs: Sequence[tuple[str, str]]) -> None:
        limits = {"timeout": TIMEOUT, "ttl": RESULT_TTL}
        await asyncio.gather(*(queue.enqueue("answer", key=job_id, prompt=prompt, **limits) for job_id, prompt in jobs))

    return push


if __name__ == "__main__":
    produce(producer)
