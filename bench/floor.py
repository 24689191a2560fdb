"""The floor: a bare loop with nothing that a worker needs to be trusted. Configured by FLOOR_* in the environment.

LMOVE (BLMOVE while there is nothing) to a processing list, a POST, one pipeline of SET and LREM. No leases, retries,
logs or metrics: a killed process loses its jobs.
"""

import asyncio
import json
import os

import aiohttp
from redis.asyncio import Redis


async def lane(redis: Redis, http: aiohttp.ClientSession, url: str, name: str) -> None:
    while True:
        raw = await redis.lmove("jobs", name, "RIGHT", "LEFT")
        if raw is None:
            raw = await redis.blmove("jobs", name, 2.0, "RIGHT", "LEFT")
        if raw is None:
            continue
        job = json.loads(raw)
        body = {"model": "m", "max_tokens": 1024, "messages": [{"role": "user", "content": job["prompt"]}]}
        async with http.post(url, json=body) as response:
            answer = await response.json()
        text = answer["choices"][0]["message"]["content"]
        pipe = redis.pipeline(transaction=False)
        pipe.set(f"result:{job['job_id']}", text, ex=3600)
        pipe.lrem(name, 1, raw)
        await pipe.execute()


async def main() -> None:
    lanes = int(os.environ["FLOOR_LANES"])
    redis = Redis(port=int(os.environ["FLOOR_REDIS_PORT"]), max_connections=lanes + 10)
    connector = aiohttp.TCPConnector(limit=lanes)
    async with aiohttp.ClientSession(connector=connector) as http:
        name = f"processing:{os.getpid()}"
        await asyncio.gather(*(lane(redis, http, os.environ["FLOOR_URL"], name) for _ in range(lanes)))


asyncio.run(main())
