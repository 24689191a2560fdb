"""Cancels what one task waits for, without ending the task: on request, or when its time is up."""

import asyncio
import math
from collections.abc import Callable
from operator import itemgetter
from typing import Final

GRACE_SECONDS: Final = 5.0  # for a handler to clean up; then it is cancelled again, and given up after as long


class CancelScope:
    """Cancels what its task awaits inside `with`; the task goes on after the block.

    Works like asyncio.timeout, without a clock (docs/adr/0021): any other cancellation still ends the task.
    Raises RuntimeError outside a task.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("there is no task to cancel")
        self.task = task
        self._inside = False
        self._call: asyncio.Handle | None = None
        self._cancels = 0

    @property
    def cancelled(self) -> bool:
        """Whether this scope has cancelled its task, which is still inside."""
        return self._cancels > 0

    def cancel(self) -> None:
        """Cancel the task once. Does nothing while the task is not inside."""
        if self._inside and self._call is None:
            # Never from the task itself: a cancellation not yet delivered when it leaves cannot be taken back.
            self._call = self.task.get_loop().call_soon(self._cancel)

    def cancel_again(self) -> None:
        """Cancel again a task that has caught the first CancelledError and did not leave."""
        if self._inside and self._cancels:
            self._cancel()

    def _cancel(self) -> None:
        self._cancels += 1
        self.task.cancel()

    def __enter__(self) -> None:
        self._inside = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._inside = False
        if self._call is None:
            return False
        self._call.cancel()
        self._call = None
        cancels, self._cancels = self._cancels, 0
        left = [self.task.uncancel() for _ in range(cancels)]
        return cancels > 0 and left[-1] == 0 and kind is asyncio.CancelledError


class Timeouts:
    """Cancels scopes when their time is up. One timer serves all, as nearly all leave before it fires.

    A task that does not leave is cancelled again after GRACE_SECONDS; after as many more, `on_stuck` is called with it.
    """

    def __init__(self, on_stuck: Callable[[asyncio.Task[object]], None] | None = None) -> None:
        self._on_stuck = on_stuck
        self._ends: dict[CancelScope, tuple[float, int]] = {}  # when, and how often it was cancelled already
        self._timer: asyncio.TimerHandle | None = None

    def add(self, scope: CancelScope, seconds: float) -> None:
        """Cancel a scope in so many seconds; infinite: never."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        self._ends[scope] = ends, 0
        if self._timer is None or ends < self._timer.when():
            self._arm(loop, ends)

    def discard(self, scope: CancelScope) -> None:
        """Do not cancel a scope any more."""
        self._ends.pop(scope, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, ends: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if ends == math.inf else loop.call_at(ends, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        due = [(ends, calls, scope) for scope, (ends, calls) in self._ends.items() if ends <= now]
        for _, calls, scope in sorted(due, key=itemgetter(0)):
            self._call(scope, calls, now)
        self._timer = None
        self._arm(loop, min((ends for ends, _ in self._ends.values()), default=math.inf))

    def _call(self, scope: CancelScope, calls: int, now: float) -> None:
        self._ends[scope] = now + GRACE_SECONDS, calls + 1
        if calls == 0:
            scope.cancel()
        elif calls == 1:
            scope.cancel_again()
        else:
            del self._ends[scope]
            if self._on_stuck is not None:
                self._on_stuck(scope.task)
