"""Sends one signed message by HTTP, to an address that may be connected to, and says what came of it."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from time import time
from typing import Any, Final, Literal

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorSSLError,
    ClientError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult

from greenscale_worker.backends.retry_after import retry_after
from greenscale_worker.backends.threads import Threads
from greenscale_worker.tls import client_context
from greenscale_worker.webhooks.addresses import AddressRefusedError, check_address
from greenscale_worker.webhooks.events import Event
from greenscale_worker.webhooks.registry import Endpoint
from greenscale_worker.webhooks.signature import headers_of
from greenscale_worker.wire_json import write

TOTAL_SECONDS: Final = 20.0  # from the name to the status
POLITE_SECONDS: Final = 1.0  # for the rest of an answer, so that the connection can be used again
MOST_READ: Final = 64 * 1024  # bytes of an answer; none is kept
MOST_HEADER_BYTES: Final = 8190
MOST_HEADERS: Final = 100
IDLE_SECONDS: Final = 15.0
LONGEST_WAIT: Final = 86_400.0
GONE: Final = 410
Kind = Literal["delivered", "http_1xx", "http_3xx", "http_4xx", "http_5xx", "timeout", "unreachable", "tls", "refused"]
SILENT: Final = frozenset({"timeout", "unreachable"})  # nobody is there
SAID: Final[dict[Kind, str]] = {
    "timeout": f"no answer within {TOTAL_SECONDS:g} s",
    "unreachable": "no connection could be made, or it broke before an answer came",
    "tls": "the certificate is not one that is trusted for this name, or TLS failed",
    "refused": "the address is not one of the public internet (GREENSCALE_WEBHOOKS_ALLOW_PRIVATE)",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a try. `wait` is how many seconds the receiver wants to be left alone."""

    kind: Kind
    status: int | None = None
    wait: float = 0.0

    @property
    def delivered(self) -> bool:
        """Whether the receiver has it."""
        return self.kind == "delivered"

    @property
    def code(self) -> str:
        """One word for machines."""
        return f"http_{self.status}" if self.status is not None else f"webhook_{self.kind}"

    @property
    def message(self) -> str:
        """The same for people; it quotes neither URL nor answer."""
        said = f"the receiver answered {self.status}; 200 to 299 is expected"
        return SAID[self.kind] if self.status is None else said


class Sender:
    """Sends messages. `allow_private`: also to addresses that only this network has.

    `look_up` is called in a thread with a host and a port, as `socket.getaddrinfo`, by default that.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        clock: Callable[[], float] = time,
        look_up: Callable[[tuple[str, int]], Any] | None = None,
    ) -> None:
        self.allow_private = allow_private
        self._clock = clock
        self._look_up = look_up or _look_up

    async def send(self, endpoint: Endpoint, event: Event) -> Answer:
        """Send an event, signed anew. Raises nothing but a cancellation."""
        body = write(event.model_dump())
        now = self._clock()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "greenscale-webhooks",
            **headers_of(event.id, int(now), body, endpoint.signing(now)),
        }
        try:
            async with self._session.post(
                endpoint.chosen.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return await _answer(response)
        except AddressRefusedError:
            return Answer("refused")
        except TimeoutError:
            return Answer("timeout")
        except (ClientConnectorCertificateError, ClientConnectorSSLError):
            return Answer("tls")
        except (ClientError, OSError, ValueError) as error:  # ValueError: a name that IDNA does not know
            return Answer("refused" if _was_refused(error) else "unreachable")

    async def aclose(self) -> None:
        """Close all connections."""
        if "_session" in self.__dict__:
            await self._session.close()

    @cached_property
    def _session(self) -> ClientSession:
        connector = TCPConnector(
            limit=0,  # the lanes are the bound
            resolver=_PublicResolver(self._look_up, allow_private=self.allow_private),
            use_dns_cache=False,
            socket_factory=self._socket,
            ssl=client_context(),
            keepalive_timeout=IDLE_SECONDS,
        )
        return ClientSession(
            connector=connector,
            timeout=ClientTimeout(total=TOTAL_SECONDS),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            max_line_size=MOST_HEADER_BYTES,
            max_field_size=MOST_HEADER_BYTES,
            max_headers=MOST_HEADERS,
        )

    def _socket(self, address: Any) -> socket.socket:
        """Make the socket of a connection: the last place where its address can be refused, however it was found."""
        family, kind, protocol, _, where = address
        check_address(str(where[0]), allow_private=self.allow_private)
        return socket.socket(family, kind, protocol)


class _PublicResolver(AbstractResolver):
    """Finds the addresses of a name, and leaves out those that may not be connected to.

    Each look-up has a thread of its own: names whose servers are silent hold up no others.
    """

    def __init__(self, look_up: Callable[[tuple[str, int]], Any], *, allow_private: bool) -> None:
        self._look_up = look_up
        self._allow_private = allow_private
        self._threads = Threads()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses. Raises AddressRefusedError if there are only others."""
        found, refused = list[ResolveResult](), None
        for kind, _, protocol, _, where in await self._threads.call(self._look_up, (host, port)):
            if family not in (socket.AF_UNSPEC, kind):
                continue
            try:
                check_address(str(where[0]), allow_private=self._allow_private)
            except AddressRefusedError as error:
                refused = error
                continue
            found.append(
                ResolveResult(
                    hostname=host, host=where[0], port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST
                )
            )
        if refused is not None and not found:
            raise refused
        return found

    async def close(self) -> None:
        """End the threads."""
        self._threads.close()


def _look_up(where: tuple[str, int]) -> Any:
    return socket.getaddrinfo(*where, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


async def _answer(response: Any) -> Answer:
    """Return what a status means. Some of the rest of the answer is read and dropped."""
    status: int = response.status
    with suppress(ClientError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(POLITE_SECONDS):
            await response.content.readexactly(MOST_READ)
    if 200 <= status <= 299:  # noqa: PLR2004  the range that the specification names
        return Answer("delivered", status)
    kinds: dict[int, Kind] = {1: "http_1xx", 3: "http_3xx", 4: "http_4xx"}
    wait = retry_after(response.headers, longest=LONGEST_WAIT)
    return Answer(kinds.get(status // 100, "http_5xx"), status, wait or 0.0)


def _was_refused(error: BaseException | None) -> bool:
    """Return whether it was the address, behind whatever the library made of it."""
    while error is not None and not isinstance(error, AddressRefusedError):
        error = getattr(error, "os_error", None) or error.__cause__ or error.__context__
    return error is not None
