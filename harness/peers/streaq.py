"""streaQ: jobs pickled in Redis, delivered by a stream with a consumer group."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import ClientSession
from streaq import Worker

from harness.job import LANES, REDIS_URL, RESULT_TTL, TIMEOUT, Push, produce
from harness.peers.by_aiohttp import ask, session


@asynccontextmanager
async def lifespan() -> AsyncIterator[ClientSession]:
    async with session() as http:
        yield http


worker = Worker(redis_url=REDIS_URL, concurrency=LANES, lifespan=lifespan)


@worker.task(name="answer", timeout=TIMEOUT, ttl=RESULT_TTL)
async def answer(prompt: str) -> str:
    return await ask(worker.context, prompt)


async def producer() -> Push:
    await worker.__aenter__()

    async def push(jobs: Sequence[tuple[str, str]]) -> None:
        tasks = [answer.enqueue(prompt) for _, prompt in jobs]
        for task, (job_id, _) in zip(tasks, jobs, strict=True):
            task.id = job_id
        await worker.enqueue_many(tasks)

    return push


if __name__ == "__main__":
    produce(producer)
