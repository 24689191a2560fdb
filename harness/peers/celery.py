"""Celery with Redis as broker and result backend, on threads."""

from collections.abc import Sequence

from celery import Celery

from harness.job import LANES, REDIS_URL, RESULT_TTL, TIMEOUT, Push, produce
from harness.peers.by_requests import ask

app = Celery("bench", broker=REDIS_URL, backend=REDIS_URL)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    redis_max_connections=LANES + 20,
    result_expires=RESULT_TTL,
    task_time_limit=TIMEOUT,
    broker_connection_retry_on_startup=True,
)


@app.task(name="answer")
def answer(prompt: str) -> str:
    return ask(prompt)


async def producer() -> Push:
    async def push(jobs: Sequence[tuple[str, str]]) -> None:
        with app.producer_pool.acquire(block=True) as channel:
            for job_id, prompt in jobs:
                answer.apply_async((prompt,), task_id=job_id, producer=channel)

    return push


if __name__ == "__main__":
    produce(producer)
