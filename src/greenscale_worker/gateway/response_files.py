"""Responses in Files: what was asked for, and the final object with the pieces in which its text was shown.

`responses/<tenant>/<id>/request` is written before the job is put, `…/response` once it has ended. Both are written
once, and last for 30 days.
"""

import time
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

from greenscale_worker.files import Files
from greenscale_worker.gateway.response_events import Shown
from greenscale_worker.gateway.response_objects import Object, text_of
from greenscale_worker.wire_json import read, write

KEPT_SECONDS: Final = 30 * 86_400
HOUR: Final = "%Y%m%d%H"


@dataclass(frozen=True, slots=True)
class Kept:
    """What was asked for. `digest` is equal for equal requests."""

    request: dict[str, Any]
    created_at: int
    digest: str


@dataclass(frozen=True, slots=True)
class Ending:
    """A response that has ended, and the text that it had shown."""

    response: Object
    shown: Shown


@dataclass(frozen=True, slots=True)
class ResponseFiles:
    """The responses of one tenant, empty for none. Calls raise FilesUnavailableError."""

    files: Files
    tenant: str

    async def keep(self, response_id: str, kept: Kept) -> Kept:
        """Keep what was asked for, unless that was done before; return what is kept."""
        due = time.strftime(HOUR, time.gmtime(kept.created_at + KEPT_SECONDS + 3600))
        await self.files.create(f"expires/{due}/{self._tenant}/{response_id}", b"")
        document = {"created_at": kept.created_at, "digest": kept.digest, "request": kept.request}
        if await self.files.create(self._key(response_id, "request"), write(document)):
            return kept
        return await self.kept(response_id) or kept

    async def kept(self, response_id: str) -> Kept | None:
        """Return what was asked for; None if there is no such response, or it was deleted, or is too old."""
        raw = await self.files.read(self._key(response_id, "request"))
        if raw is None:
            return None
        told = read(raw)
        kept = Kept(told["request"], told["created_at"], told["digest"])
        return kept if kept.created_at + KEPT_SECONDS > time.time() else None

    async def ending(self, response_id: str) -> Ending | None:
        """Return the end; None while it is not kept."""
        raw = await self.files.read(self._key(response_id, "response"))
        if raw is None:
            return None
        told = read(raw)
        response, lengths = told["response"], told["shown"]["lengths"]
        text = text_of(response)
        pieces = [text[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]
        return Ending(response, Shown(told["shown"]["run"], pieces))

    async def end(self, response_id: str, ending: Ending) -> None:
        """Keep the end, unless there is one, or the response was deleted.

        Of the text that was shown only lengths are kept, as the object has it.
        """
        is_text = text_of(ending.response).startswith(ending.shown.text)
        lengths = [len(piece) for piece in ending.shown.pieces] if is_text else []
        document = {"response": ending.response, "shown": {"run": ending.shown.run, "lengths": lengths}}
        await self.files.create(self._key(response_id, "response"), write(document))
        if await self.files.read(self._key(response_id, "request")) is None:  # it was deleted at the same time
            await self.files.delete([self._key(response_id, "response")])

    async def delete(self, response_id: str) -> None:
        """Delete it: what was asked for first, without which nothing is answered or run again."""
        await self.files.delete([self._key(response_id, "request")])
        await self.files.delete([self._key(response_id, "response")])

    @property
    def _tenant(self) -> str:
        return self.tenant or "_"

    def _key(self, response_id: str, name: str) -> str:
        return f"responses/{self._tenant}/{response_id}/{name}"
