"""The least endpoint there can be: answers every POST with the same completion, after a fixed time.

`python bench/stub.py PORT LATENCY_MS [ARRIVALS]`: with a third argument, the monotonic time (ns) of every request's
arrival is written to that file, one a line.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path

BODY = (
    b'{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop","message":'
    b'{"role":"assistant","content":"4"}}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}'
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Stub(asyncio.Protocol):
    latency = 0.0
    arrivals: list[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            start = head.find(b"content-length:")
            length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            if self.arrivals is not None:
                self.arrivals.append(time.monotonic_ns())
            if self.latency:
                asyncio.get_running_loop().call_later(self.latency, self.answer)
            else:
                self.answer()

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


async def main() -> None:
    Stub.latency = float(sys.argv[2]) / 1000
    if len(sys.argv) > 3:
        Stub.arrivals = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Stub, "127.0.0.1", int(sys.argv[1]))
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()
    if Stub.arrivals is not None:
        Path(sys.argv[3]).write_text("".join(f"{at}\n" for at in Stub.arrivals))


asyncio.run(main())
