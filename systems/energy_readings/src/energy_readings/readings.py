"""The readings API: `GET /sites`, and `GET /sites/{site_id}/readings`, the newest first."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, TypeVar

import orjson
from aiohttp import web

from energy_readings.connection import connect
from energy_readings.http import JSON, RefusedError, answer, application
from energy_readings.reading import identifier, microseconds, moment
from energy_readings.settings import Settings
from energy_readings.store import Store

USUAL_PAGE: Final = 100
LARGEST_PAGE: Final = 1000
PARAMETERS: Final = ("cursor", "from", "limit", "to")
FRESH: Final = {"Cache-Control": "no-store"}

Value = TypeVar("Value")


def stored(settings: Settings) -> web.Application:
    """Make the API. Raises ConfigError."""
    client = connect(settings)
    store = Store(client, keep_readings=settings.keep_readings, keep_days=settings.keep_days)

    async def sites(request: web.Request) -> web.Response:
        query = _only_known(request.query, ("limit",))
        found, count = await store.sites(most=_limit(query))
        return answer({"sites": found, "count": count}, headers=FRESH)

    async def readings(request: web.Request) -> web.Response:
        site_id = _checked("site_id", identifier, request.match_info["site_id"])
        query = _only_known(request.query, PARAMETERS)
        since, until = (_checked(name, _time, query.get(name)) for name in ("from", "to"))
        try:
            found, cursor = await store.page(
                site_id, most=_limit(query), since=since, until=until, cursor=query.get("cursor", "")
            )
        except ValueError as error:
            raise _refused("cursor", str(error)) from None
        head, tail = orjson.dumps({"site_id": site_id, "unit": settings.unit}), orjson.dumps({"next": cursor})
        body = b'%s,"readings":[%s],%s\n' % (head[:-1], b",".join(found), tail[1:])
        return web.Response(body=body, content_type=JSON, headers=FRESH)

    async def check() -> None:
        await store.page("-", most=1)

    async def closing(_app: web.Application) -> AsyncIterator[None]:
        yield
        await client.aclose()

    app = application(web.get("/sites", sites), web.get("/sites/{site_id}/readings", readings), check=check)
    app.cleanup_ctx.append(closing)
    return app


def _checked(name: str, check: Callable[[str], Value], text: str | None) -> Value:
    try:
        return check(text)  # type: ignore[arg-type]  # `_time` alone is asked for what is not there
    except ValueError as error:
        raise _refused(name, str(error)) from None


def _limit(query: Mapping[str, str]) -> int:
    return _checked("limit", _size, query.get("limit", str(USUAL_PAGE)))


def _size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= LARGEST_PAGE:
        raise ValueError(f"a whole number from 1 to {LARGEST_PAGE} is accepted")
    return int(text)


def _time(text: str | None) -> int | None:
    """Read a time; the plus of its offset arrives as a blank where it was not escaped."""
    return None if text is None else microseconds(moment(text.replace(" ", "+")))


def _only_known(query: Mapping[str, str], known: Sequence[str]) -> Mapping[str, str]:
    for name in query:
        if name not in known:
            raise _refused(name, f"there is no such parameter; accepted: {', '.join(known)}")
    return query


def _refused(field: str, message: str) -> RefusedError:
    return RefusedError(422, f"{field}: {message}", [{"field": field, "message": message}])
