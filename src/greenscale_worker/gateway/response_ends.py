"""How a response has ended, read from the queue; and its keeping in Files, before the queue forgets it."""

import re
from typing import Final

from greenscale_worker.client.ends import Record
from greenscale_worker.files import Files
from greenscale_worker.gateway.chunks import made_of
from greenscale_worker.gateway.core import Gateway
from greenscale_worker.gateway.response_events import Shown
from greenscale_worker.gateway.response_files import Ending, Kept, ResponseFiles
from greenscale_worker.gateway.response_objects import PREFIX, Object, answered, begun, failed, text_of
from greenscale_worker.gateway.response_requests import Asked
from greenscale_worker.gateway.waiting import model_of
from greenscale_worker.job import CHAT_PATH
from greenscale_worker.queues import ENDED, Notice, QueueClient, TokenPiece
from greenscale_worker.wire_json import read

RESPONSE_ID: Final = re.compile(rf"{PREFIX}[0-9a-f]{{32,64}}")


def asked_of(gateway: Gateway, kept: Kept) -> Asked:
    """Return what was asked for."""
    return Asked.of(kept.request, gateway.options.max_tokens_parameter)


def begun_of(gateway: Gateway, response_id: str, asked: Asked, created_at: int) -> Object:
    """Return the object of a response that is not answered yet."""
    model = model_of(asked.request, gateway.options.model)
    return begun(response_id, asked, created_at=created_at, model=model)


async def ending_of(
    queue: QueueClient, queue_id: str, base: Object, record: Record, answer: bytes | None = None
) -> Ending | None:
    """Return how a job has ended that has this record; None if its answer has expired."""
    pieces = await shown_pieces(queue, queue_id)
    if record.get("state") != "succeeded":
        return Ending(failed(base, record), Shown.of(pieces))
    body = await queue.body(queue_id)
    if body is None:
        text = answer if answer is not None else await queue.result(queue_id)
        if text is None:
            return None
        completion = made_of(record, text.decode(errors="replace"), CHAT_PATH, base["id"])
    else:
        completion = read(body)
    response = answered(base, record, completion)
    return Ending(response, Shown.of(pieces, text_of(response)))


async def shown_pieces(queue: QueueClient, queue_id: str) -> list[TokenPiece]:
    """Return all text that a job has shown so far."""
    pieces = list[TokenPiece]()
    while more := await queue.read_tokens({queue_id: pieces[-1].position if pieces else ""}, wait=0):
        pieces += more
    return pieces


class KeepsResponses:
    """Takes notices of ends, and keeps those of responses in Files."""

    def __init__(self, gateway: Gateway, files: Files) -> None:
        self._gateway = gateway
        self._files = files

    async def __call__(self, notice: Notice, record: Record) -> None:
        """Keep the end of a response that was not deleted meanwhile. Raises GreenScaleError: to be told again."""
        tenant, _, response_id = notice.job_id.rpartition(":")
        if not RESPONSE_ID.fullmatch(response_id):
            return
        kept_in = ResponseFiles(self._files, tenant)
        kept = await kept_in.kept(response_id)
        if kept is None:
            return
        if record.get("state") not in ENDED:  # it has expired: of a failure the notice has all that matters
            record = {"state": notice.state, "error_code": notice.code or ""}
        base = begun_of(self._gateway, response_id, asked_of(self._gateway, kept), kept.created_at)
        ending = await ending_of(self._gateway.queue, notice.job_id, base, record)
        if ending is not None:
            await kept_in.end(response_id, ending)
