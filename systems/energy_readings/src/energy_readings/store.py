"""The readings of each site in Redis: each of them once, the newest kept, found by time (store.lua, page.lua)."""

import base64
import binascii
import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict
from redis.exceptions import NoScriptError, ResponseError

from energy_readings.reading import ID, Reading

MOST_AT_ONCE: Final = 500  # readings of one call: a script keeps everybody else waiting
DAY_MS: Final = 86_400_000
LONGEST: Final = 1024  # bytes of a reading in JSON; ours have 300 at most


class Script:
    """A script of this folder, called by its hash once the server knows it."""

    def __init__(self, name: str) -> None:
        self.source = resources.files("energy_readings").joinpath(name).read_bytes()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    async def run(self, client: Any, names: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run it. Whatever the client raises comes through."""
        try:
            return await client.execute_command("EVALSHA", self.sha, len(names), *names, *arguments)
        except NoScriptError:
            return await client.execute_command("EVAL", self.source, len(names), *names, *arguments)


class _Stored(BaseModel):
    """What whoever shows a reading relies on; what it says is none of our business any more."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    site_id: str
    device_id: str
    power_reading: float
    timestamp: str


STORE: Final = Script("store.lua")
PAGE: Final = Script("page.lua")
SITES: Final = "{site_readings}:sites"  # by the time of their newest reading; private


def keys(site_id: str) -> tuple[str, str]:
    """Name the list of a site, which is public, and the order of its readings by time."""
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
        """Add readings, by site; one that is there already is not added again.

        Gives the sites of which the keys are not ours, with what is wrong.
        """
        failed: dict[str, Exception] = {}
        for parts in _calls(readings):
            names = [SITES, *(name for site, _ in parts for name in keys(site))]
            arguments: list[Any] = [self._keep_readings, self._keep_ms]
            for site, part in parts:
                arguments += (site, len(part))
                for reading in part:
                    arguments += (reading.microseconds, reading.model_dump_json())
            answers = await self._ask(STORE, names, arguments, int | bytes)
            if len(answers) != len(parts):
                raise ResponseError(f"{len(answers)} answers for {len(parts)} sites: this is no Redis of ours")
            for (site, _), answer in zip(parts, answers, strict=True):
                if not isinstance(answer, int):
                    failed[site] = ResponseError(answer.decode(errors="replace"))
        return failed

    async def check(self) -> None:
        """Raise what `add` would raise now; adds nothing."""
        await self._ask(STORE, [SITES], [self._keep_readings, self._keep_ms], int)

    async def page(
        self, site_id: str, *, most: int, since: int | None = None, until: int | None = None, cursor: str = ""
    ) -> tuple[list[bytes], str | None]:
        """Give readings in JSON, the newest first, and the cursor of the page that follows, None at the end.

        `since` and `until` are in microseconds since 1970, both included. What is stored meanwhile moves no page.
        What somebody else has put there and is no reading is left out. Raises ValueError for a cursor that is none.
        """
        kept = self._kept_since()
        earliest = kept if since is None else max(kept, since)
        latest = "+inf" if until is None else until
        after = [_reading_of(cursor)] if cursor else []
        while True:
            where: list[Any] = [earliest, latest, most + 1, *after]
            found = await self._ask(PAGE, [keys(site_id)[1]], where, bytes)
            page = [each for each in found[:most] if _is_stored(each)]
            if len(found) <= most:
                return page, None
            if page:
                return page, _cursor_of(page[-1])
            after = [found[most - 1]]

    async def sites(self, *, most: int) -> tuple[list[str], int]:
        """Give the sites with the newest readings, and how many sites there are."""
        since = self._kept_since()
        pipeline = self._client.pipeline(transaction=False)
        pipeline.execute_command("ZRANGE", SITES, "+inf", since, "BYSCORE", "REV", "LIMIT", 0, most)
        pipeline.execute_command("ZCOUNT", SITES, since, "+inf")
        found, count = await pipeline.execute()
        if not isinstance(found, list) or not isinstance(count, int):
            raise ResponseError("no answer to ZRANGE and ZCOUNT: this is no Redis of ours")
        names = [each.decode(errors="replace") for each in found if isinstance(each, bytes)]
        return [name for name in names if ID.fullmatch(name)], count

    def _kept_since(self) -> float:
        """Since when readings are shown, in microseconds, whether older ones have gone already or not."""
        return time.time_ns() // 1000 - self._keep_ms * 1000 if self._keep_ms else -math.inf

    async def _ask(self, script: Script, names: Sequence[str], arguments: Sequence[Any], kind: Any) -> list[Any]:
        """Run a script that gives a list of this kind. Raises ResponseError where it gives something else."""
        answer = await script.run(self._client, names, arguments)
        if not isinstance(answer, list) or not all(isinstance(each, kind) for each in answer):
            raise ResponseError(f"{type(answer).__name__} is no answer to a script: this is no Redis of ours")
        return answer


def _calls(readings: Mapping[str, Sequence[Reading]]) -> Iterable[list[tuple[str, Sequence[Reading]]]]:
    """Divide readings among calls: all sites in one, mostly."""
    parts: list[tuple[str, Sequence[Reading]]] = []
    room = MOST_AT_ONCE
    for site, its in readings.items():
        at = 0
        while at < len(its):
            part = its[at : at + room]
            parts.append((site, part))
            at += len(part)
            room -= len(part)
            if not room:
                yield parts
                parts, room = [], MOST_AT_ONCE
    if parts:
        yield parts


def _is_stored(text: bytes) -> bool:
    """Say whether this has the shape of a reading, and its size."""
    try:
        return len(text) <= LONGEST and bool(_Stored.model_validate(orjson.loads(text)))
    except ValueError:  # it is no JSON, or it is none of ours
        return False


def _cursor_of(reading: bytes) -> str:
    return base64.urlsafe_b64encode(reading).decode().rstrip("=")


def _reading_of(cursor: str) -> bytes:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the `next` of the page before is accepted") from None
