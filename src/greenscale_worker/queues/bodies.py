"""The endpoint's whole answers, as a queue stores them: compressed by zlib."""

import zlib
from typing import Final

LEVEL: Final = 1  # the fastest: other jobs wait meanwhile
LARGEST: Final = 64 * 1024 * 1024


def packed(body: bytes) -> bytes:
    """Compress a body; an empty one, which a backend without an endpoint gives, stays empty."""
    return zlib.compress(body, LEVEL) if body else b""


def unpacked(stored: bytes) -> bytes | None:
    """Undo `packed`. Return None for what is none of ours, or would be too large."""
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(stored, LARGEST)
    except zlib.error:
        return None
    return body if unpacker.eof else None
