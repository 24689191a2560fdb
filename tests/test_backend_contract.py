"""The contract of backends, asked of each of ours and of handlers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from greenscale_worker.backends import Backend, ChatOptions, open_backend
from greenscale_worker.backends.batched import batched
from greenscale_worker.backends.handlers import HandlerBackend
from greenscale_worker.job import Job
from greenscale_worker.simulator import CHAT_PATH, SimulatorOptions, running
from greenscale_worker.testing.backend_contract import *  # noqa: F403  the tests


async def upper(job: Job) -> str:
    return str(job.payload.get("prompt")).upper()


@batched(most=3)
async def many(jobs: Sequence[Job]) -> list[str]:
    return [await upper(job) for job in jobs]


@pytest.fixture
def payload() -> dict[str, Any]:
    return {"prompt": "What is 2+2?"}


@pytest.fixture(params=["chat", "echo", "handler", "batched"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "chat":
        async with (
            running(SimulatorOptions()) as url,
            aclosing(open_backend("chat", ChatOptions(url=url + CHAT_PATH, model="llama"))) as chat,
        ):
            yield chat
    elif request.param == "echo":
        yield open_backend("echo")
    else:
        yield HandlerBackend(upper if request.param == "handler" else many)
