"""A process that forks the replicas of one tenant in one environment, as the door speaks to it.

Its other side is kubeserve/runtime/zygote.py.
"""

import asyncio
import math
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import structlog

from kubeserve.door.frames import FrameError, read_frame, write_frame

START_SECONDS: Final = 60.0  # the imports of an environment on a cold disk
FORK_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.01
LARGEST_FRAME: Final = 64 * 1024
FRAMES: Final = 2  # that one request is answered with at most: it is done, and later that the replica has ended
LOOK_SECONDS: Final = 1.0
BARRED_SECONDS: Final = 60.0
LARGEST_FOLDER: Final = 512 * 1024 * 1024  # bytes: sockets, logs, and scratch where that is no file system of its own
MOST_FILES: Final = 10_000
ENDED: Final = "the environment's interpreter ended"
log = structlog.get_logger()


class ZygoteError(Exception):
    """The process does not start, or has ended. The message is one line for the owner of the model."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a replica ended: one line."""

    reason: str


class Zygote(ABC):
    """Is told to fork and to kill replicas, each of which walls itself in, and tells how they ended.

    `folder` is where its socket lies, and where its replicas' sockets and logs have to lie. All of its replicas die
    with it. How it is reached, and ended, is the matter of its kinds.
    """

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder = folder
        self._socket = socket
        self._writer: asyncio.StreamWriter | None = None
        self._forks: dict[str, asyncio.Future[None]] = {}
        self._exits: dict[str, asyncio.Future[Exit]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._barred_until = -math.inf
        self._owed = 0  # frames that may still come
        self._reason = ENDED
        self._starting = asyncio.Lock()
        self._stopped = False

    @property
    def alive(self) -> bool:
        """Whether it can fork."""
        return self._reading is not None and not self._reading.done()

    def log_of(self, name: str) -> Path | None:
        """Return the file that a replica's log is to be written to; None where others keep it."""
        return self.folder / f"{name}.log"

    @abstractmethod
    async def _begin(self) -> None:
        """Let it come up, as far as that is ours to do. Raises OSError."""

    @abstractmethod
    def _gone(self) -> bool:
        """Return whether there is no use in waiting for its socket."""

    @abstractmethod
    def _last_words(self) -> str:
        """Return one line about why it does not come up, empty where nothing is known."""

    @abstractmethod
    def _break(self) -> None:
        """Have it end its replicas, without waiting."""

    async def _end(self) -> None:
        """End it, as far as that is ours to do."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def start(self) -> None:
        """Start it if it does not run. Raises ZygoteError, also once it was stopped."""
        async with self._starting:
            if self._stopped:
                raise ZygoteError("the environment's interpreter was stopped")
            if not self.alive:
                if monotonic() < self._barred_until:
                    raise ZygoteError(self._reason)
                await self._end()
                await self._start()

    async def _start(self) -> None:
        try:
            await self._begin()
            async with asyncio.timeout(START_SECONDS):
                reader, self._writer = await self._connect()
                hello = await read_frame(reader, LARGEST_FRAME)
        except BaseException as error:
            await self._end()
            if isinstance(error, (EOFError, FrameError, OSError)):
                raise ZygoteError(
                    f"the environment's interpreter does not start: {self._last_words() or error}"
                ) from error
            raise
        if not hello.get("ready"):
            await self._end()
            raise ZygoteError(f"the environment's interpreter does not start: {_message(hello)}")
        self._owed, self._reason = 0, ENDED
        self._reading = asyncio.create_task(self._read(reader))
        self._watching = asyncio.create_task(self._watch(self._reading))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            if self._stopped or self._gone():
                raise OSError("it has ended")
            with suppress(FileNotFoundError, ConnectionRefusedError):
                return await asyncio.open_unix_connection(str(self._socket))
            await asyncio.sleep(POLL_SECONDS)

    async def fork(self, name: str, request: dict[str, Any]) -> "asyncio.Future[Exit]":
        """Fork a replica. Return a future of its end. Raises ZygoteError; `kill` it then: it may come up later."""
        if self._writer is None or not self.alive:
            raise ZygoteError("the environment's interpreter has ended")
        loop = asyncio.get_running_loop()
        forked = self._forks[name] = loop.create_future()
        ended = self._exits[name] = loop.create_future()
        self._owed += FRAMES
        try:
            await write_frame(self._writer, {"op": "fork", "id": name, **request})
            async with asyncio.timeout(FORK_SECONDS):
                await forked
        except OSError as error:  # too late counts as one
            raise ZygoteError("the environment's interpreter does not answer") from error
        finally:
            self._forks.pop(name, None)
        return ended

    async def kill(self, name: str) -> None:
        """Kill a replica and wait until it is gone. One that has ended already is fine.

        A zygote that does not say so in time is ended with all its replicas.
        """
        ended = self._exits.get(name)
        if ended is None or ended.done() or self._writer is None or not self.alive:
            return
        with suppress(OSError):
            async with asyncio.timeout(FORK_SECONDS):
                await write_frame(self._writer, {"op": "kill", "id": name})
                await asyncio.wait({ended})
        if not ended.done():
            self._break()

    async def stop(self) -> None:
        """End it and its replicas, for good."""
        self._stopped = True
        tasks = {task for task in (self._reading, self._watching) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._end()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._take(await read_frame(reader, LARGEST_FRAME))
        except FrameError as error:
            self._give_no_more(f"the environment's interpreter sent {error}")
        except (EOFError, OSError):
            pass
        finally:
            self._give_up(self._reason)

    async def _watch(self, reading: asyncio.Task[None]) -> None:
        """End it, and its replicas, when what they have written is too much."""
        while not reading.done():
            await asyncio.sleep(LOOK_SECONDS)
            size, count = await asyncio.to_thread(_filled, self.folder)
            if size > LARGEST_FOLDER or count > MOST_FILES:
                self._give_no_more(
                    f"what its packages and models write takes more than {LARGEST_FOLDER:,} bytes or {MOST_FILES} files"
                )
                return

    def _give_no_more(self, reason: str) -> None:
        """End it for what the tenant's code does in it, and start it again only after a while."""
        log.warning("zygote_ended", reason=reason)
        self._reason, self._barred_until = reason, monotonic() + BARRED_SECONDS
        self._break()

    def _take(self, frame: dict[str, Any]) -> None:
        if not self._owed:
            raise FrameError("what it was not asked for")
        self._owed -= 1
        name = str(frame.get("exited") or frame.get("id") or "")
        if "exited" in frame:
            ended = self._exits.pop(name, None)
            if ended is not None and not ended.done():
                ended.set_result(Exit(str(frame.get("reason") or "it ended")[:500]))
            return
        forked = self._forks.get(name)
        if "error" in frame:
            ended = self._exits.pop(name, None)
            if ended is not None and not ended.done():
                ended.set_result(Exit(_message(frame)))
        if forked is None or forked.done():
            return
        if "error" in frame:
            forked.set_exception(ZygoteError(_message(frame)))
        else:
            forked.set_result(None)

    def _give_up(self, reason: str) -> None:
        for forked in self._forks.values():
            if not forked.done():
                forked.set_exception(ZygoteError(reason))
        for ended in self._exits.values():
            if not ended.done():
                ended.set_result(Exit(reason))
        self._exits.clear()


def _message(frame: dict[str, Any]) -> str:
    error = frame.get("error")
    return str(error.get("message") if isinstance(error, dict) else error)[:500]


def _filled(folder: Path) -> tuple[int, int]:
    """Return the bytes and the files in a folder; those beyond `MOST_FILES` are not looked at."""
    size = count = 0
    for place, folders, names in os.walk(folder):
        count += len(folders)
        for name in names:
            count += 1
            with suppress(OSError):  # gone meanwhile
                size += Path(place, name).lstat().st_blocks * 512
            if count > MOST_FILES:
                return size, count
    return size, count
