"""Server-sent events, as endpoints send them (WHATWG HTML, "Server-sent events")."""

import re
from codecs import BOM_UTF8
from typing import Final

import orjson

LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class EventReader:
    """Splits a body into the data of its events, wherever chunks begin and end. `pending` counts bytes not yet used."""

    def __init__(self) -> None:
        self.pending = 0
        self._parts: list[bytes] = []
        self._data: list[bytes] = []
        self._first = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that this chunk completes."""
        self._parts.append(chunk)
        self.pending += len(chunk)
        if LINE_END.search(chunk) is None:
            return []
        text = b"".join(self._parts)
        half = text.endswith(b"\r")  # its line feed may come with the next chunk
        *lines, rest = LINE_END.split(text[:-1] if half else text)
        self._parts = [rest + b"\r" if half else rest]
        events = self._events(lines)
        self.pending = len(rest) + sum(map(len, self._data))
        return events

    def close(self) -> list[bytes]:
        """Return the data of a last event that no blank line has ended; servers forget it."""
        return self._events([*LINE_END.split(b"".join(self._parts)), b""])

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events = []
        for line in lines:
            name, _, value = line.removeprefix(BOM_UTF8 if self._first else b"").partition(b":")
            self._first = False
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not line and self._data:
                events += self._ended()
        return events

    def _ended(self) -> list[bytes]:
        """Return the data of an event; of several, if a server has left out the blank lines between them."""
        lines, self._data = self._data, []
        joined = b"\n".join(lines)
        if len(lines) == 1 or _is_json(joined):
            return [joined]
        return [line for line in lines if line.strip()]


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True
