"""A connection to a door: HTTP/1.1 as doors speak it, one request at a time.

A client of its own, for it is half of what a hot call costs the gateway: a general one takes three times its processor
time. What it does not expect ends the connection.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Final

from kubeserve.gateway.doors import Address

CONNECT_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 30.0  # less than a door keeps a connection
MOST_IDLE: Final = 64
LARGEST_HEAD: Final = 8 * 1024
LARGEST_BODY: Final = 33 * 1024 * 1024  # a replica's largest frame, and what stands around it
WATCHED: Final = (  # a machine that is gone closes nothing: known within 15 s, and not when the caller's patience ends
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000),  # milliseconds
)
STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d{1,12})(?:\r\n|$)", re.IGNORECASE)
CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class BrokenError(Exception):
    """No answer came: the door cannot be reached, the connection broke, or what came is no answer."""


class UnreachableError(BrokenError):
    """There is no connection."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The status and the content of an answer."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """Asks. `lost` is called when it is closed."""

    def __init__(self, lost: Callable[["Connection"], None]) -> None:
        self.used_at = monotonic()
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._head = 0  # bytes, once it is whole
        self._whole = 0  # bytes of head and body
        self._status = 0
        self._keep = True
        self._reply: asyncio.Future[Reply] | None = None

    @property
    def usable(self) -> bool:
        """Whether the next request may be sent on it: it is open, and nothing is on its way."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._reply is not None or not self._keep:
            return False
        return monotonic() - self.used_at < IDLE_SECONDS and transport.get_write_buffer_size() == 0

    async def ask(self, request: bytes) -> Reply:
        """Send a whole request, and return the answer. Raises BrokenError."""
        if self._transport is None or self._transport.is_closing():
            raise BrokenError("it is closed")
        self._reply = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(request)
            return await self._reply
        finally:
            self._reply = None
            self.used_at = monotonic()

    def close(self, why: str = "it was closed") -> None:
        """Close it; who waits gets BrokenError."""
        if self._transport is not None:
            self._transport.abort()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(BrokenError(why))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a stream's
        self._transport = transport
        peer: socket.socket = transport.get_extra_info("socket")
        if peer.family != socket.AF_UNIX:
            for level, option, value in WATCHED:
                peer.setsockopt(level, option, value)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._lost(self)
        self.close("the connection broke" if exc is None else str(exc))

    def data_received(self, data: bytes) -> None:
        """Take what came; it may be a part."""
        if self._reply is None or self._reply.done():
            self.close("it sent what nobody asked for")
            return
        self._received += data
        if not self._head and not self._read_head():
            return
        if len(self._received) == self._whole:
            self._end(self._reply)
        elif len(self._received) > self._whole:
            self.close("it sent more than it said")

    def _read_head(self) -> bool:
        """Read how long the answer is, if that is here."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0 and len(self._received) < LARGEST_HEAD:
            return False
        head = bytes(self._received[:end])
        status, length = STATUS.match(head), LENGTH.search(head)
        if end < 0 or status is None or length is None or int(length[1]) > LARGEST_BODY:
            self.close("it sent what is no answer, or one that is too large")
            return False
        self._status, self._keep = int(status[1]), CLOSE.search(head) is None
        self._head, self._whole = end + 4, end + 4 + int(length[1])
        return True

    def _end(self, reply: "asyncio.Future[Reply]") -> None:
        reply.set_result(Reply(self._status, bytes(self._received[self._head :])))
        self._received = bytearray()
        self._head = 0


class Connections:
    """Open ones, by address: at most 64 of each wait for the next call."""

    def __init__(self) -> None:
        self._idle: dict[Address, list[Connection]] = {}
        self._used = set[Connection]()

    async def ask(self, address: Address, path: str, body: bytes) -> Reply:
        """Send `POST path` to a door. Raises BrokenError."""
        connection = await self._take(address)
        self._used.add(connection)
        try:
            head = f"POST {path} HTTP/1.1\r\nHost: door\r\nContent-Length: {len(body)}\r\n\r\n"
            reply = await connection.ask(head.encode() + body)
        except BaseException:
            connection.close()
            raise
        finally:
            self._used.discard(connection)
        self._give_back(address, connection)
        return reply

    def close(self) -> None:
        """Close all; who waits gets BrokenError."""
        for connection in [*self._used, *(one for idle in self._idle.values() for one in idle)]:
            connection.close()
        self._idle.clear()

    async def _take(self, address: Address) -> Connection:
        idle = self._idle.get(address, [])
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            connection.close()
        loop, made = asyncio.get_running_loop(), partial(Connection, partial(self._forget, address))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if address.path:
                    return (await loop.create_unix_connection(made, address.path))[1]
                return (await loop.create_connection(made, address.host, address.port))[1]
        except (OSError, TimeoutError) as error:
            raise UnreachableError("it cannot be reached") from error

    def _give_back(self, address: Address, connection: Connection) -> None:
        idle = self._idle.setdefault(address, [])
        if connection.usable and len(idle) < MOST_IDLE:
            idle.append(connection)
        else:
            connection.close()

    def _forget(self, address: Address, connection: Connection) -> None:
        idle = self._idle.get(address, [])
        if connection in idle:
            idle.remove(connection)
        if not idle:
            self._idle.pop(address, None)
