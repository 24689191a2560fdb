"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from greenscale_dashboard.reading import fields


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `data` is its JSON object, empty where it is none. `id` is empty where it has none."""

    kind: str
    id: str
    data: Any


def read_events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """Read the events that are complete."""
    kept = b""
    for piece in pieces:
        *blocks, kept = (kept + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        yield from filter(None, map(_event, blocks))


def _event(block: bytes) -> Event | None:
    said: dict[str, list[str]] = {}
    for line in block.decode("utf-8", "replace").split("\n"):
        name, _, value = line.partition(":")
        said.setdefault(name, []).append(value.removeprefix(" "))
    if "data" not in said:
        return None
    try:
        data = json.loads("\n".join(said["data"]))
    except (ValueError, RecursionError):
        data = None
    return Event(said.get("event", ["message"])[-1], said.get("id", [""])[-1], fields(data))
