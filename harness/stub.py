"""A minimal endpoint: answers every POST with the same completion, after a fixed time, or in steps as an engine does.

A job whose name begins with `job-6` is refused once, with a 500.

`python -m harness.stub PORT LATENCY_MS [STEP_MS]`. With steps, a request joins at the end of the current one and stays
for `max_tokens` of them. It records every call: `GET /count` returns the number of calls so far,
`GET /calls?N` those from the N-th on, a line each: the monotonic time (ns) of arrival and the job's name.
"""

import asyncio
import re
import signal
import sys
import time

BODY = (
    b'{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop","message":'
    b'{"role":"assistant","content":"4"}}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
ANSWER = HEAD % (b"application/json", len(BODY)) + BODY
REFUSAL = HEAD.replace(b"200 OK", b"500 Internal Server Error") % (b"application/json", 2) + b"{}"
TOKENS = re.compile(rb'"max_tokens": *(\d+)')
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Stub(asyncio.Protocol):
    latency = 0.0
    step = 0.0
    calls: list[tuple[int, bytes]] = []  # noqa: RUF012  shared by all connections
    refused: set[bytes] = set()  # noqa: RUF012  likewise

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            found = LENGTH.search(self.buffer, 0, end)
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self.buffer) < size:
                return
            if self.buffer.startswith(b"POST"):
                self.called(end, size)
            else:
                self.tell(bytes(self.buffer[4:end].split(b" ", 1)[0]))
            del self.buffer[:size]

    def called(self, end: int, size: int) -> None:
        start = self.buffer.find(b"job-", end, size)
        name = bytes(self.buffer[start : start + 11])
        self.calls.append((time.monotonic_ns(), name))
        answer = ANSWER
        if name.startswith(b"job-6") and name not in self.refused:
            self.refused.add(name)
            answer = REFUSAL
        loop = asyncio.get_running_loop()
        if self.step:
            tokens = TOKENS.search(self.buffer, end, size)
            steps = loop.time() // self.step + 1 + (int(tokens[1]) if tokens else 1)
            loop.call_at(steps * self.step, self.answer, answer)
        elif self.latency:
            loop.call_later(self.latency, self.answer, answer)
        else:
            self.answer(answer)

    def answer(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)

    def tell(self, path: bytes) -> None:
        start = path.partition(b"?")[2]
        lines = [b"%d %s\n" % call for call in self.calls[int(start) :]] if start else [b"%d" % len(self.calls)]
        text = b"".join(lines)
        self.transport.write(HEAD % (b"text/plain", len(text)) + text)


async def main() -> None:
    Stub.latency, Stub.step = (float(ms) / 1000 for ms in (*sys.argv[2:], "0")[:2])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Stub, "127.0.0.1", int(sys.argv[1]), backlog=2000)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
