"""Calling one task back from what it waits for, without ending it."""

import asyncio


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
