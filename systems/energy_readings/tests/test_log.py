"""The log: a reader that stalls holds nobody up, and what outsiders cause is one line."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest
from harness.redis_server import free_port

from system import until

LINES = 3000  # more than a pipe and those that wait can hold


Ingest = tuple[int, "subprocess.Popen[bytes]"]


@pytest.fixture
def ingest(tmp_path: Path) -> Iterator[Ingest]:
    """The ingestion API without a Redis: its port, and a process that logs into a pipe."""
    port = free_port()
    process = subprocess.Popen(
        (sys.executable, "-m", "energy_readings", "ingest"),
        env={"REDIS_PORT": str(free_port()), "ENERGY_PORT_INGEST": str(port)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    until(lambda: listens(port))
    yield port, process
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, times: int) -> None:
    """Ask for what is logged, as Redis is not there."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as client:
        for _ in range(times):
            client.request("GET", "/health")
            reply = client.getresponse()
            reply.read()
            assert reply.status == 503


def test_a_reader_that_stalls_holds_nobody_up(ingest: Ingest) -> None:
    port, process = ingest
    ask(port, LINES)
    assert process.stderr is not None
    file = process.stderr.fileno()
    os.set_blocking(file, False)
    read = []

    def is_told() -> bool:
        ask(port, 1)
        with suppress(BlockingIOError):
            read.append(os.read(file, 1 << 20))
        return b"lines before this one were dropped" in b"".join(read)

    until(is_told)


def test_a_reader_that_stalls_does_not_keep_it_from_ending(ingest: Ingest) -> None:
    port, process = ingest
    ask(port, LINES)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_reader_that_has_gone_is_not_missed(ingest: Ingest) -> None:
    port, process = ingest
    assert process.stderr is not None
    process.stderr.close()
    ask(port, 10)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_what_is_not_http_is_one_line(ingest: Ingest) -> None:
    port, process = ingest
    for request in (b"SSH-2.0-x\r\n\r\n", b"GET / HTTP/1.1\r\n: secret\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(request)
            assert b" 400 " in client.makefile("rb").readline()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert b"Traceback" not in said
    assert b"secret" not in said
    assert b"Error handling request from 127.0.0.1: " in said
