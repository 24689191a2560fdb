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
