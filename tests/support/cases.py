"""Tests that mostly wait: they run at once, and each is a test of its own, that `-k` can choose."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import wraps
from itertools import dropwhile, takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

from harness.redis_server import RedisServer

AT_ONCE: Final = 8  # each starts a process or two

Test = Callable[..., Awaitable[None]]


def at_once(test: Test) -> Test:
    """Let a test run at once with the others of its kind that follow it in its module.

    It takes `cases`, which all of them share, and its parameters, and no other fixture.
    """

    @pytest.mark.asyncio(loop_scope="module")
    @wraps(test)
    async def case(cases: Cases, request: pytest.FixtureRequest, **_: object) -> None:
        await cases.wait_for(request)

    signature = inspect.signature(test)
    request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY)
    case.__signature__ = signature.replace(parameters=[*signature.parameters.values(), request])  # type: ignore[attr-defined]
    case.body = test  # type: ignore[attr-defined]
    return case


class Cases:
    """What tests share that run at once, for as long as their module runs; use with `async with`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._tasks: dict[pytest.Item, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._servers: dict[str, RedisServer] = {}
        self._stack = ExitStack()

    def start_redis(self, *config: str, sentinel: bool = False) -> RedisServer:
        """Start a server for one test alone."""
        return self.redis(f"own-{len(self._servers)}", *config, sentinel=sentinel)

    def redis(self, name: str, *config: str, sentinel: bool = False) -> RedisServer:
        """Find the server of that name, which several tests share; the first that asks starts it."""
        if name not in self._servers:
            server = RedisServer(self.directory / f"redis-{name}", *config, sentinel=sentinel)
            self._stack.callback(server.close)
            server.start()
            self._servers[name] = server
        return self._servers[name]

    async def wait_for(self, request: pytest.FixtureRequest) -> None:
        """Wait for the end of this test. With the first of several, all begin that were chosen for this run."""
        this = request.node
        if this not in self._tasks:
            rest = dropwhile(lambda item: item is not this, request.session.items)
            for item in takewhile(lambda item: item.path == this.path and _body(item) is not None, rest):
                parameters = item.callspec.params if hasattr(item, "callspec") else {}
                self._tasks[item] = asyncio.create_task(self._run(_body(item)(self, **parameters)))
        await self._tasks[this]

    async def _run(self, test: Awaitable[None]) -> None:
        async with self._places:
            await test

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._stack.close()


def _body(item: pytest.Item) -> Any:
    """The test itself, where it is one that runs at once with others."""
    return getattr(getattr(item, "obj", None), "body", None)
