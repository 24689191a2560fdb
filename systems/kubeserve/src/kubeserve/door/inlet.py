"""Predictions by HTTP: `POST /predict/{deployment_id}` with a JSON list of rows.

200 is `{"predictions", "revision", "version"}`, 422 and 502 are `{"error": {"code", "message"}}` as a job would have
failed with. 503 says why nothing was made of the call: `asleep`, `not_ready`, `busy` or `draining`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import orjson
from aiohttp import web
from greenscale_worker import PermanentError

from kubeserve.door.hot import NOT_READY, Hot, NotTakenError
from kubeserve.door.replica import Rows
from kubeserve.predictions import BAD_ROWS
from kubeserve.queueing import LARGEST_BODY

BODY_SECONDS: Final = 20.0
JSON: Final = {"Content-Type": "application/json"}


class Inlet:
    """The handler, for an application on a Unix socket or on TCP. `find` gives the calls of a deployment."""

    def __init__(self, find: Callable[[str], Hot | None]) -> None:
        self._find = find

    @property
    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """What an application adds."""
        return [web.post("/predict/{deployment_id}", self._predict)]

    async def _predict(self, request: web.Request) -> web.Response:
        try:
            answer = await self._answer(request)
        except NotTakenError as error:
            return _refused(503, error.code, "nothing was made of it: it may become a job")
        except PermanentError as error:
            return _refused(422 if error.code in BAD_ROWS else 502, error.code, str(error))
        except (ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
            return _refused(400, "bad_request", str(error))
        return web.Response(body=answer, headers=JSON)

    async def _answer(self, request: web.Request) -> bytes:
        hot, size = self._find(request.match_info["deployment_id"]), request.content_length
        if hot is None:
            raise NotTakenError(NOT_READY)
        if size is None or size > LARGEST_BODY:
            raise ValueError(f"Content-Length of at most {LARGEST_BODY:,} bytes is accepted")
        with hot.place(size):
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.content.readexactly(size)
            return await hot.answer(Rows.read(body))


def _refused(status: int, code: str, message: str) -> web.Response:
    body = orjson.dumps({"error": {"code": code, "message": message}})
    return web.Response(body=body, status=status, headers=JSON)
