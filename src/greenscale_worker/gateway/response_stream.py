"""The stream of a response, from the pieces of text that its job shows, and from its end."""

from greenscale_worker.client.ends import Ended, Record
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.failures import failure_of
from greenscale_worker.gateway.response import Response
from greenscale_worker.gateway.response_ends import shown_pieces
from greenscale_worker.gateway.response_events import Events, Shown
from greenscale_worker.gateway.response_objects import cancelled, text_of
from greenscale_worker.gateway.waiting import Streamed, Waiting, restarted, streamed


class ResponseStream(Streamed):
    """What was sent of a response so far.

    `held`: until there is text, nothing is sent, so that a failure has its status.
    """

    exact = True

    def __init__(self, waiting: Waiting, response: Response, *, after: int = -1, held: bool = False) -> None:
        super().__init__(waiting)
        self.goes_on = response.asked.background
        self._of = response
        self._base = response.base
        self._events = Events(self._base, after=after)
        self._shown = Shown()
        self._held = held

    async def follow(self) -> None:
        """Send all that was shown so far, then what comes. Raises Problem."""
        pieces = await shown_pieces(self.waiting.call.queue, self.waiting.queue_id)
        self._shown = Shown.of(pieces)
        if not self._held:
            await self.begin()
            await self.write(self._events.begin())
        if not self._events.fits(self._shown.run):
            await self.write(self._events.restarted())
            return
        for text in self._shown.pieces:
            await self.write(self._events.text(text, self._shown.run))
        await streamed(self, after=pieces[-1].position if pieces else "")

    async def write(self, data: bytes) -> None:
        """Write events, if there are any."""
        if data:
            await super().write(data)

    async def see(self, record: Record) -> bool:
        """Say that the job runs, or that it will be cancelled."""
        if self._held and self.response is None:
            return False
        if record.get("state") == "cancelling" and self.goes_on:
            await self.write(self._events.finish(cancelled(self._base), self._shown))
            return True
        if record.get("state") == "running":
            await self.write(self._events.run())
        return False

    async def piece(self, attempt: int, text: str) -> None:
        """Write a piece of the text. Raises Problem if it is of another run than the one before."""
        run, has_sent = self._shown.run, bool(self._shown.pieces)
        self._shown.add(attempt, text)
        if not text:
            return
        if (has_sent and self._shown.run != run) or not self._events.fits(self._shown.run):
            raise restarted()
        await self.write(self._events.text(text, self._shown.run))

    async def finish(self, ended: Ended) -> None:
        """Write the rest, and the end. Raises Problem if what was sent is not how the text begins."""
        ending = await self._of.ended(ended.record, ended.answer)
        if ending is None:
            raise restarted()
        response = ending.response
        if self._held and self.response is None and response["status"] in ("failed", "cancelled"):
            raise failure_of(ended.record)
        if response["output"] and not text_of(response).startswith(self._shown.text):
            raise restarted()
        await self.write(self._events.finish(response, self._shown))

    async def broken_off(self, problem: Problem) -> None:
        """Say that the response has failed, as it begins anew; or that only the stream ends."""
        if problem.kind == "restarted":
            await self.write(self._events.restarted())
        else:
            await self.write(self._events.error(problem.code, problem.detail))
