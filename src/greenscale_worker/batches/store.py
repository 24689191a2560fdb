"""Batches as objects in Files: what was asked, who cancelled, and the commits.

`batches/TENANT/ID` is the request, `cancels/TENANT/ID` the mark of a cancellation, `states/TENANT/ID/N` a commit, and
`parts/TENANT/ID/…` are the parts of its outputs; N counts down, so that the latest is the first in order. No tenant is
`_`. `ends/DAY/TENANT/ID` is written before the request and deleted last, so that whatever is left of a batch is found
on the day on which it may be deleted.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from greenscale_worker.batches.objects import Part, Request, State
from greenscale_worker.files import Files
from greenscale_worker.files.objects import LONGEST

LAST: Final = 999_999
KEPT_SECONDS: Final = LONGEST  # after the end of its window, and its own: no less than its output
MOST_AT_ONCE: Final = 16
Kind = Literal["output", "errors"]
PartKind = Literal[Kind, "checked"]


class Due(NamedTuple):
    """A batch that may be deleted if it has ended; `key` is that of its mark."""

    key: str
    tenant: str | None
    batch_id: str


class SupersededError(Exception):
    """Another feeder has committed: what this one knows is old."""


class Batches:
    """The batches in a store."""

    def __init__(self, files: Files) -> None:
        self.files = files

    async def create(self, request: Request) -> None:
        """Write what was asked, unless that was done."""
        day = day_of(request.expires_at + KEPT_SECONDS)
        await self.files.create(f"ends/{day}/{request.tenant or '_'}/{request.id}", b"")
        await self.files.create(_key("batches", request.tenant, request.id), request.model_dump_json().encode())

    async def request(self, tenant: str | None, batch_id: str) -> Request | None:
        """Return what was asked; None if there is no such batch."""
        data = await self.files.read(_key("batches", tenant, batch_id))
        return None if data is None else Request.model_validate_json(data)

    async def state(self, request: Request) -> State:
        """Return how it stands."""
        while latest := await self.files.list(_states(request), limit=1):
            data = await self.files.read(latest[0].key)
            if data is not None:  # else it was tidied away just now, as there is a later one
                return State.model_validate_json(data)
        return State()

    async def commit(self, request: Request, state: State) -> None:
        """Make it the state. Raises SupersededError if another writer wrote one of this number, or a later one."""
        key, data = f"{_states(request)}/{LAST - state.number:06d}", state.model_dump_json().encode()
        if not await self.files.create(key, data) and await self.files.read(key) != data:
            raise SupersededError
        latest = await self.files.list(_states(request), limit=1)
        if latest and latest[0].key != key:  # the batch has ended, and its older states were tidied away
            await self.files.delete([key])
            raise SupersededError

    async def cancel(self, request: Request, at: int) -> None:
        """Mark it as to be cancelled, unless it is already."""
        await self.files.create(_key("cancels", request.tenant, request.id), json.dumps({"at": at}).encode())

    async def cancelling_at(self, request: Request) -> int | None:
        """Return when somebody asked to cancel it."""
        data = await self.files.read(_key("cancels", request.tenant, request.id))
        return None if data is None else int(json.loads(data)["at"])

    async def look(self, request: Request) -> tuple[State, int | None]:
        """Return how it stands, and when somebody asked to cancel it."""
        state, at = await asyncio.gather(self.state(request), self.cancelling_at(request))
        return state, at

    async def page(self, tenant: str | None, *, after: str | None, limit: int) -> list[Request]:
        """Return the tenant's batches behind `after`, newest first."""
        prefix = _key("batches", tenant, "").rstrip("/")
        behind = "" if after is None else f"{prefix}/{after}"
        found = await self.files.list(prefix, after=behind, limit=limit)
        read = await asyncio.gather(*(self.files.read(each.key) for each in found))
        return [Request.model_validate_json(data) for data in read if data is not None]

    async def content(self, parts: tuple[Part, ...]) -> AsyncIterator[bytes]:
        """Iterate over parts, one after the other. Raises KeyError if one is gone."""
        for part in parts:
            async for chunk in self.files.chunks(part.key):
                yield chunk

    def part_key(self, request: Request, kind: PartKind, name: str) -> str:
        """Return the key of a part, or of what was checked."""
        return f"{_key('parts', request.tenant, request.id)}/{kind}/{name}"

    async def stored(self, tenant: str | None) -> int:
        """Return how many bytes the parts of a tenant's outputs have."""
        return sum(each.size for each in await self.files.list(_key("parts", tenant, "").rstrip("/")))

    async def due(self, now: float) -> AsyncIterator[Due]:
        """Iterate over the batches of which nothing need be kept any more, if they have ended."""
        for mark in await self.files.list("ends"):
            _, day, of, batch_id = mark.key.split("/")
            if day >= day_of(now):
                break
            yield Due(mark.key, None if of == "_" else of, batch_id)

    async def remove(self, due: Due) -> None:
        """Delete all there is of a batch: the request first, without which the rest is nothing."""
        await self.files.delete([_key("batches", due.tenant, due.batch_id)])
        rest = [_key("cancels", due.tenant, due.batch_id)]
        for kind in ("states", "parts"):
            rest += [each.key for each in await self.files.list(_key(kind, due.tenant, due.batch_id))]
        await self.files.delete([*rest, due.key])

    async def tidy(self, request: Request, state: State) -> None:
        """Delete all that a final state does not need: older ones, and parts that it does not name."""
        states = await self.files.list(_states(request))
        parts = await self.files.list(_key("parts", request.tenant, request.id))
        named = {part.key for part in (*state.outputs, *state.errors)}
        old = [each.key for each in states[1:]]
        await self.files.delete([*old, *(each.key for each in parts if each.key not in named)])


def day_of(moment: float) -> str:
    """Return the day of a time, so that days are in order."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y%m%d")


def _states(request: Request) -> str:
    return _key("states", request.tenant, request.id)


def _key(kind: str, tenant: str | None, batch_id: str) -> str:
    return f"{kind}/{tenant or '_'}/{batch_id}"
