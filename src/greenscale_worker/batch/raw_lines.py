"""Splits a file into lines as its bytes come, and knows where in the file each of them is."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

TAIL: Final = 4096
BYTE_ORDER_MARKS: Final = (  # the longer ones first: that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
UNITS: Final = {"utf-32-le": 4, "utf-32-be": 4, "utf-16-le": 2, "utf-16-be": 2, "utf-8": 1}
LONGEST_MARK: Final = 4
MOST_LINES: Final = 200_000  # of a batch, blank ones among them: four times as many as it may ask


def encoding_of(start: bytes) -> str:
    """Return the encoding that a file's first four bytes tell; PowerShell's `>` writes UTF-16."""
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line: its number from 1, where it is in the file, in bytes with its line end, and its text in UTF-8.

    A line that is too long is held in part: `text` is its start and longer than allowed, `tail` its end.
    """

    number: int
    offset: int
    length: int
    text: bytes
    tail: bytes = b""

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing in it but white space."""
        return not self.text.strip()


@dataclass(frozen=True, slots=True)
class Place:
    """Where to read on: behind how many bytes and lines, and the encoding, None at the start of the file."""

    offset: int = 0
    number: int = 0
    encoding: str | None = None


class Splitter:
    """Makes lines of chunks of any size. It holds one line at most, and of one over `max_bytes` its start and end.

    `place` is behind the line that was yielded last; a splitter made with it reads on there. A line ends with a line
    feed, and with nothing else: U+2028, U+2029 and U+0085 may be in strings.
    """

    def __init__(self, *, max_bytes: int, place: Place | None = None) -> None:
        self.place = place or Place()
        self._max_bytes = max_bytes
        self._rest = b""  # bytes that were not looked at: part of a byte order mark, or of a character
        self._head = bytearray()
        self._tail = b""
        self._length = 0
        if self.place.encoding is not None:
            self._begin(self.place.encoding)

    def feed(self, chunk: bytes) -> Iterator[RawLine]:
        """Yield the lines that end in this chunk. Take all of them before the next chunk."""
        data = self._rest + chunk
        if self.place.encoding is None:
            if len(data) < LONGEST_MARK:
                self._rest = data
                return
            self._begin(encoding_of(data))
        at = 0
        while (end := self._line_feed(data, at)) >= 0:
            self._hold(data[at : end + self._unit])
            at = end + self._unit
            yield self._line()
        whole = at + (len(data) - at) // self._unit * self._unit
        self._hold(data[at:whole])
        self._rest = data[whole:]

    def end(self) -> Iterator[RawLine]:
        """Yield the last line if the file does not end with a line feed. To be called once, after the last chunk."""
        if self.place.encoding is None:
            data, self._rest = self._rest, b""
            self._begin(encoding_of(data))
            yield from self.feed(data)
        self._hold(self._rest)
        self._rest = b""
        if self._length:
            yield self._line()

    def _begin(self, encoding: str) -> None:
        self._encoding, self._unit = encoding, UNITS[encoding]
        self._feed = "\n".encode(encoding)
        self._most = (self._max_bytes + 2) * self._unit  # in UTF-8, a text has at least one byte for each unit
        self.place = Place(self.place.offset, self.place.number, encoding)

    def _line_feed(self, data: bytes, start: int) -> int:
        """Find the next line feed. In UTF-16 and UTF-32, its bytes may also be there across two characters."""
        at = data.find(self._feed, start)
        while at >= 0 and (at - start) % self._unit:
            at = data.find(self._feed, at + 1)
        return at

    def _hold(self, data: bytes) -> None:
        self._length += len(data)
        self._head += data[: max(0, self._most - len(self._head))]
        if self._length > self._most:
            self._tail = (self._tail + data)[-TAIL * self._unit :]

    def _line(self) -> RawLine:
        """Return the line that is held, and hold nothing."""
        text, tail = as_utf8(bytes(self._head), self._encoding), as_utf8(self._tail, self._encoding)
        line = RawLine(self.place.number + 1, self.place.offset, self._length, text, tail or text[-TAIL:])
        self.place = Place(line.offset + line.length, line.number, self._encoding)
        self._head.clear()
        self._tail, self._length = b"", 0
        return line


def as_utf8(data: bytes, encoding: str) -> bytes:
    """Return a line's bytes in UTF-8, without its end and a byte order mark. What is no character becomes U+FFFD."""
    if encoding != "utf-8":
        data = data.decode(encoding, "replace").encode()
    return data.rstrip(b"\r\n").removeprefix(codecs.BOM_UTF8)
