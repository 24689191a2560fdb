"""The contract of queues, run against each of ours. A further queue joins by one name in QUEUES."""

from importlib import import_module
from itertools import count
from typing import Any

import pytest

from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.testing import QueueUnderTest
from greenscale_worker.testing.queue_contract import *  # noqa: F403  the tests, and the fixtures they ask for

QUEUES = ["memory", "redis.list", "redis.stream"]


class InMemory:
    """The queue of one process, as an entry point would give it."""

    def __init__(self) -> None:
        self._admin: dict[str, MemoryQueue] = {}
        self._workers = count()

    async def open_client(self, _redis: RedisOptions, options: QueueOptions) -> MemoryQueue:
        return self._admin.setdefault(options.name, MemoryQueue(options, worker="admin"))

    async def open_queue(self, redis: RedisOptions, options: QueueOptions, _metrics: object) -> MemoryQueue:
        return (await self.open_client(redis, options)).beside(f"worker-{next(self._workers)}")


@pytest.fixture(params=QUEUES)
def module(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def queue_under_test(request: pytest.FixtureRequest, module: str) -> QueueUnderTest:
    if module == "memory":
        return QueueUnderTest(kind=InMemory(), short_lease=0.15)
    kind: Any = import_module(f"greenscale_worker.queues.{module}")
    return QueueUnderTest(kind=kind, redis=RedisOptions(url=request.getfixturevalue("redis_url")))
