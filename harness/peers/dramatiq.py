"""Dramatiq with its Redis broker and result backend, on threads in two processes."""

from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from harness.job import REDIS_URL, RESULT_TTL, TIMEOUT, Push, produce
from harness.peers.by_requests import ask

broker = RedisBroker(url=REDIS_URL)
broker.add_middleware(Results(backend=RedisBackend(url=REDIS_URL, use_namespace_prefix_keys=True)))
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="answer", store_results=True, result_ttl=RESULT_TTL * 1000, time_limit=TIMEOUT * 1000)
def answer(prompt: str) -> str:
    return ask(prompt)


async def producer() -> Push:
    async def push(jobs: Sequence[tuple[str, str]]) -> None:
        for job_id, prompt in jobs:
            broker.enqueue(answer.message(prompt).copy(message_id=job_id))

    return push


if __name__ == "__main__":
    produce(producer)
