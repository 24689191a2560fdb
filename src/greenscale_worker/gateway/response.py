"""One response of a caller: kept, put as a job, looked at."""

from dataclasses import dataclass
from typing import Any, Final

from greenscale_worker.client.ends import Record
from greenscale_worker.gateway.attending import Attended
from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.response_ends import RESPONSE_ID, asked_of, begun_of, ending_of
from greenscale_worker.gateway.response_events import Shown
from greenscale_worker.gateway.response_files import Ending, Kept, ResponseFiles
from greenscale_worker.gateway.response_objects import PREFIX, Object, broken, standing
from greenscale_worker.gateway.response_requests import Asked
from greenscale_worker.gateway.submitting import Submitted, submit
from greenscale_worker.queues import ENDED

EXPIRED: Final = "the answer has expired"


@dataclass(slots=True)
class Response:
    """A response of a caller. `kept_in`: where it is kept; None: only the queue knows it, for a while."""

    call: Call
    id: str
    asked: Asked
    kept: Kept
    kept_in: ResponseFiles | None

    @property
    def queue_id(self) -> str:
        """The id of its job in the queue."""
        return self.call.caller.queue_id(self.id)

    @property
    def base(self) -> Object:
        """Its object as it is before the answer."""
        return begun_of(self.call.gateway, self.id, self.asked, self.kept.created_at)

    async def put(self, attended: Attended | None) -> Submitted:
        """Keep what was asked for, then put the job, unless it is there. Raises as `submit` does."""
        attendance = None if attended is None else attended.attendance
        return await submit(
            self.call,
            self._fields(tokens=self.asked.stream),
            digest=self.kept.digest,
            once=True,
            job_class=self.asked.job_class,
            attendance=attendance,
            prefix=PREFIX,
            first=self._keep,
            waits=not self.asked.background,
        )

    async def known(self) -> Ending | None:
        """Return how it has ended, where an equal request was kept before. Raises Problem if that was another one."""
        kept = None if self.kept_in is None else await self.kept_in.kept(self.id)
        if kept is None:
            return None
        self._check(kept)
        self.kept = kept
        return await self.ending()

    async def look(self) -> tuple[Object, Ending | None]:
        """Return how it stands, and its end if it has ended. What runs in the background and was lost is put again."""
        ending = await self.ending()
        if ending is None:
            record = await self.call.queue.record(self.queue_id)
            if record and record.get("state") not in ENDED:
                return standing(self.base, record), None
            ending = await self.ended(record)
        return (self.base, None) if ending is None else (ending.response, ending)

    async def ending(self) -> Ending | None:
        """Return how it has ended, if that is kept already."""
        return None if self.kept_in is None else await self.kept_in.ending(self.id)

    async def ended(self, record: Record, answer: bytes | None = None) -> Ending | None:
        """Return the end by the record, empty if that has expired; None where the job was lost and runs again."""
        ending = await ending_of(self.call.queue, self.queue_id, self.base, record, answer) if record else None
        if ending is None:  # it may have been kept meanwhile
            ending = await self.ending()
        if ending is not None:
            return ending
        if self.kept_in is None or not self.asked.background:
            return Ending(broken(self.base, "server_error", EXPIRED, "no_answer"), Shown())
        await self._put_again()
        return None

    def _fields(self, *, tokens: bool) -> dict[str, Any]:
        """Return the job; the end of one that is kept leaves a notice."""
        notify = {} if self.kept_in is None else {"notify": True}
        return {"job_id": self.id, **self.asked.fields(tokens=tokens), **notify}

    async def _keep(self) -> None:
        """Keep what was asked for. Raises Problem if the id belongs to another request."""
        if self.kept_in is not None:
            kept = await self.kept_in.keep(self.id, self.kept)
            self._check(kept)
            self.kept = kept

    def _check(self, kept: Kept) -> None:
        if kept.digest != self.kept.digest:
            raise Problem("idempotency_key_reuse", "the Idempotency-Key was sent with another body before")

    async def _put_again(self) -> None:
        """Put the job again. It shows no text, so that none is glued to that of the run that was lost."""
        await submit(
            self.call,
            self._fields(tokens=False),
            digest=self.kept.digest,
            once=True,
            job_class=self.asked.job_class,
        )


def files_of(call: Call) -> ResponseFiles:
    """Return where the caller's responses are kept. Raises Problem."""
    if call.gateway.files is None:
        said = "this gateway keeps no responses; its operator has to set GREENSCALE_FILES"
        raise Problem("files_not_configured", said, headers={"x-should-retry": "false"})
    return ResponseFiles(call.gateway.files, call.caller.tenant or "")


async def found(call: Call) -> Response:
    """Return the response in the path. Raises Problem."""
    kept_in = files_of(call)
    kept = await kept_in.kept(call.id) if RESPONSE_ID.fullmatch(call.id) else None
    if kept is None:
        said = f"there is no response {call.id[:200]!r}: unknown, deleted, not stored, or older than 30 days"
        raise Problem("not_found", said, param="id")
    return Response(call, call.id, asked_of(call.gateway, kept), kept, kept_in)
