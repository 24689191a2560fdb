"""Calls plain functions in threads, so that the event loop goes on meanwhile."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any

Calls = SimpleQueue[Callable[[], bool] | None]


class Threads:
    """Runs each call in a thread of its own; a thread whose call has ended takes the next.

    A running call cannot be stopped. A caller that is cancelled leaves the thread behind until the call returns,
    and others get another one. The threads are daemons: none keeps the process from ending. A ThreadPoolExecutor
    promises neither.
    """

    def __init__(self) -> None:
        self.left_behind = 0
        self._idle: list[Calls] = []
        self._closed = False

    async def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Return what the function returns, or raise what it raises. May be cancelled at any time."""
        loop, context = asyncio.get_running_loop(), copy_context()
        calls = self._idle.pop() if self._idle else _start()
        answer: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def finish(outcome: tuple[Any, BaseException | None]) -> None:
            self._take_back(calls)
            if answer.cancelled():
                self.left_behind -= 1
            else:
                answer.set_result(outcome)

        def work() -> bool:
            outcome = context.run(_outcome, function, argument)
            try:
                loop.call_soon_threadsafe(finish, outcome)
            except RuntimeError:  # the loop is closed
                return False
            return True

        calls.put(work)
        try:
            value, error = await answer
        except asyncio.CancelledError:
            self.left_behind += answer.cancelled()
            raise
        if error is not None:
            try:
                raise error
            finally:
                del error  # it holds this frame
        return value

    def close(self) -> None:
        """End the threads: idle ones now, the others when their calls have returned."""
        self._closed = True
        while self._idle:
            self._idle.pop().put(None)

    def _take_back(self, calls: Calls) -> None:
        if self._closed:
            calls.put(None)
        else:
            self._idle.append(calls)


def _start() -> Calls:
    calls: Calls = SimpleQueue()
    Thread(target=_serve, args=(calls,), name="greenscale-handler", daemon=True).start()
    return calls


def _serve(calls: Calls) -> None:
    while (call := calls.get()) is not None and call():
        del call  # free what it holds before waiting for the next one


def _outcome(function: Callable[[Any], Any], argument: Any) -> tuple[Any, BaseException | None]:
    try:
        return function(argument), None
    except BaseException as error:  # noqa: BLE001  raised again in the caller
        return None, error
