"""The bare loop: a minimal worker without reliability.

LMOVE (BLMOVE while the queue is empty) to a processing list, a POST, one pipeline of SET and LREM. No leases, retries,
logs or metrics: a killed process loses its jobs.
"""

import asyncio
import json
import os

import aiohttp
from redis.asyncio import Redis

from harness.job import LANES, REDIS_PORT, RESULT_TTL, URL, body, text


async def lane(redis: Redis, http: aiohttp.ClientSession, name: str) -> None:
    while True:
        raw = await redis.lmove("jobs", name, "RIGHT", "LEFT")
        if raw is None:
            raw = await redis.blmove("jobs", name, 2.0, "RIGHT", "LEFT")
        if raw is None:
            continue
        job = json.loads(raw)
        async with http.post(URL, json=body(job["prompt"])) as response:
            answer = text(await response.json())
        pipe = redis.pipeline(transaction=False)
        pipe.set(f"result:{job['job_id']}", answer, ex=RESULT_TTL)
        pipe.lrem(name, 1, raw)
        await pipe.execute()


async def main() -> None:
    redis = Redis(host="127.0.0.1", port=REDIS_PORT, max_connections=LANES + 10)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=LANES)) as http:
        name = f"processing:{os.getpid()}"
        await asyncio.gather(*(lane(redis, http, name) for _ in range(LANES)))


if __name__ == "__main__":
    asyncio.run(main())
