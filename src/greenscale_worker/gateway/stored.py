"""How much each tenant stores, for the limit of a key: counted by a list now and then, and what has come since."""

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from greenscale_worker.batches.store import Batches
from greenscale_worker.files.objects import FileObjects
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.limits import Account
from greenscale_worker.gateway.shared import Shared

COUNTED_SECONDS: Final = 5.0  # between two lists of what a tenant stores
PARAM: Final = "stored_bytes"


@dataclass(slots=True)
class Count:
    """The bytes of a tenant's files and outputs."""

    bytes: int


class StoredBytes:
    """What tenants store: files, outputs of batches, and what is being uploaded here.

    What arrives elsewhere is seen once it is whole, within 5 s. So a limit may be exceeded by what arrives at the same
    time.
    """

    def __init__(self, shared: Shared, objects: FileObjects, batches: Batches) -> None:
        self._shared = shared
        self._objects = objects
        self._batches = batches
        self._counts: dict[str | None, Count] = {}
        self._arriving = Counter[str | None]()

    async def check(self, account: Account | None, more: int = 0) -> None:
        """Raise Problem `insufficient_quota` if the key's tenant stores too much, with so many bytes more."""
        if account is None or (most := account.limits.stored_bytes) is None:
            return
        tenant = account.tenant
        count: Count = await self._shared.get((PARAM, tenant), COUNTED_SECONDS, partial(self._count, tenant))
        if count.bytes + self._arriving[tenant] + more > most:
            raise _over(most, count.bytes)

    async def counted(
        self, tenant: str | None, account: Account | None, chunks: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        """Yield what is to be stored, and count it. Raises Problem `insufficient_quota`."""
        size = 0
        try:
            async for chunk in chunks:
                size += len(chunk)
                self._arriving[tenant] += len(chunk)
                await self.check(account)
                yield chunk
            self._add(tenant, size)
        finally:
            self._arriving[tenant] -= size
            if not self._arriving[tenant]:
                del self._arriving[tenant]

    def freed(self, tenant: str | None, size: int) -> None:
        """Note that so many bytes were deleted."""
        self._add(tenant, -size)

    async def _count(self, tenant: str | None) -> Count:
        size = await self._objects.stored(tenant) + await self._batches.stored(tenant)
        self._counts[tenant] = count = Count(size)
        return count

    def _add(self, tenant: str | None, size: int) -> None:
        if (count := self._counts.get(tenant)) is not None:
            count.bytes = max(0, count.bytes + size)


def _over(most: int, stored: int) -> Problem:
    said = (
        f"{PARAM}: the key's limit is {most} bytes, and {stored} are stored already; delete inputs and outputs that are"
        " not needed any more (GET /v1/files, DELETE /v1/files/{id})"
    )
    return Problem("insufficient_quota", said, param=PARAM, headers={"x-should-retry": "false"})
