"""Calling one task back from what it waits for, without ending it: when somebody says so, or when its time is up."""

import asyncio
import math


class Recall:
    """Calls the task that made it back from what it awaits inside `with`; it goes on after that.

    As asyncio.timeout does, without a clock and for half the price: a cancellation by anybody else still ends the task.
    Raises RuntimeError outside a task.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("there is no task to call back")
        self.task = task
        self._inside = False
        self._call: asyncio.Handle | None = None
        self._cancelled = False

    @property
    def called(self) -> bool:
        """Whether the task, inside, has been called back."""
        return self._cancelled

    def call(self) -> None:
        """Call back, once; where the task is not inside, do nothing."""
        if self._inside and self._call is None:
            # Never from the task itself: a cancellation that it has not met when it leaves cannot be taken back.
            self._call = self.task.get_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        self._cancelled = True
        self.task.cancel()

    def __enter__(self) -> None:
        self._inside = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._inside = False
        if self._call is None:
            return False
        self._call.cancel()
        self._call = None
        cancelled, self._cancelled = self._cancelled, False
        return cancelled and self.task.uncancel() == 0 and kind is asyncio.CancelledError


class Deadlines:
    """Calls tasks back when their time is up. One timer serves all: nearly always they are done before it rings."""

    def __init__(self) -> None:
        self._ends: dict[Recall, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, recall: Recall, seconds: float) -> None:
        """Call back in so many seconds; infinite: never."""
        loop = asyncio.get_running_loop()
        self._ends[recall] = ends = loop.time() + seconds
        if self._timer is None or ends < self._timer.when():
            self._arm(loop, ends)

    def discard(self, recall: Recall) -> None:
        """Call it back no more."""
        del self._ends[recall]

    def _arm(self, loop: asyncio.AbstractEventLoop, ends: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if ends == math.inf else loop.call_at(ends, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for recall, ends in self._ends.items():
            if ends <= now:
                recall.call()
        self._timer = None
        self._arm(loop, min((ends for ends in self._ends.values() if ends > now), default=math.inf))
