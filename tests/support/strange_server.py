"""What may listen where Redis is expected, and answers as it likes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Answer = Callable[[bytes], Awaitable[bytes | None]]


@asynccontextmanager
async def strange_server(answer: bytes | Answer) -> AsyncIterator[int]:
    """Listen on a port of 127.0.0.1, which is given; whatever is sent is answered by these bytes, and None hangs up."""

    async def reply(request: bytes) -> bytes | None:
        return answer if isinstance(answer, bytes) else await answer(request)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.read(64 * 1024):
                if (said := await reply(request)) is None:
                    break
                writer.write(said)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def lying_proxy(target: int, lie: Callable[[], bytes | None]) -> AsyncIterator[int]:
    """Stand before a server of 127.0.0.1; a piece of its answers is replaced by what `lie` gives, if anything."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", target)
        pumps = {asyncio.create_task(_pump(reader, forth, lambda: None)), asyncio.create_task(_pump(back, writer, lie))}
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            writer.close()
            forth.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lie: Callable[[], bytes | None]) -> None:
    try:
        while piece := await reader.read(64 * 1024):
            said = lie()
            writer.write(piece if said is None else said)
    except OSError:
        pass
