"""A handler that takes many jobs at once, so that cheap work shares a round trip."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from greenscale_worker.errors import GreenScaleError, TransientError
from greenscale_worker.grouping import Grouper
from greenscale_worker.job import Job

GroupHandler = Callable[[Sequence[Job]], Awaitable[Sequence[Any]]]


def batched(*, most: int) -> Callable[[GroupHandler], Callable[[Job], Coroutine[Any, Any, Any]]]:
    """Make a handler of an `async def handler(jobs)` that returns as many answers, in the same order.

    It is called with the jobs that came in while its last call ran, `most` at most. It never waits for more jobs, and
    there is one call at a time. An exception returned as an answer is the outcome of that job alone; an exception
    raised is that of all jobs of the call. Cancelling a job does not affect the others; a call is cancelled when all
    of its jobs were. Decorates functions, not methods. Raises ValueError if `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"most: at least 1 is expected, not {most}")

    def decorate(handler: GroupHandler) -> Callable[[Job], Coroutine[Any, Any, Any]]:
        calls = _Calls(handler, most)

        @wraps(handler)
        async def handle(job: Job) -> Any:
            return await calls.answer(job)

        return handle

    return decorate


@dataclass(slots=True, eq=False)
class _Call:
    """One call of the handler, and how many of its jobs are still waited for."""

    task: asyncio.Task[Sequence[Any]]
    present: int

    def leave(self) -> None:
        self.present -= 1
        if not self.present:
            self.task.cancel()


@dataclass(slots=True, eq=False)
class _Asked:
    """A job, whether its caller is gone, and the call that it is part of."""

    job: Job
    gone: bool = False
    call: _Call | None = None


class _Calls:
    def __init__(self, handler: GroupHandler, most: int) -> None:
        self._handler = handler
        self._group: Grouper[_Asked, Any] = Grouper(self._send, most=most, most_bytes=0)

    async def answer(self, job: Job) -> Any:
        asked = _Asked(job)
        try:
            answer = await self._group(asked)
        except asyncio.CancelledError:
            asked.gone = True
            if asked.call is not None:
                asked.call.leave()
            raise
        if isinstance(answer, GreenScaleError):
            raise answer.with_traceback(None)  # it may be a constant, whose trace would grow with every job
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def _send(self, group: list[_Asked]) -> list[Any]:
        """Call the handler for the jobs still waited for; the others get None, which is never read."""
        present = [asked for asked in group if not asked.gone]
        if not present:
            return [None] * len(group)
        task = asyncio.create_task(self._ask([asked.job for asked in present]))
        call = _Call(task, len(present))
        for asked in present:
            asked.call = call
        await asyncio.wait({task})
        if task.cancelled():
            return [None] * len(group)
        answers = iter(task.result())
        return [next(answers) if asked.call is call else None for asked in group]

    async def _ask(self, jobs: list[Job]) -> Sequence[Any]:
        try:
            answers: object = await self._handler(jobs)
        except (Exception, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001  raised in a task, it would end the loop or be lost
            return [error] * len(jobs)
        if isinstance(answers, Sequence) and not isinstance(answers, str | bytes):
            if len(answers) == len(jobs):
                return answers
            gave = f"{len(answers)} answers"
        else:
            gave = type(answers).__name__
        raise TransientError("backend_error", f"it gave {gave} to {len(jobs)} jobs, not an answer to each")
