"""Asks whether programs on this machine answer, and finds the ports they listen on."""

import asyncio
import os
import random
import socket
from typing import Final

from greenscale_worker.errors import ConfigError

ASK_SECONDS: Final = 2.0
# Below the ports of outgoing connections: a client that retries a server that is down would sooner or later be given
# the server's own port, connect to itself, and keep the server from coming back.
PORTS: Final = range(15_000, 32_000)
SERVING: Final = (b"+PONG", b"-NOAUTH")


async def redis_unready(port: int) -> str | None:
    """Return why the Redis on that port cannot be used yet, None if it can."""
    answer = await _ask("127.0.0.1", port, b"PING\r\nQUIT\r\n")
    return None if answer.startswith(SERVING) else _first_line(answer)


async def http_unready(host: str, port: int, path: str) -> str | None:
    """Return why the server there does not answer 200 yet, in the words of its answer; None if it does."""
    head, _, body = (await _ask(host, port, b"GET %b HTTP/1.0\r\n\r\n" % path.encode())).partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    return None if words[1:2] == [b"200"] else _first_line(body or head)


def check_port(setting: str, port: int, otherwise: str = "") -> None:
    """Raise ConfigError if that port of 127.0.0.1 is not allowed or already in use.

    Whatever listens there may answer as ours would, and would be taken for it. `otherwise` says what else can be done.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise ConfigError(
                f"{setting}={port}: {reason}; expected: a free port for `up`, such as"
                f" {setting}={free_port()}{otherwise}"
            ) from None


def free_port(*promised: int | None) -> int:
    """Return a free port of 127.0.0.1, other than the `promised` ones, which will be in use soon."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        if port not in promised and is_free(port):
            return port


def is_free(port: int) -> bool:
    """Return whether nothing listens on that port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def _ask(host: str, port: int, question: bytes) -> bytes:
    """Return all that is answered until the other side closes; empty if nothing answers."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(question)
                return await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


def _first_line(answer: bytes) -> str:
    lines = answer.decode(errors="replace").splitlines()
    return lines[0] if lines else "nothing answers yet"
