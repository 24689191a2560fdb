"""arq: jobs pickled in Redis, found by polling, claimed by WATCH and a key for each."""

import asyncio
from collections.abc import Sequence
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings

from harness.job import CHUNK, LANES, REDIS_PORT, RESULT_TTL, TIMEOUT, Push, produce
from harness.peers.by_aiohttp import ask, session


async def answer(ctx: dict[str, Any], prompt: str) -> str:
    return await ask(ctx["http"], prompt)


async def on_startup(ctx: dict[str, Any]) -> None:
    ctx["http"] = session()


async def on_shutdown(ctx: dict[str, Any]) -> None:
    await ctx["http"].close()


class Worker:
    functions = (answer,)
    on_startup = on_startup
    on_shutdown = on_shutdown
    redis_settings = RedisSettings(host="127.0.0.1", port=REDIS_PORT, max_connections=LANES + 20)
    max_jobs = LANES
    job_timeout = TIMEOUT
    keep_result = RESULT_TTL
    poll_delay = 0.05


async def producer() -> Push:
    redis = await create_pool(RedisSettings(host="127.0.0.1", port=REDIS_PORT, max_connections=CHUNK + 20))

    async def push(jobs: Sequence[tuple[str, str]]) -> None:
        await asyncio.gather(*(redis.enqueue_job("answer", prompt, _job_id=job_id) for job_id, prompt in jobs))

    return push


if __name__ == "__main__":
    produce(producer)
