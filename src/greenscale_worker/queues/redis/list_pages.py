"""Reads a list of payloads a page at a time, while jobs are taken from it."""

from contextlib import suppress
from typing import Any

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import decode

Row = tuple[bytes, bytes, bytes | None]


class ListPages:
    """Reads a list from its oldest end, which is `RIGHT` or `LEFT`."""

    def __init__(self, name: str, word: str = "RIGHT") -> None:
        self._name = name
        self._word = word

    async def waiting(self, client: Any, after: bytes | None, count: int) -> list[Row]:
        """Read up to `count` payloads, oldest first: position, payload and None of each. See `Store.waiting`.

        Each page begins at the last job of the page before. If that has moved, it is looked for nearer the oldest
        end; if it was taken, so was everything before it.
        """
        if after is None:
            return _placed(await self._part(client, 0, count), 0)
        text, _, known = after.partition(b" ")
        place, step = int(text), 0
        while True:
            start = max(0, place - step)
            found = await self._part(client, start, place - start + 1 + count)
            ahead = reversed(found[: place - start + 1])
            at = next((place - start - back for back, payload in enumerate(ahead) if payload == known), None)
            if at is not None or start == 0:
                begin = 0 if at is None else at + 1
                return _placed(found[begin : begin + count], start + begin)
            step = 2 * step + count

    async def _part(self, client: Any, start: int, count: int) -> list[bytes]:
        """Read `count` jobs, the first of which is `start` places from the oldest end."""
        if self._word == "LEFT":
            return list(await client.lrange(self._name, start, start + count - 1))
        return list(reversed(await client.lrange(self._name, -start - count, -start - 1)))


def _placed(payloads: list[bytes], start: int) -> list[Row]:
    return [(b"%d %b" % (place, payload), payload, None) for place, payload in enumerate(payloads, start)]


def created_at(payload: bytes | None) -> float | None:
    """Return when a job was created, as its producer wrote; None if that is unknown."""
    if payload is not None:
        with suppress(BadInputError):
            created = decode(payload, max_bytes=len(payload)).created_at
            return None if created is None else created.timestamp()
    return None
