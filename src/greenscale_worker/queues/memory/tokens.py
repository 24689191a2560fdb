"""The text that the jobs of one process show while they run, until it expires."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from greenscale_worker.queues import Lease, TokenPiece
from greenscale_worker.queues.memory.records import Expiring


class _Written(NamedTuple):
    """One piece, and the job and the run that wrote it."""

    piece: TokenPiece
    id: str
    token: str


class Tokens:
    """The pieces of each job, in order, and the readers that wait for more."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._texts: Expiring[list[_Written]] = Expiring(clock)
        self._bells: set[asyncio.Future[None]] = set()
        self._written = 0

    def write(self, lease: Lease, text: str, *, attempt: int, seconds: float) -> None:
        """Add a piece of a run; without text, only say how long all of it lasts.

        `attempt` is the least number that this run may have.
        """
        job_id, id_, token = lease.job_id or "", lease.id, lease.token
        pieces = self._texts.get(job_id) or []
        if text:
            if pieces:
                before = pieces[-1].piece.attempt
                attempt = before if pieces[-1].token == token else max(attempt, before + 1)
            if pieces and pieces[-1].id != id_:
                pieces = []  # of an earlier job with this job id
            self._written += 1
            pieces.append(_Written(TokenPiece(job_id, f"{self._written}-0", attempt, text), id_, token))
        self._texts.put(job_id, pieces, seconds=seconds)
        for bell in self._bells:
            if not bell.done():
                bell.set_result(None)

    def forget(self, job_id: str) -> None:
        """Delete the text of a job."""
        self._texts.pop(job_id)

    async def read(self, after: Mapping[str, str], wait: float) -> list[TokenPiece]:
        """Return the pieces behind these positions; if there are none, wait for some."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while not (found := self._behind(after)) and (left := until - loop.time()) > 0:
            bell: asyncio.Future[None] = loop.create_future()
            self._bells.add(bell)
            try:
                await asyncio.wait({bell}, timeout=left)
            finally:
                self._bells.discard(bell)
        return found

    def _behind(self, after: Mapping[str, str]) -> list[TokenPiece]:
        pieces = [(written.piece, after[job_id]) for job_id in after for written in self._texts.get(job_id) or []]
        return [piece for piece, position in pieces if _number(piece.position) > _number(position)]


def _number(position: str) -> int:
    return int(position.partition("-")[0] or 0)
