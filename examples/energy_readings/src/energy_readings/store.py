"""The readings of each site in Redis: each of them once, the newest kept, found by time (store.lua, page.lua)."""

import base64
import binascii
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, Final

from redis.exceptions import NoScriptError

from energy_readings.reading import Reading

MOST_AT_ONCE: Final = 500  # readings of one call: a script keeps everybody else waiting
DAY_MS: Final = 86_400_000


class Script:
    """A script of this folder, called by its hash once the server knows it."""

    def __init__(self, name: str) -> None:
        self.source = resources.files("energy_readings").joinpath(name).read_bytes()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


STORE: Final = Script("store.lua")
PAGE: Final = Script("page.lua")


def keys(site_id: str) -> tuple[str, str]:
    """Name the list of a site, which is public, and the order of its readings by time, on the same node."""
    name = f"site_readings:{site_id}"
    return name, f"{{{name}}}:by_time"


class Store:
    """What is stored for each site. `keep_readings` and `keep_days` say how much of it stays; 0: all.

    Whatever the client raises comes through.
    """

    def __init__(self, client: Any, *, keep_readings: int, keep_days: float) -> None:
        self._client = client
        self._keep_readings = keep_readings
        self._keep_ms = int(keep_days * DAY_MS)

    async def add(self, readings: Mapping[str, Sequence[Reading]]) -> dict[str, Exception]:
        """Add readings, by site; one that is there already is not added again. Gives what failed, by site."""
        calls = [(site, part) for site, its in readings.items() for part in _parts(its)]
        failed: dict[str, Exception] = {}
        for attempt in ("EVALSHA", "EVAL"):
            pipeline = self._client.pipeline(transaction=False)
            for site, part in calls:
                name = STORE.sha if attempt == "EVALSHA" else STORE.source
                pipeline.execute_command(attempt, name, 2, *keys(site), *self._arguments(part))
            answers = await pipeline.execute(raise_on_error=False)
            unknown = []
            for call, answer in zip(calls, answers, strict=True):
                if isinstance(answer, NoScriptError):
                    unknown.append(call)
                elif isinstance(answer, Exception):
                    failed[call[0]] = answer
            if not unknown:
                break
            calls = unknown
        return failed

    async def page(
        self, site_id: str, *, most: int, since: int | None = None, until: int | None = None, cursor: str = ""
    ) -> tuple[list[bytes], str | None]:
        """Give readings in JSON, the newest first, and the cursor of the page that follows, None at the end.

        `since` and `until` are in microseconds since 1970, both included. What is stored meanwhile moves no page.
        Raises ValueError for a cursor that is none.
        """
        earliest: str | int = "-inf" if since is None else since
        if self._keep_ms:
            oldest = time.time_ns() // 1000 - self._keep_ms * 1000
            earliest = oldest if since is None else max(oldest, since)
        latest = "+inf" if until is None else until
        arguments = [keys(site_id)[1], earliest, latest, most + 1, _reading_of(cursor)]
        try:
            found = await self._client.execute_command("EVALSHA", PAGE.sha, 1, *arguments)
        except NoScriptError:
            found = await self._client.execute_command("EVAL", PAGE.source, 1, *arguments)
        return found[:most], _cursor_of(found[most - 1]) if len(found) > most else None

    def _arguments(self, readings: Iterable[Reading]) -> list[Any]:
        arguments: list[Any] = [self._keep_readings, self._keep_ms]
        for reading in readings:
            arguments += (reading.microseconds, reading.model_dump_json())
        return arguments


def _parts(readings: Sequence[Reading]) -> Iterable[Sequence[Reading]]:
    return (readings[at : at + MOST_AT_ONCE] for at in range(0, len(readings), MOST_AT_ONCE))


def _cursor_of(reading: bytes) -> str:
    return base64.urlsafe_b64encode(reading).decode().rstrip("=")


def _reading_of(cursor: str) -> bytes:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the `next` of the page before is accepted") from None
