"""The ingestion API: `POST /readings` puts what it accepts into the stream, one entry for each request."""

from collections.abc import AsyncIterator
from typing import Any, Final

from aiohttp import web
from greenscale_worker.queues.redis_common.connections import close, open_client
from greenscale_worker.queues.redis_common.grouping import Grouper

from energy_readings.http import RefusedError, answer, application
from energy_readings.reading import Reading, ValidationError, faults, is_json, one_line, parse
from energy_readings.settings import Settings

MOST_ENTRIES: Final = 100  # that share a round trip
MOST_BYTES: Final = 1024 * 1024

Fields = dict[str, str]


def fields(readings: list[Reading], *, array: bool) -> Fields:
    """Write an entry: a reading by its fields, an array as JSON in the field `readings`."""
    if array:
        return {"readings": f"[{','.join(reading.model_dump_json() for reading in readings)}]"}
    values = readings[0].model_dump(mode="json")
    return {name: str(value) for name, value in values.items()}


def ingestion(settings: Settings) -> web.Application:
    """Make the API. Raises ConfigError."""
    client = open_client(settings.redis)

    async def send(entries: list[Fields]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for entry in entries:
            pipeline.xadd(settings.stream, entry)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    put = Grouper(send, most=MOST_ENTRIES, most_bytes=MOST_BYTES, size=lambda entry: sum(map(len, entry.values())))

    async def post(request: web.Request) -> web.Response:
        body = await request.read()
        try:
            readings = parse(body)
        except ValidationError as error:
            found = faults(error)
            raise RefusedError(422 if is_json(error) else 400, one_line(found), found) from None
        entry_id = await put(fields(readings, array=body.lstrip()[:1] == b"["))
        if isinstance(entry_id, Exception):
            raise entry_id
        return answer({"entry_id": entry_id.decode(), "readings": len(readings)}, 202)

    async def closing(_app: web.Application) -> AsyncIterator[None]:
        yield
        await put.aclose()
        await close(client)

    app = application(web.post("/readings", post), ping=client.ping)
    app.cleanup_ctx.append(closing)
    return app
