"""Writes outputs in parts, and merges parts so that there are never many."""

import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Final

from greenscale_worker.batches.objects import Part, Request
from greenscale_worker.batches.store import Batches, Kind

MERGED: Final = 16  # parts of one level in a row make one of the next: a byte is written again log16(parts) times


async def extended(
    batches: Batches, request: Request, kind: Kind, parts: tuple[Part, ...], lines: Sequence[bytes]
) -> tuple[Part, ...]:
    """Write lines as a new part, and return all parts that count from now on. None is deleted: some may be read."""
    if not lines:
        return parts
    parts = (*parts, await _written(batches, request, kind, _all(lines), 0))
    while len(parts) >= MERGED and len({part.level for part in parts[-MERGED:]}) == 1:
        last = parts[-MERGED:]
        merged = await _written(batches, request, kind, batches.content(last), last[0].level + 1)
        parts = (*parts[:-MERGED], merged)
    return parts


async def _written(batches: Batches, request: Request, kind: Kind, chunks: AsyncIterator[bytes], level: int) -> Part:
    key = batches.part_key(request, kind, f"{secrets.token_hex(12)}.jsonl")
    return Part(key, await batches.files.write(key, chunks), level)


async def _all(lines: Sequence[bytes]) -> AsyncIterator[bytes]:
    yield b"".join(lines)
