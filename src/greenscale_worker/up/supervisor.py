"""Keeps programs running: starts them in order, restarts those that die, and stops them in reverse."""

import asyncio
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from greenscale_worker.errors import GreenScaleError
from greenscale_worker.up import tether

POLL_SECONDS: Final = 0.05
START_SECONDS: Final = 20.0  # then what the program waits for is reported, and the next one is started
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
MOST_DOUBLINGS: Final = 6
WELL_SECONDS: Final = 60.0  # after so long a run, the next death counts as the first again
HURRY_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 0.5  # between signals while it hurries: of two that come at once a process sees one

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A program, and how it is started, probed and stopped.

    `shown` says in a few words where it is or what it does. `unready` returns what it waits for, None once it answers.
    Its output goes to the file `log`, where `why` reads why it has failed; without `log` its output goes where ours
    goes. It is killed `stop_seconds` after SIGTERM; `farewell` says what happens in that time. `goes_on` returns,
    before a start, what it will go on with; after a death it is called with the id of the process that died.
    """

    name: str
    shown: str
    command: Sequence[str]
    unready: Callable[[], Awaitable[str | None]]
    stop_seconds: float
    farewell: str = ""
    goes_on: Callable[[int | None], Awaitable[str]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # added to our own
    stdin: bytes | None = None
    directory: Path | None = None
    log: Path | None = None
    why: Callable[[], str] = lambda: ""


class StartError(GreenScaleError):
    """A program ended before it answered; `code` is its exit code, negative for a signal."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Supervisor:
    """Keeps services running. To stop them, set `stopping`, then call `stop`; setting `hurry` shortens that."""

    def __init__(self, say: Say) -> None:
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()
        self._say = say
        self._kept: list[_Kept] = []

    async def start(self, service: Service) -> int:
        """Start it, wait until it answers or `stopping` is set, and keep it running. Return its process id.

        Raises StartError if it ends instead.
        """
        kept = _Kept(service, self.stopping, self._say)
        self._kept.append(kept)
        return await kept.start()

    async def stop(self) -> bool:
        """Stop all, the last one first; each is killed after its `stop_seconds`. Return whether all ended well."""
        self.stopping.set()
        return all([await kept.stop(self.hurry) for kept in reversed(self._kept)])


class _Kept:
    """One service: its process, and the task that restarts it."""

    def __init__(self, service: Service, stopping: asyncio.Event, say: Say) -> None:
        self._service = service
        self._stopping = stopping
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> int:
        if told := await self._what_goes_on(None):
            self._say(told)
        try:
            self._process = process = await _launch(self._service, "wb")
        except OSError as error:
            raise StartError(f"{self._service.name} cannot start ({error})", 1) from error
        await self._until_it_answers(process)
        self._keeper = asyncio.create_task(self._keep(process))
        return process.pid

    async def stop(self, hurry: asyncio.Event) -> bool:
        await self._terminate(hurry)
        if self._keeper is not None:
            await self._keeper
        await self._terminate(hurry)  # the process that the keeper may just have started
        # A process stopped before it can handle SIGTERM is ended by it, which is fine, too.
        return self._process is None or self._process.returncode in {0, -signal.SIGTERM}

    async def _until_it_answers(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + START_SECONDS
        while not self._stopping.is_set() and (waits_for := await self._service.unready()) is not None:
            if process.returncode is not None:
                code = process.returncode
                raise StartError(f"{self._service.name} cannot start ({self._how_it_ended(code)})", code)
            if loop.time() > ends:
                self._say(f"{self._service.name} does not answer yet: {waits_for}")
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        loop, deaths, began = asyncio.get_running_loop(), 0, -math.inf
        while not self._stopping.is_set():
            ended = self._how_it_ended(await process.wait())
            deaths = 1 if loop.time() - began > WELL_SECONDS else deaths + 1
            if await self._stops_within(pause(deaths)):
                return
            began, told = loop.time(), await self._what_goes_on(process.pid)
            try:
                self._process = process = await _launch(self._service, "ab")
            except OSError as error:
                self._say(f"{self._service.name} died ({ended}), and cannot be started: {error.strerror}")
            else:
                self._say(f"{self._service.name} died ({ended}); it was started again, pid {process.pid}")
                if told:
                    self._say(told)

    async def _what_goes_on(self, died: int | None) -> str:
        return "" if self._service.goes_on is None else await self._service.goes_on(died)

    async def _stops_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _terminate(self, hurry: asyncio.Event) -> None:
        process, name, limit = self._process, self._service.name, self._service.stop_seconds
        if process is None or process.returncode is not None:
            return
        farewell = "" if hurry.is_set() else self._service.farewell
        self._say(": ".join(filter(None, (f"stopping {name}", farewell))))
        ended, hurried = asyncio.create_task(process.wait()), asyncio.create_task(hurry.wait())
        _signal(process, signal.SIGTERM)
        await asyncio.wait({ended, hurried}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if hurried.done():
            await _insist(process, ended, min(limit, HURRY_SECONDS))
        if not ended.done():
            self._say(f"{name} does not stop; it is killed")
            _signal(process, signal.SIGKILL)
        hurried.cancel()
        await ended

    def _how_it_ended(self, code: int) -> str:
        if code < 0:
            return f"killed by {_name(-code)}"
        why = ""
        with suppress(OSError):  # the log was removed
            why = self._service.why()
        return f"exit code {code}: {why}" if why else f"exit code {code}"


def pause(deaths: int) -> float:
    """Return the seconds before a restart after so many deaths in a row: from 0.5, twice as long each time."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(deaths - 1, MOST_DOUBLINGS))


async def _launch(service: Service, mode: str) -> asyncio.subprocess.Process:
    """Start the program in a session of its own: Ctrl-C in the terminal must reach only this process."""
    command = list(service.command)
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", str(tether.__file__), str(os.getpid()), *command]
    log = service.log.open(mode) if service.log is not None else None
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL if service.stdin is None else asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=service.directory,
            env={**os.environ, **service.environment},
            start_new_session=True,
        )
    finally:
        if log is not None:
            log.close()
    if process.stdin is not None and service.stdin is not None:
        process.stdin.write(service.stdin)
        process.stdin.close()
    return process


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


async def _insist(process: asyncio.subprocess.Process, ended: "asyncio.Task[int]", limit: float) -> None:
    """Signal it again, until it has ended or `limit` is over: a second SIGTERM says that the drain time is over."""
    ends = asyncio.get_running_loop().time() + limit
    while not ended.done() and (left := ends - asyncio.get_running_loop().time()) > 0:
        _signal(process, signal.SIGTERM)
        await asyncio.wait({ended}, timeout=min(left, AGAIN_SECONDS))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have none
        return f"signal {number}"
