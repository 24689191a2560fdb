"""Lets few large files be read at a time: slow clients of one tenant keep neither others nor batches waiting."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from greenscale_worker.gateway.errors import Problem

LARGE: Final = 256 * 1024  # bytes from which on a file needs a place
MOST: Final = 6  # fewer than the store writes at once: the rest is for the outputs of batches
MOST_OF_ONE: Final = 2
PATIENCE_SECONDS: Final = 120.0
AGAIN_SECONDS: Final = 10


class UploadPlaces:
    """The places of one gateway: two of a tenant, six in all."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(MOST)
        self._of_one: dict[str | None, asyncio.Semaphore] = {}
        self._known = Counter[str | None]()

    def waiting(self, tenant: str | None) -> int:
        """Return how many files of a tenant wait for a place."""
        return max(0, self._known[tenant] - MOST_OF_ONE)

    @asynccontextmanager
    async def place(self, tenant: str | None) -> AsyncIterator[None]:
        """Have a place, once there is one. Raises Problem `rate_limit_exceeded` after two minutes."""
        own = self._of_one.setdefault(tenant, asyncio.Semaphore(MOST_OF_ONE))
        self._known[tenant] += 1
        try:
            await _acquire(own)
            try:
                await _acquire(self._all)
                try:
                    yield
                finally:
                    self._all.release()
            finally:
                own.release()
        finally:
            self._known[tenant] -= 1
            if not self._known[tenant]:
                del self._known[tenant], self._of_one[tenant]


async def _acquire(places: asyncio.Semaphore) -> None:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await places.acquire()
    except TimeoutError:
        said = f"uploads: {MOST_OF_ONE} large files of a tenant are read at a time, {MOST} in all; try again later"
        headers = {"Retry-After": str(AGAIN_SECONDS), "Connection": "close"}
        raise Problem("rate_limit_exceeded", said, param="uploads", headers=headers) from None
