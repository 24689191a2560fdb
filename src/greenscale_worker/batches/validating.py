"""Reads all lines of a batch once before any is sent, in as many steps as that takes."""

import secrets
from dataclasses import asdict
from typing import Final, NamedTuple

from greenscale_worker.batch.checking import Checker
from greenscale_worker.batch.raw_lines import Place
from greenscale_worker.batches.objects import Fault, Request
from greenscale_worker.batches.reading import Reader
from greenscale_worker.batches.store import Batches
from greenscale_worker.wire_json import read, write

AT_ONCE: Final = 128  # lines
MOST_BYTES: Final = 8 * 1024 * 1024


class Kept(NamedTuple):
    """What an earlier step has found: where it ended, and what it knew."""

    key: str
    place: Place
    checked: bytes


async def kept_at(batches: Batches, key: str | None) -> Kept | None:
    """Read what a step has kept; None if there is nothing. Raises FilesUnavailableError."""
    data = None if key is None else await batches.files.read(key)
    if key is None or data is None:
        return None
    place, _, checked = data.partition(b"\n")
    return Kept(key, Place(**read(place)), checked)


class Validation:
    """The lines that `reader` reads, one portion after the other; `kept` is what was found in those before it.

    `is_over`: no line is left, or no further one would change what was found.
    """

    def __init__(
        self, batches: Batches, request: Request, reader: Reader, kept: Kept | None, *, max_bytes: int
    ) -> None:
        self.is_over = False
        self.checker = Checker(request.endpoint, max_bytes=max_bytes, kept=kept.checked if kept else None)
        self._batches = batches
        self._request = request
        self._reader = reader
        self._kept = kept

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What makes the batch fail."""
        return tuple(Fault(**asdict(fault)) for fault in self.checker.faults)

    async def read_on(self) -> bool:
        """Read a portion; return whether it is over. Raises InputGoneError, FilesUnavailableError."""
        for raw in await self._reader.read(AT_ONCE, MOST_BYTES):
            self.checker.check(raw)
        self.is_over = self._reader.is_over or self.checker.is_over
        if self.is_over:
            self.checker.end()
        return self.is_over

    async def keep(self) -> str:
        """Write what was found, for the next step; return the key. Raises FilesUnavailableError."""
        key = self._batches.part_key(self._request, "checked", secrets.token_hex(12))
        await self._batches.files.create(key, write(asdict(self._reader.place)) + b"\n" + self.checker.keep())
        if self._kept is not None:
            await self._batches.files.delete([self._kept.key])
        return key

    async def aclose(self) -> None:
        """Let go of the file."""
        await self._reader.aclose()
