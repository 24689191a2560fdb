"""A TCP proxy that simulates network faults: cuts, stalls, delays, and connections that end within an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from types import TracebackType
from typing import Final, Self

CHUNK: Final = 64 * 1024


@dataclass(eq=False)
class Trap:
    """Springs at the answer to the first request that contains `request`: only `keep` bytes of the answer pass.

    With `cut` the connection ends there; otherwise nothing more passes until the trap is `opened`. With `half` it ends
    sooner: of what has come of the request, only half passes.
    """

    request: bytes
    _: KW_ONLY
    keep: int = 0
    cut: bool = True
    half: bool = False
    armed: bool = True
    sprung: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Connection:
    """A forwarded connection."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    caught: Trap | None = None

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class TcpProxy:
    """Forwards connections to `target`, a port of 127.0.0.1. Use with `async with`; `delay` is seconds, each way."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.delay = 0.0
        self.cuts = 0
        self.target = target
        self._traps: list[Trap] = []
        self._flows = asyncio.Event()
        self._flows.set()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def connected(self) -> int:
        """The number of connections."""
        return len(self._connections)

    def cut(self) -> None:
        """Reset every connection; new ones are accepted."""
        while self._connections:
            self._connections.pop().abort()
            self.cuts += 1

    def stall(self) -> None:
        """Stop forwarding; connections stay open, and new ones are accepted."""
        self._flows.clear()

    def flow(self) -> None:
        """End `stall`: held bytes arrive now."""
        self._flows.set()

    def set(self, trap: Trap) -> None:
        """Set a trap."""
        self._traps.append(trap)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, forth)
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._pump(reader, lambda chunk: self._request(connection, chunk))),
            asyncio.create_task(self._pump(back, lambda chunk: self._answer(connection, chunk))),
        ]
        self._tasks.update(pumps)
        with suppress(asyncio.CancelledError):
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        connection.abort()
        self._connections.discard(connection)

    async def _pump(self, reader: asyncio.StreamReader, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Move bytes until one side ends, each chunk `delay` after it came."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            with suppress(OSError):
                while chunk := await reader.read(CHUNK):
                    chunks.put_nowait((loop.time() + self.delay, chunk))
            chunks.put_nowait((loop.time() + self.delay, b""))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, chunk = await chunks.get()
                await asyncio.sleep(due - loop.time())
                await self._flows.wait()
                if not chunk:
                    return
                await write(chunk)
        except OSError:
            return
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    async def _request(self, connection: _Connection, chunk: bytes) -> None:
        for trap in self._traps:
            if trap.armed and trap.request in chunk:
                trap.armed = False
                connection.caught = trap
                if trap.half:
                    connection.server.write(chunk[: len(chunk) // 2])
                    await connection.server.drain()
                    trap.sprung.set()
                    raise ConnectionAbortedError
        connection.server.write(chunk)
        await connection.server.drain()

    async def _answer(self, connection: _Connection, chunk: bytes) -> None:
        if (trap := connection.caught) is not None:
            connection.caught = None
            connection.client.write(chunk[: trap.keep])
            await connection.client.drain()
            trap.sprung.set()
            if trap.cut:
                raise ConnectionAbortedError
            await trap.opened.wait()
            chunk = chunk[trap.keep :]
        connection.client.write(chunk)
        await connection.client.drain()
