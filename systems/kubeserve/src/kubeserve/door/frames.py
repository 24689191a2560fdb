"""Frames over a stream: the length in four bytes, big-endian, and a JSON object (kubeserve/runtime/frames.py)."""

import asyncio
import struct
from typing import Any, Final

import orjson

LARGEST: Final = 32 * 1024 * 1024
HEAD: Final = struct.Struct(">I")


class FrameError(Exception):
    """The other side sent what is no frame, or one that is too large. Nothing more can be read from it."""


async def read_frame(reader: asyncio.StreamReader, largest: int = LARGEST) -> dict[str, Any]:
    """Return the next frame. Raises EOFError when the other side has gone, and FrameError."""
    head = await reader.readexactly(HEAD.size)
    (size,) = HEAD.unpack(head)
    if size > largest:
        raise FrameError(f"a frame of {size:,} bytes; {largest:,} at most are accepted")
    try:
        frame = orjson.loads(await reader.readexactly(size))
    except orjson.JSONDecodeError as error:
        raise FrameError("a frame that is not JSON") from error
    if not isinstance(frame, dict):
        raise FrameError("a frame that is no object")
    return frame


async def write_frame(writer: asyncio.StreamWriter, frame: dict[str, Any]) -> None:
    """Send a frame. Raises ConnectionError when the other side has gone."""
    body = orjson.dumps(frame)
    writer.writelines([HEAD.pack(len(body)), body])
    await writer.drain()
