"""Ends a task, also where a library swallows a cancellation."""

import asyncio
from typing import Any, Final

AGAIN_SECONDS: Final = 0.1


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task until it has ended: `wait_for` of Python 3.11, which redis-py uses, may swallow a cancellation."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_SECONDS)
