"""The ingestion API: `POST /readings` puts what it accepts into the stream, one entry for each request."""

from collections.abc import AsyncIterator

from aiohttp import web

from energy_readings.connection import connect
from energy_readings.http import RefusedError, answer, application
from energy_readings.reading import Reading, ValidationError, faults, is_json, one_line, parse
from energy_readings.settings import Settings


def fields(readings: list[Reading], *, array: bool) -> dict[str, str]:
    """Write an entry: a reading by its fields, an array as JSON in the field `readings`."""
    if array:
        return {"readings": f"[{','.join(reading.model_dump_json() for reading in readings)}]"}
    values = readings[0].model_dump(mode="json")
    return {name: str(value) for name, value in values.items()}


def ingestion(settings: Settings) -> web.Application:
    """Make the API. Raises ConfigError."""
    client = connect(settings)

    async def post(request: web.Request) -> web.Response:
        body = await request.read()
        try:
            readings = parse(body)
        except ValidationError as error:
            found = faults(error)
            raise RefusedError(422 if is_json(error) else 400, one_line(found), found) from None
        entry_id = await client.xadd(settings.stream, fields(readings, array=body.lstrip()[:1] == b"["))
        return answer({"entry_id": entry_id.decode(), "readings": len(readings)}, 202)

    async def closing(_app: web.Application) -> AsyncIterator[None]:
        yield
        await client.aclose()

    app = application(web.post("/readings", post), ping=client.ping)
    app.cleanup_ctx.append(closing)
    return app
