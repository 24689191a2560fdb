"""Waiting for what is promised, but not for ever; and several scenarios at once, where each of them mostly waits."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

PATIENCE: Final = 30.0  # of a test, on a loaded machine
POLL: Final = 0.01


async def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until the condition holds. One that raises AssertionError does not hold yet, and says why at the end."""
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


async def together(**scenarios: Coroutine[Any, Any, None]) -> None:
    """Run scenarios at the same time; one that fails is told by its name, and the others go on."""

    async def named(name: str, scenario: Awaitable[None]) -> Exception | None:
        try:
            await scenario
        except Exception as error:  # noqa: BLE001  raised below, beside the others
            error.add_note(f"in the scenario {name!r}")
            return error
        return None

    done = await asyncio.gather(*(named(name, scenario) for name, scenario in scenarios.items()))
    if errors := [error for error in done if error is not None]:
        raise ExceptionGroup("scenarios that failed", errors)
