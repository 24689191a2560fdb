"""Readings that many ask for: one of them reads, the others get the same."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final

MOST: Final = 64  # readings that are kept


class Shared:
    """Readings by name, each for a short while."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._told: dict[Hashable, tuple[float, Any]] = {}

    async def get(self, name: Hashable, seconds: float, read: Callable[[], Awaitable[Any]]) -> Any:
        """Return a reading that is at most so old. Raises what `read` raises; the next who asks tries again."""
        clock = asyncio.get_running_loop().time
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                read_at, told = self._told.pop(name, (float("-inf"), None))
                if clock() - read_at >= seconds:
                    told, read_at = await read(), clock()
                self._told[name] = read_at, told
                while len(self._told) > MOST:
                    self._told.pop(next(iter(self._told)))
                return told
        finally:
            if not lock.locked():
                self._locks.pop(name, None)
