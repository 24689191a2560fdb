"""The ingestion API: `POST /readings` puts what it accepts into the stream, one entry for each request."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from aiohttp import web
from greenscale_worker import Grouper
from redis.exceptions import ResponseError

from energy_readings.connection import ANSWER_SECONDS, connect
from energy_readings.http import RefusedError, answer, application, body_of
from energy_readings.reading import Reading, ValidationError, faults, is_json, one_line, parse
from energy_readings.settings import Settings
from energy_readings.store import Script

MOST_ENTRIES: Final = 64  # that share a round trip
MOST_BYTES: Final = 1024 * 1024
TAKES: Final = Script("takes.lua")


@dataclass(slots=True, eq=False)
class _Entry:
    fields: dict[str, str]
    came: float


class Entries:
    """Adds entries to a stream; those that come while others are on their way share a round trip."""

    def __init__(self, client: Any, stream: str) -> None:
        self._client = client
        self._stream = stream
        self._group: Grouper[_Entry, Any] = Grouper(
            self._send,
            most=MOST_ENTRIES,
            most_bytes=MOST_BYTES,
            size=lambda entry: sum(map(len, entry.fields.values())),
        )

    async def add(self, fields: dict[str, str]) -> str:
        """Add an entry and give its id. Raises one of `connection.AWAY` where Redis has not taken it in time."""
        given = await self._group(_Entry(fields, monotonic()))
        if not isinstance(given, bytes):
            raise given if isinstance(given, Exception) else ResponseError(f"XADD gave {type(given).__name__}, no id")
        return given.decode(errors="replace")

    async def check(self) -> None:
        """Raise what `add` would raise now; adds nothing."""
        if not isinstance(length := await TAKES.run(self._client, [self._stream], []), int):
            raise ResponseError(f"XLEN gave {type(length).__name__}, no number")

    async def _send(self, entries: list[_Entry]) -> list[Any]:
        """Add those that have not waited too long: where Redis hangs, a group ends only after its time limit.

        One that Redis refuses spoils no other.
        """
        since = monotonic() - ANSWER_SECONDS
        young = [entry for entry in entries if entry.came >= since]
        pipeline = self._client.pipeline(transaction=False)
        for entry in young:
            pipeline.xadd(self._stream, entry.fields)
        answers = dict(zip(young, await pipeline.execute(raise_on_error=False), strict=True))
        return [answers.get(entry) or TimeoutError(f"not sent within {ANSWER_SECONDS:g} s") for entry in entries]


def fields(readings: list[Reading], *, array: bool) -> dict[str, str]:
    """Write an entry: a reading by its fields, an array as JSON in the field `readings`."""
    if array:
        return {"readings": f"[{','.join(reading.model_dump_json() for reading in readings)}]"}
    values = readings[0].model_dump(mode="json")
    return {name: str(value) for name, value in values.items()}


def ingestion(settings: Settings) -> web.Application:
    """Make the API. Raises ConfigError."""
    client = connect(settings)
    entries = Entries(client, settings.stream)

    async def post(request: web.Request) -> web.Response:
        body = await body_of(request)
        try:
            readings = parse(body)
        except ValidationError as error:
            found = faults(error)
            raise RefusedError(422 if is_json(error) else 400, one_line(found), found) from None
        entry_id = await entries.add(fields(readings, array=body.lstrip()[:1] == b"["))
        return answer({"entry_id": entry_id, "readings": len(readings)}, 202)

    async def closing(_app: web.Application) -> AsyncIterator[None]:
        yield
        await client.aclose()

    app = application(web.post("/readings", post), check=entries.check)
    app.cleanup_ctx.append(closing)
    return app
