"""The producer of GreenScale and of the bare loop: a plain LPUSH."""

import json
from collections.abc import Sequence

from redis.asyncio import Redis

from harness.job import REDIS_URL, Push, produce


async def producer() -> Push:
    redis = Redis.from_url(REDIS_URL)

    async def push(jobs: Sequence[tuple[str, str]]) -> None:
        await redis.lpush("jobs", *(json.dumps({"job_id": job_id, "prompt": prompt}) for job_id, prompt in jobs))

    return push


if __name__ == "__main__":
    produce(producer)
