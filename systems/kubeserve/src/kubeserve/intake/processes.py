"""Runs one program with bounds on its time, memory and output, and ends all that it started."""

import asyncio
import os
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from greenscale_worker.up import tether

MOST_OUTPUT: Final = 4 * 1024 * 1024  # bytes that are kept of each stream; what comes after is read and dropped
LINGERING: Final = 5.0  # seconds that a stream may stay open once the program has ended
CHUNK: Final = 64 * 1024
TETHER: Final = (sys.executable, "-I", "-S", tether.__file__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: `status` below zero is a signal, `late`: its time was up, `cut`: it said too much."""

    status: int
    out: bytes
    err: bytes
    late: bool
    cut: bool

    @property
    def how(self) -> str:
        """In words, for a reason that people read."""
        if self.late:
            return "took too long and was ended"
        return f"was ended by {signal.Signals(-self.status).name}" if self.status < 0 else f"ended with {self.status}"


async def run(
    *arguments: str | Path,
    seconds: float,
    given: bytes = b"",
    environment: Mapping[str, str] | None = None,
    limits: Mapping[int, int] | None = None,
) -> Ended:
    """Run it in a process group of its own, without the environment of the platform; give it `given` on its stdin.

    `limits` are those of `resource`, in force before it can read a byte of `given`. However this ends, also by being
    cancelled, no process of the group is left; it dies with this process. A program that cannot be started ends with 1.
    """
    process = await asyncio.create_subprocess_exec(
        *TETHER, str(os.getpid()), *arguments,
        stdin=PIPE, stdout=PIPE, stderr=PIPE,
        env={"PATH": os.defpath, "LANG": "C.UTF-8", **(environment or {})},
        start_new_session=True,
    )  # fmt: skip
    reading: list[asyncio.Task[tuple[bytes, bool]]] = []
    try:
        _limit(process.pid, limits or {})
        reading = [asyncio.create_task(_read(stream)) for stream in (process.stdout, process.stderr)]
        late = not await _ended(process, given, seconds)
        _kill_group(process.pid)
        await process.wait()
        await asyncio.wait(reading, timeout=LINGERING)
        (out, cut), (err, _) = (task.result() if task.done() else (b"", True) for task in reading)
        return Ended(process.returncode or 0, out, err, late, cut)
    finally:
        _kill_group(process.pid)
        for task in reading:
            task.cancel()


def _limit(pid: int, limits: Mapping[int, int]) -> None:
    for kind, most in limits.items():
        with suppress(ProcessLookupError, AttributeError):  # it has ended already; macOS has no prlimit
            resource.prlimit(pid, kind, (most, most))


async def _ended(process: Process, given: bytes, seconds: float) -> bool:
    """Whether it ended in time."""
    try:
        async with asyncio.timeout(seconds):
            with suppress(BrokenPipeError, ConnectionResetError):  # it does not want to read it all
                await _give(process.stdin, given)
            await process.wait()
    except TimeoutError:
        return False
    return True


async def _give(stream: asyncio.StreamWriter | None, given: bytes) -> None:
    if stream is not None:
        stream.write(given)
        await stream.drain()
        stream.close()


async def _read(stream: asyncio.StreamReader | None) -> tuple[bytes, bool]:
    """What it says at first, and whether there was more."""
    kept = bytearray()
    cut = False
    while stream is not None and (chunk := await stream.read(CHUNK)):
        kept += chunk[: MOST_OUTPUT - len(kept)]
        cut = cut or len(kept) == MOST_OUTPUT
    return bytes(kept), cut


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
