"""Lines of the log stay whole and in order, and whoever reads them too slowly, or not at all, stops nobody."""

import asyncio
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import orjson
import pytest

from greenscale_worker.log_writer import MOST_BYTES, LogWriter
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.redis.list import open_client
from harness.eventually import PATIENCE
from harness.redis_server import free_port
from harness.worker_process import COMMAND

LINE = b"x" * 99 + b"\n"


class Pipe:
    """A pipe, of which the reader's end is ours; the writer's end is a stream."""

    def __init__(self) -> None:
        self.read, write = os.pipe()
        self.stream: TextIO = os.fdopen(write, "w")
        self._gone = False

    def hang_up(self) -> None:
        """Read no more."""
        if not self._gone:
            os.close(self.read)
        self._gone = True

    def fill(self) -> int:
        """Fill it up; gives the number of bytes."""
        number, size = self.stream.fileno(), 0
        os.set_blocking(number, False)
        with suppress(BlockingIOError):
            while True:
                size += os.write(number, b"\n" * 1000)
        with suppress(BlockingIOError):
            while True:
                size += os.write(number, b"\n")
        os.set_blocking(number, True)
        return size

    def take(self, size: int) -> bytes:
        found = b""
        while len(found) < size and (chunk := os.read(self.read, size - len(found))):
            found += chunk
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.hang_up()
    pipe.stream.close()


@pytest.fixture
def told() -> list[int]:
    return []


@pytest.fixture
def writer(told: list[int]) -> Iterator[LogWriter]:
    writer = LogWriter(told.append)
    yield writer
    writer.redirect(None)


def numbered(number: int, size: int = 100) -> bytes:
    return f"{number:08d}".encode() + b"." * (size - 9) + b"\n"


def test_lines_are_written_in_order_and_whole(writer: LogWriter, pipe: Pipe) -> None:
    writer.redirect(pipe.stream)
    lines = [numbered(number, 10 + number % 300) for number in range(3000)]
    reader = threading.Thread(target=lambda: found.append(pipe.take(sum(map(len, lines)))))
    found: list[bytes] = []
    reader.start()
    for line in lines:
        writer.put(line)
    reader.join(PATIENCE)
    assert found == [b"".join(lines)]
    assert writer.flush(PATIENCE)
    assert writer.dropped == 0


async def test_lines_that_may_wait_are_written_together_at_the_end_of_a_turn_in_order(
    writer: LogWriter, pipe: Pipe
) -> None:
    os.set_blocking(pipe.read, False)
    writer.redirect(pipe.stream)
    writer.gather_for(asyncio.get_running_loop())
    lines = [numbered(number) for number in range(103)]
    for line in lines[:3]:
        writer.put(line, may_wait=True)
    with pytest.raises(BlockingIOError):
        os.read(pipe.read, 1)
    await asyncio.sleep(0)
    assert os.read(pipe.read, 9999) == b"".join(lines[:3])
    writer.put(lines[3], may_wait=True)
    writer.put(lines[4])
    assert os.read(pipe.read, 9999) == b"".join(lines[3:5])
    for line in lines[5:100]:  # more than a pipe takes whole
        writer.put(line, may_wait=True)
    threading.Thread(target=writer.put, args=(b"of another thread\n",)).start()
    writer.gather_for(None)
    for line in lines[100:]:
        writer.put(line, may_wait=True)
    assert os.read(pipe.read, 99_999).replace(b"of another thread\n", b"") == b"".join(lines[5:])


def test_a_reader_that_stalls_stops_nobody_and_what_was_lost_is_counted(
    writer: LogWriter, pipe: Pipe, told: list[int]
) -> None:
    filled = pipe.fill()
    writer.redirect(pipe.stream)
    put = 3 * MOST_BYTES // len(LINE)
    for number in range(put):
        writer.put(numbered(number))
    assert not writer.flush(0.01)
    dropped = writer.dropped
    assert 0 < dropped < put
    assert told == []
    assert pipe.take(filled).strip() == b""
    kept = pipe.take((put - dropped) * len(LINE)).splitlines(keepends=True)
    assert [line for line in kept if len(line) != len(LINE)] == []
    assert kept == sorted(kept)
    assert writer.flush(PATIENCE)
    assert (told, writer.dropped) == ([dropped], dropped)


@pytest.mark.parametrize("kind", ["a terminal", "a socket"])
def test_a_reader_of_another_kind_that_stalls_stops_nobody(writer: LogWriter, kind: str, told: list[int]) -> None:
    if kind == "a terminal":
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
    else:
        ours, theirs = (end.detach() for end in socket.socketpair())
    with os.fdopen(theirs, "w") as stream:
        writer.redirect(stream)
        put = 2 * MOST_BYTES // len(LINE)
        for number in range(put):
            writer.put(numbered(number))
        assert not writer.flush(0.01)
        dropped = writer.dropped
        assert 0 < dropped < put
        left, found = (put - dropped) * len(LINE), b""
        while len(found) < left:
            found += os.read(ours, left - len(found))
        assert writer.flush(PATIENCE)
        writer.redirect(None)
    os.close(ours)
    kept = found.splitlines(keepends=True)
    assert {len(line) for line in kept} == {len(LINE)}
    assert kept == sorted(kept)
    assert sum(told) == dropped  # told at once, or in parts where a part of the lines went out in between


def test_several_processes_may_write_to_one_pipe(told: list[int], pipe: Pipe) -> None:
    """Each has a file of its own for the same pipe; what one write takes is never torn."""
    writers = [LogWriter(told.append) for _ in range(4)]
    streams = [os.fdopen(os.dup(pipe.stream.fileno()), "w") for _ in writers]
    for writer, stream in zip(writers, streams, strict=True):
        writer.redirect(stream)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.take(4 * 500 * len(LINE))))
    reader.start()
    for number in range(500):
        for writer in writers:
            writer.put(numbered(number))
    reader.join(PATIENCE)
    assert {len(line) for line in found[0].splitlines(keepends=True)} == {len(LINE)}
    for writer, stream in zip(writers, streams, strict=True):
        assert writer.flush(PATIENCE)
        writer.redirect(None)
        stream.close()


def test_a_pipe_that_somebody_has_set_to_non_blocking(writer: LogWriter, pipe: Pipe) -> None:
    filled = pipe.fill()
    os.set_blocking(pipe.stream.fileno(), False)
    writer.redirect(pipe.stream)
    for number in range(100):
        writer.put(numbered(number))
    pipe.take(filled)
    assert pipe.take(100 * len(LINE)) == b"".join(map(numbered, range(100)))
    assert writer.flush(PATIENCE)
    assert writer.dropped == 0


def test_a_reader_that_has_gone_is_counted(writer: LogWriter, pipe: Pipe) -> None:
    writer.redirect(pipe.stream)
    pipe.hang_up()
    for number in range(7):
        writer.put(numbered(number))
    assert writer.flush(PATIENCE)
    assert writer.dropped == 7


def test_half_a_line_ends_before_the_next_one_begins(writer: LogWriter, told: list[int]) -> None:
    """A disk that is full in the middle of a line and has room again: the half is lost, no other line is."""

    class Disk:
        """Takes 150 bytes, then none, then any number."""

        room = 150
        data = b""

        def write(self, data: Any) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            taken = bytes(data[: self.room])
            self.data += taken
            self.room -= len(taken)
            return len(taken)

    disk: Any = Disk()
    writer._file = disk  # noqa: SLF001  no real disk fills up by the byte
    for number in range(3):
        writer.put(numbered(number))
    assert writer.dropped == 2
    disk.room = 10_000
    writer.put(numbered(3))
    lines = disk.data.splitlines(keepends=True)
    assert lines == [numbered(0), numbered(1)[:50] + b"\n", numbered(3)]
    assert told == [2]


def test_one_line_larger_than_the_memory_for_lines_is_written(writer: LogWriter, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        writer.redirect(stream)
        writer.put(b"x" * (MOST_BYTES + 1) + b"\n")
        assert writer.flush(PATIENCE)
    assert (tmp_path / "log").stat().st_size == MOST_BYTES + 2


async def test_a_worker_whose_log_nobody_reads_goes_on(redis_url: str, tmp_path: Path) -> None:
    """Its stdout is a full pipe: jobs are answered, probes too; read again, it says what was lost; SIGTERM ends it."""
    port, admin = free_port(), await open_client(RedisOptions(url=redis_url), QueueOptions())
    read, write = os.pipe()
    environment = {
        "REDIS_URL": redis_url,
        "GREENSCALE_BACKEND": "echo",
        "GREENSCALE_LOG_CONTENT": "true",  # long lines: the memory for them is soon full
        "GREENSCALE_HEALTH_PORT": str(port),
        "GREENSCALE_LEASE_SECONDS": "1",
    }
    process = await asyncio.create_subprocess_exec(
        *COMMAND, cwd=tmp_path, env=environment, stdout=write, stderr=asyncio.subprocess.PIPE
    )
    os.close(write)

    async def answered(number: int) -> None:
        """Put a hundred jobs, and wait until so many are answered."""
        names = [f"{number}-{each}" for each in range(100)]
        await admin.put([(name, orjson.dumps({"job_id": name, "prompt": "x" * 100_000})) for name in names])
        async with asyncio.timeout(PATIENCE):
            while f'outcome="succeeded"}} {number}.0' not in await get(port, "/metrics"):  # noqa: ASYNC110  no Event
                await asyncio.sleep(0.02)

    try:
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.to_thread(os.read, read, 1)
        await answered(100)
        assert await get(port, "/livez") == "ok\n"
        (count,) = re.findall(r"log_lines_dropped_total (\d+)\.0", await get(port, "/metrics"))
        assert int(count) > 0
        async with asyncio.timeout(PATIENCE):
            said = b""
            while not (found := re.search(rb'"event":"log_lines_dropped","lines":(\d+),', said)):
                said += await asyncio.to_thread(os.read, read, 1_000_000)
        assert found[1] == count.encode()
        assert [orjson.loads(line) for line in said.splitlines()[1:-1]]
        await answered(200)
        process.terminate()
        async with asyncio.timeout(PATIENCE):
            _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
    finally:
        os.close(read)
        if process.returncode is None:
            process.kill()
            await process.wait()
        await admin.aclose()


async def get(port: int, path: str) -> str:
    """Ask the worker; empty as long as it does not listen."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return await answer.text()
    except aiohttp.ClientError:
        return ""


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "1 / 0", "import os; flush_log(); os._exit(0)"])
def test_the_last_lines_are_written_however_the_process_ends(end: str) -> None:
    script = f"""
from greenscale_worker.telemetry import configure_logging, flush_log, log
configure_logging(json=True)
for number in range(1000):
    log.info("job", number=number)
{end}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)  # noqa: S603  ours
    assert [orjson.loads(line)["number"] for line in done.stdout.splitlines()] == list(range(1000))
