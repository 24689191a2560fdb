"""A server that has left its name, or never was a Redis, and the name that moves away from it."""

import asyncio
from types import TracebackType
from typing import Self

from harness.tcp_proxy import TcpProxy


class Name(TcpProxy):
    """A name on the network: who connects from now on reaches another server, connections that are there stay."""

    def move(self, port: int) -> None:
        self.target = port


class Stub:
    """A server that gives each request `answer`, and says nothing where that is empty; a HELLO is answered well."""

    def __init__(self, answer: bytes, *, greets: bool = True) -> None:
        self._answer = answer
        self._greets = greets
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.read(65536):
                if self._greets and b"HELLO" in request:
                    writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                elif self._greets and b"CLIENT" in request:
                    writer.write(b"+OK\r\n" * request.count(b"CLIENT"))
                else:
                    writer.write(self._answer)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
