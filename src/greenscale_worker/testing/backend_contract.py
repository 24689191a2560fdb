"""What every backend promises (backends/__init__.py).

A module of tests imports everything from here and has two fixtures: `backend` returns one that is open and ready,
`payload` the payload of a job that it can answer.
"""

import asyncio
from copy import deepcopy
from typing import Any

import orjson
import pytest

from greenscale_worker.backends import Backend
from greenscale_worker.errors import BadInputError, PermanentError, TransientError
from greenscale_worker.job import Job, Output
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.worker import Worker

PATIENCE = 8.0
MANY = 20


async def ask(backend: Backend, payload: dict[str, Any], job_id: str = "1") -> Output:
    """Call the backend once, within a time limit."""
    async with asyncio.timeout(PATIENCE):
        return await backend.infer(Job(job_id=job_id, payload=payload))


async def test_a_backend_that_has_somebody_to_answer_is_ready(backend: Backend) -> None:
    async with asyncio.timeout(PATIENCE):
        assert await backend.ready() is True


async def test_a_job_gets_an_output_and_stays_as_it_is(backend: Backend, payload: dict[str, Any]) -> None:
    before = deepcopy(payload)
    assert isinstance(await ask(backend, payload), Output)
    assert payload == before


async def test_many_jobs_at_once_get_an_output_each(backend: Backend, payload: dict[str, Any]) -> None:
    answers = await asyncio.gather(*(ask(backend, deepcopy(payload), str(number)) for number in range(MANY)))
    assert all(isinstance(answer, Output) for answer in answers)


async def test_a_job_that_asks_for_nothing_is_answered_or_refused_in_a_word(backend: Backend) -> None:
    (answer,) = await asyncio.gather(ask(backend, {}), return_exceptions=True)
    assert isinstance(answer, Output | TransientError | PermanentError | BadInputError)
    assert isinstance(answer, Output) or len(answer.code.split()) == 1


@pytest.mark.parametrize("steps", range(8))
async def test_a_call_may_be_cancelled_at_any_time_and_its_neighbours_go_on(
    backend: Backend, payload: dict[str, Any], steps: int
) -> None:
    cancelled, *others = (asyncio.create_task(ask(backend, deepcopy(payload), str(number))) for number in range(4))
    for _ in range(steps):
        await asyncio.sleep(0)
    cancelled.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait({cancelled})
    assert cancelled.cancelled() or isinstance(cancelled.result(), Output)
    assert all(isinstance(answer, Output) for answer in await asyncio.gather(*others))
    assert isinstance(await ask(backend, payload), Output)


async def test_a_worker_records_its_answer(backend: Backend, payload: dict[str, Any]) -> None:
    queue = MemoryQueue()
    async with asyncio.timeout(PATIENCE), Worker(queue, backend, concurrency=2):
        await queue.put([("1", orjson.dumps({"job_id": "1", **payload}))])
        while (await queue.record("1")).get("state") != "succeeded":  # noqa: ASYNC110  a queue has no Event to wait for
            await asyncio.sleep(0.01)


async def test_a_backend_leaves_nothing_running(backend: Backend, payload: dict[str, Any]) -> None:
    before = asyncio.all_tasks()
    await ask(backend, payload)
    await backend.aclose()
    if left := asyncio.all_tasks() - before:
        await asyncio.wait(left, timeout=PATIENCE)
    assert not asyncio.all_tasks() - before


__all__ = [name for name in dir() if name.startswith("test_")]
