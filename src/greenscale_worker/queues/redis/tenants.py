"""Tenants: the jobs that wait in their lines, their entries, and how each stands (turns.lua, tenants.lua)."""

import re
from typing import Any, Final, Literal

from greenscale_worker.queues import TenantLimits, TenantStanding
from greenscale_worker.queues.redis.keys import TURN_PAYLOADS, TURNS, Keys
from greenscale_worker.queues.redis.list_pages import Row

ENTRY: Final = re.compile(r"[0-9]{1,15}( [0-9]{1,15}){3}")
HELD: Final[dict[bytes, Literal["", "in_flight", "requests", "tokens"]]] = {
    b"": "",
    b"in_flight": "in_flight",
    b"requests": "requests",
    b"tokens": "tokens",
}


class LinePages:
    """Reads all lines: class by class, tenant by tenant, each in its order."""

    def __init__(self, keys: Keys) -> None:
        self._turns, self._payloads = keys.of(TURNS), keys.of(TURN_PAYLOADS)

    async def waiting(self, client: Any, after: bytes | None, count: int) -> list[Row]:
        """Read up to `count` payloads: position, payload and None of each. See `Store.waiting`."""
        low = b"[w|" if after is None else b"(" + after
        members = await client.zrange(self._turns, low, b"(w}", bylex=True, offset=0, num=count)
        payloads = await client.hmget(self._payloads, members) if members else []
        found = zip(members, payloads, strict=True)
        rows: list[Row] = [(member, payload, None) for member, payload in found if payload is not None]
        if members and len(rows) < len(members):  # some were claimed meanwhile: a page that is short would be the last
            return rows + await self.waiting(client, members[-1], count - len(rows))
        return rows


def entry_of(limits: TenantLimits | None) -> str:
    """Write a tenant's entry as turns.lua reads it; empty: none."""
    if limits is None:
        return ""
    most = (limits.in_flight, limits.requests_per_minute, limits.tokens_per_minute)
    return " ".join(str(number or 0) for number in (limits.weight, *most))


def read_standings(answer: Any) -> list[TenantStanding]:
    """Read the answer of tenants.lua."""
    return [_read_standing(*row) for row in answer]


def _read_standing(  # noqa: PLR0913, PLR0917  as the script answers
    name: bytes,
    entry: bytes,
    interactive: int,
    standard: int,
    background: int,
    in_flight: int,
    waited_ms: bytes,
    held: bytes,
    held_ms: bytes,
    requests: bytes,
    tokens: bytes,
) -> TenantStanding:
    return TenantStanding(
        name=name.decode("utf-8", "replace"),
        limits=_read_entry(entry.decode("utf-8", "replace")),
        waiting=int(interactive) + int(standard) + int(background),
        interactive=int(interactive),
        in_flight=int(in_flight),
        oldest_seconds=int(waited_ms) / 1000 if waited_ms else None,
        held=HELD[held],
        held_seconds=int(held_ms) / 1000,
        requests_left=float(requests) if requests else None,
        tokens_left=float(tokens) if tokens else None,
    )


def _read_entry(text: str) -> TenantLimits | None:
    """Read an entry; one that cannot be read limits nothing."""
    if not text:
        return None
    if not ENTRY.fullmatch(text):
        return TenantLimits()
    weight, *most = map(int, text.split())
    names = ("in_flight", "requests_per_minute", "tokens_per_minute")
    try:
        return TenantLimits(weight=weight, **{name: number or None for name, number in zip(names, most, strict=True)})
    except ValueError:
        return TenantLimits()
