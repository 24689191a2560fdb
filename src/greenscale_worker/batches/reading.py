"""Reads the lines of an input file, from a place on."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

from greenscale_worker.batch.raw_lines import MOST_LINES, Place, RawLine, Splitter

LINES_AT_ONCE: Final = 100  # before other tasks get a turn
Chunks = Callable[[int], AsyncIterator[bytes]]


class InputGoneError(Exception):
    """The input file is not there (any more)."""


class Reader:
    """Reads lines that are not blank, each once; `chunks` reads the file from an offset on.

    Behind MOST_LINES, blank ones come too, so that who reads them notices how many there are.

    `place` is behind the last line, `is_over`: there are no more.
    """

    def __init__(self, chunks: Chunks, *, max_bytes: int, place: Place | None = None) -> None:
        self.place = place or Place()
        self.is_over = False
        self._lines = self._read(chunks, Splitter(max_bytes=max_bytes, place=place))

    async def read(self, most: int, most_bytes: int) -> list[RawLine]:
        """Return the next lines: `most` of them, or fewer once they have `most_bytes`.

        Raises InputGoneError, FilesUnavailableError.
        """
        found, size = list[RawLine](), 0
        while len(found) < most and size < most_bytes:
            line = await anext(self._lines, None)
            if line is None:
                self.is_over = True
                break
            found.append(line)
            size += line.length
        return found

    async def aclose(self) -> None:
        """Let go of the file."""
        await self._lines.aclose()

    async def _read(self, chunks: Chunks, splitter: Splitter) -> AsyncGenerator[RawLine, None]:
        try:
            async for chunk in chunks(self.place.offset):
                for line in splitter.feed(chunk):
                    if line.number % LINES_AT_ONCE == 0:
                        await asyncio.sleep(0)
                    self.place = splitter.place
                    if not line.is_blank or line.number > MOST_LINES:
                        yield line
        except KeyError:
            raise InputGoneError from None
        for line in splitter.end():
            self.place = splitter.place
            if not line.is_blank:
                yield line
        self.place = splitter.place
