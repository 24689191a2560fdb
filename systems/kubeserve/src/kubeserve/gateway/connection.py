"""Connections to doors, which stay open for the next call."""

import socket
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp import AddrInfoType

from kubeserve.gateway.doors import Address

CONNECT_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 30.0  # less than a door keeps a connection
LARGEST_HEAD: Final = 8 * 1024
LARGEST_BODY: Final = 33 * 1024 * 1024  # a replica's largest frame, and what stands around it
WATCHED: Final = (  # a machine that is gone closes nothing: known within 15 s, and not when the caller's patience ends
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000),  # milliseconds
)
TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS)  # for an answer, the caller has one


class BrokenError(Exception):
    """No answer came: the door cannot be reached, the connection broke, or what came is no answer."""


class UnreachableError(BrokenError):
    """There is no connection."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The status and the content of an answer."""

    status: int
    body: bytes


class Connections:
    """Asks doors. Each request has a connection of its own while it runs."""

    def __init__(self) -> None:
        self._sessions: dict[str, aiohttp.ClientSession] = {}  # by the path of a Unix socket; empty: all ports
        self._closed = False

    async def ask(self, address: Address, path: str, body: bytes) -> Reply:
        """Send `POST path` to a door. Raises BrokenError."""
        if self._closed:
            raise BrokenError("it was closed")
        host = f"[{address.host}]" if ":" in address.host else address.host
        url = "http://door" if address.path else f"http://{host}:{address.port}"
        try:
            async with self._session(address.path).post(url + path, data=body, allow_redirects=False) as response:
                if response.content_length is None or response.content_length > LARGEST_BODY:
                    raise BrokenError("it sent an answer that is too large, or does not say how large it is")
                return Reply(response.status, await response.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UnreachableError("it cannot be reached") from error
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:  # RuntimeError: it was closed
            raise BrokenError("the connection broke, or what came is no answer") from error

    async def aclose(self) -> None:
        """Close all; who waits gets BrokenError."""
        self._closed = True
        for session in self._sessions.values():
            await session.close()

    def _session(self, path: str) -> aiohttp.ClientSession:
        if path not in self._sessions:
            if path:
                connector: aiohttp.BaseConnector = aiohttp.UnixConnector(path, limit=0, keepalive_timeout=IDLE_SECONDS)
            else:
                connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS, socket_factory=_watched)
            self._sessions[path] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                timeout=TIMEOUT,
                max_line_size=LARGEST_HEAD,
                max_field_size=LARGEST_HEAD,
            )
        return self._sessions[path]


def _watched(address: AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.settimeout(0)
    for level, option, value in WATCHED:
        made.setsockopt(level, option, value)
    return made
