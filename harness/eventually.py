"""Waits for a condition, with a deadline."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 30.0  # of a test, on a loaded machine
POLL: Final = 0.01


async def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until the condition holds; it does not yet while it raises AssertionError. Raises TimeoutError with why."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while True:
        late, why = loop.time() > ends, ""
        try:
            if condition():
                return
        except AssertionError as error:
            why = f": {error}"
        if late:
            code = inspect.getsource(condition).strip() if inspect.isfunction(condition) else repr(condition)
            raise TimeoutError(f"not within {seconds:g} s{why}: {code}")
        await asyncio.sleep(POLL)
