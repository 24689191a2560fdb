"""RQ: a process for each job that runs at the same time; simple workers, which do not fork for every job."""

from collections.abc import Sequence

from redis import Redis
from rq import Queue

from harness.job import REDIS_URL, RESULT_TTL, TIMEOUT, Push, produce
from harness.peers.by_requests import ask

limits = {"timeout": TIMEOUT, "result_ttl": RESULT_TTL}


def answer(prompt: str) -> str:
    return ask(prompt)


async def producer() -> Push:
    queue = Queue("jobs", connection=Redis.from_url(REDIS_URL))

    async def push(jobs: Sequence[tuple[str, str]]) -> None:
        prepared = [
            Queue.prepare_data("harness.peers.rq.answer", (text,), job_id=name, **limits) for name, text in jobs
        ]
        queue.enqueue_many(prepared)

    return push


if __name__ == "__main__":
    produce(producer)
