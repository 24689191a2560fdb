"""Cancelling what a task awaits, and what that must not swallow."""

import asyncio
import math
from itertools import pairwise

import pytest

from greenscale_worker import cancel_scope
from greenscale_worker.cancel_scope import CancelScope, Timeouts


async def reach(scope_of: "asyncio.Future[CancelScope]", *, swallow: bool = False) -> str:
    scope = CancelScope()
    with scope:
        scope_of.set_result(scope)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallow:
                raise
            return "swallowed"
    return "called back"


async def started(*, swallow: bool = False) -> tuple["asyncio.Task[str]", CancelScope]:
    scope_of: asyncio.Future[CancelScope] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(reach(scope_of, swallow=swallow))
    return task, await scope_of


async def test_a_task_goes_on_after_it_was_called_back() -> None:
    task, scope = await started()
    scope.cancel()
    scope.cancel()
    assert await task == "called back"
    assert task.cancelling() == 0


async def test_a_cancellation_by_somebody_else_still_ends_the_task() -> None:
    task, scope = await started()
    scope.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_call_that_was_swallowed_leaves_no_trace() -> None:
    task, scope = await started(swallow=True)
    scope.cancel()
    assert await task == "swallowed"
    assert task.cancelling() == 0


async def test_outside_there_is_nothing_to_call_back_from() -> None:
    scope = CancelScope()
    scope.cancel()
    with scope:
        pass
    scope.cancel()
    await asyncio.sleep(0)


async def test_a_task_that_calls_itself_back_and_leaves_is_not_cancelled_later() -> None:
    scope = CancelScope()
    with scope:
        scope.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_an_error_is_not_taken_for_a_call() -> None:
    scope = CancelScope()

    async def fail() -> None:
        with scope:
            scope.cancel()
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fail()
    await asyncio.sleep(0)


async def test_outside_a_task_it_is_refused() -> None:
    refused = asyncio.get_running_loop().create_future()

    def begin() -> None:
        try:
            CancelScope()
        except RuntimeError as error:
            refused.set_result(str(error))

    asyncio.get_running_loop().call_soon(begin)
    assert "no task" in await refused


async def waiting(timeouts: Timeouts, seconds: float, order: list[float]) -> bool:
    """Wait for ever, or until called back; say whether it was."""
    scope = CancelScope()
    timeouts.add(scope, seconds)
    try:
        with scope:
            await asyncio.Event().wait()
    finally:
        timeouts.discard(scope)
    order.append(seconds)
    return True


async def test_each_deadline_rings_in_its_turn_whatever_the_order_in_which_they_were_set() -> None:
    timeouts, order = Timeouts(), list[float]()
    async with asyncio.timeout(10):
        waits = (waiting(timeouts, seconds, order) for seconds in (0.05, 0.01, 0.15, 0.1))
        assert await asyncio.gather(*waits) == [True] * 4
        assert await waiting(timeouts, 0.01, order), "and after all have rung, a new one does"
    assert order == [0.01, 0.05, 0.1, 0.15, 0.01]


async def test_one_that_was_discarded_or_has_no_end_is_not_cancelled() -> None:
    timeouts = Timeouts()
    early, never = CancelScope(), CancelScope()
    timeouts.add(early, 0.0)
    timeouts.discard(early)
    timeouts.add(never, math.inf)
    with early, never:
        assert await waiting(timeouts, 0.02, [])
    assert not early.cancelled
    assert not never.cancelled


async def hanging(timeouts: Timeouts, *, leaves_at: int, calls: list[float]) -> None:
    """Swallow calls until so many have come."""
    scope = CancelScope()
    timeouts.add(scope, 0.01)
    loop = asyncio.get_running_loop()
    try:
        with scope:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    calls.append(loop.time())
                    if len(calls) == leaves_at:
                        raise
    finally:
        timeouts.discard(scope)


@pytest.mark.parametrize("leaves_at", [1, 2, 3])
async def test_a_task_that_does_not_come_is_called_once_more_and_then_given_up(
    leaves_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel_scope, "GRACE_SECONDS", 0.05)
    stuck, calls = asyncio.Event(), list[float]()
    told = list[asyncio.Task[object]]()

    def give_up(task: asyncio.Task[object]) -> None:
        told.append(task)
        stuck.set()

    task = asyncio.create_task(hanging(Timeouts(give_up), leaves_at=leaves_at, calls=calls))
    async with asyncio.timeout(10):
        if leaves_at == 3:
            await stuck.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await task
            await asyncio.sleep(0.15)
    assert told == ([task] if leaves_at == 3 else [])
    assert len(calls) == leaves_at
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(calls))
