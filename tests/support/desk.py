"""A desk to run commands at: a directory with files, an endpoint, and real processes, in a terminal or not."""

import asyncio
import codecs
import fcntl
import os
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from greenscale_worker.simulator import CHAT_PATH, SimulatorOptions, running
from harness.eventually import PATIENCE, eventually


@dataclass
class Ended:
    """How a process has ended, and what it said."""

    code: int | None
    out: str
    err: str


class Desk:
    """A directory with the two files, an endpoint, and processes that run there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = directory / "in.jsonl"
        self.target = directory / "out.jsonl"
        self.environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "NEYSA_API_KEY": ""}
        self.started: list[asyncio.subprocess.Process] = []

    def write(self, number: int) -> None:
        """Write lines that the simulator can tell apart."""
        lines = ({"custom_id": f"a-{i}", "prompt": f"What is 2+{i}?", "user": f"a-{i}"} for i in range(number))
        self.source.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))

    def answers(self) -> list[Any]:
        """The whole lines of the output."""
        data = self.target.read_bytes() if self.target.exists() else b""
        return [orjson.loads(line) for line in data.split(b"\n")[:-1]]

    async def start(self, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE, **options}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "greenscale_worker", *arguments, cwd=self.directory, env=self.environment, **pipes
        )
        self.started.append(process)
        return process

    async def run(self, *arguments: str, **options: Any) -> Ended:
        return await ended(await self.start(*arguments, **options))

    async def run_other(self, *command: str) -> Ended:
        """Run another program, however long it takes."""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.directory,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self.started.append(process)
        out, _ = await process.communicate()
        return Ended(process.returncode, out.decode(errors="replace"), "")

    async def batch(self, *arguments: str, **options: Any) -> Ended:
        return await self.run("batch", "in.jsonl", "out.jsonl", *arguments, **options)

    async def start_batch(self, answers: int, **options: Any) -> asyncio.subprocess.Process:
        """Start, and wait until so many lines are there."""
        process = await self.start("batch", "in.jsonl", "out.jsonl", **options)
        await eventually(lambda: len(self.answers()) >= answers or process.returncode is not None)
        assert process.returncode is None
        return process


async def ended(process: asyncio.subprocess.Process) -> Ended:
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())


@dataclass
class Terminal:
    """Runs a process in a terminal of 80 columns and shows what is on it."""

    desk: Desk
    text: str = ""

    async def run(self, *arguments: str, interrupt_at: str | None = None) -> int:
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
        os.set_blocking(ours, False)
        self.desk.environment["TERM"] = "xterm"
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        process = await self.desk.start(*arguments, **streams)
        os.close(theirs)
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        decoder = codecs.getincrementaldecoder("utf-8")()  # a part may end within a character

        def read() -> None:
            try:
                self.text += decoder.decode(os.read(ours, 65536))
            except OSError:
                loop.remove_reader(ours)
                over.set()

        loop.add_reader(ours, read)
        if interrupt_at is not None:
            await eventually(lambda: re.search(interrupt_at, self.text))
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            await over.wait()
            code = await process.wait()
        os.close(ours)
        return code

    @property
    def lines(self) -> list[str]:
        """Every line that was ever on the screen, without its colours."""
        return re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;]*[mA-Z]", "", self.text))


@asynccontextmanager
async def simulated_endpoint(desk: Desk) -> AsyncIterator[Callable[..., Any]]:
    """Give the desk an endpoint that answers in 50 ms; called, it tells what it has counted, or takes faults."""
    async with running(SimulatorOptions(latency=0.05)) as url, aiohttp.ClientSession() as session:
        desk.environment["NEYSA_API_URL"] = url + CHAT_PATH

        async def talk(**faults: Any) -> Any:
            if faults:
                async with session.post(url + "/faults", json=faults) as response:
                    assert response.status == 200
            async with session.get(url + "/stats") as response:
                return await response.json()

        yield talk


@asynccontextmanager
async def a_desk(directory: Path) -> AsyncIterator[Desk]:
    """A desk at which no process is left behind."""
    desk = Desk(directory)
    try:
        yield desk
    finally:
        for process in desk.started:
            if process.returncode is None:
                process.kill()
                await process.wait()
