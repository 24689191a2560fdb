"""The bytes of a model behind its compression, within bounds, read once from the start."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

from kubeserve.intake.verdicts import RejectedError

LARGEST: Final = 4 * 1024**3  # bytes behind a compression
RATIO: Final = 200  # what compresses better, beyond SMALL, is a bomb
SMALL: Final = 64 * 1024**2
CHUNK: Final = 1024 * 1024
MAGIC: Final = {  # those that joblib writes
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x5d\x00\x00": "lzma",
    b"\x04\x22\x4d\x18": "lz4",
}
_ZLIB_METHOD: Final = 0x78  # RFC 1950: deflate with a window of 32 KiB, and a header that is a multiple of 31
_ZLIB_CHECK: Final = 31


class Source(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, none only at the end."""
        ...


def compression(head: bytes) -> str | None:
    """By which compression the file begins, if by any."""
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            return name
    zlib_header = len(head) > 1 and head[0] == _ZLIB_METHOD and int.from_bytes(head[:2], "big") % _ZLIB_CHECK == 0
    return "zlib" if zlib_header else None


@contextmanager
def opened(path: Path, compressed_by: str | None) -> Iterator[Source]:
    """What the file holds. Reading raises RejectedError for a bomb, and for a compressed file that is damaged."""
    with path.open("rb") as file:
        match compressed_by:
            case None:
                yield file
            case "gzip":
                yield _Bounded(gzip.GzipFile(fileobj=file), path)
            case "bz2":
                yield _Bounded(bz2.BZ2File(file), path)
            case "xz" | "lzma":
                yield _Bounded(lzma.open(file), path)  # noqa: SIM115 - it closes with the file around it
            case _:
                yield _Bounded(_Zlib(file), path)


class _Bounded:
    """Stops at a bomb, and puts the errors of all compressions in the same words."""

    def __init__(self, source: Source, path: Path) -> None:
        self._source = source
        self._most = min(LARGEST, max(SMALL, path.stat().st_size * RATIO))
        self._read = 0

    def read(self, size: int, /) -> bytes:
        try:
            found = self._source.read(min(size, CHUNK))
        except EOFError:
            raise RejectedError("the file is truncated: its compressed data has no end") from None
        except (OSError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise RejectedError(f"the file is damaged: its compressed data cannot be read ({error})") from None
        self._read += len(found)
        if self._read > self._most:
            raise RejectedError(f"the file holds more than {self._most} bytes behind its compression: a bomb")
        return found


class _Zlib:
    """A zlib stream, which must end where the file ends."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker = zlib.decompressobj()

    def read(self, size: int, /) -> bytes:
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._file.read(CHUNK)
            if found := self._unpacker.decompress(packed, size):
                return found
            if not packed:
                raise EOFError
        if self._unpacker.unused_data or self._file.read(1):
            raise ValueError("more follows its end")
        return b""
