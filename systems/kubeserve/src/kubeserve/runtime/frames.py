"""Frames on a stream socket: four bytes of length, big-endian, then that many bytes of a JSON object in UTF-8."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import socket

LIMIT = 32 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class FrameError(Exception):
    """What came is no frame. Nothing after it on this connection can be read: close it."""


class FrameTooLargeError(FrameError):
    """A frame above the limit. One that comes is not read; of one that was to be sent nothing was sent."""


def receive(connection: socket.socket, limit: int = LIMIT) -> dict[str, Any] | None:
    """The next frame, or None where the other end closed between two frames. Raises FrameError and OSError."""
    head = _exactly(connection, _LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise FrameError("the connection ended within a frame")
    (length,) = _LENGTH.unpack(head)
    if length > limit:
        raise FrameTooLargeError(f"a frame of {length} bytes; at most {limit} are accepted")
    body = _exactly(connection, length)
    if len(body) < length:
        raise FrameError("the connection ended within a frame")
    return decode(body)


def send(connection: socket.socket, message: dict[str, Any], limit: int = LIMIT) -> None:
    """Send one frame, whole. Raises FrameTooLargeError before anything is sent, and OSError."""
    body = encode(message)
    if len(body) > limit:
        raise FrameTooLargeError(f"an answer of {len(body)} bytes; at most {limit} are accepted")
    connection.sendall(_LENGTH.pack(len(body)) + body)


def encode(message: dict[str, Any]) -> bytes:
    """One line of JSON. Raises ValueError for NaN and infinities, which JSON does not have."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def decode(body: bytes) -> dict[str, Any]:
    """The object that these bytes say. Raises FrameError."""
    try:
        message = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"no JSON: {error}") from error
    if not isinstance(message, dict):
        raise FrameError("no JSON object")
    return message


def _exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer where the other end closed."""
    parts = []
    while size:
        part = connection.recv(min(size, 1024 * 1024))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
