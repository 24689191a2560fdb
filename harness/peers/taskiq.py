"""taskiq with its stream broker: jobs in a stream with a consumer group, acknowledged when the result is stored."""

import asyncio
from collections.abc import Sequence

from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from harness.job import REDIS_URL, RESULT_TTL, TIMEOUT, Push, produce
from harness.peers.by_aiohttp import ask, session

results = RedisAsyncResultBackend(REDIS_URL, result_ex_time=RESULT_TTL, prefix_str="results")
broker = RedisStreamBroker(REDIS_URL).with_result_backend(results)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(state: TaskiqState) -> None:
    state.http = session()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def shutdown(state: TaskiqState) -> None:
    await state.http.close()


@broker.task(task_name="answer", timeout=TIMEOUT)
async def answer(prompt: str, context: Context = TaskiqDepends()) -> str:  # noqa: B008  taskiq's way to inject
    return await ask(context.state.http, prompt)


async def producer() -> Push:
    await broker.startup()

    async def push(jobs: Sequence[tuple[str, str]]) -> None:
        await asyncio.gather(*(answer.kicker().with_task_id(job_id).kiq(prompt) for job_id, prompt in jobs))

    return push


if __name__ == "__main__":
    produce(producer)
