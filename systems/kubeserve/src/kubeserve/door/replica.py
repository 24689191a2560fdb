"""One running model: a process behind walls, spoken to over a Unix socket (kubeserve/runtime/replica.py)."""

import asyncio
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import orjson

from kubeserve.door.frames import FrameError, read_frame, write_frame
from kubeserve.door.zygote import Exit, Zygote, ZygoteError
from kubeserve.places.logs import LARGEST_LOG, open_log
from kubeserve.places.workload import Replicable

LOAD_SECONDS: Final = 120.0
EXIT_SECONDS: Final = 1.0  # between a broken connection and the news of why the process ended
LARGEST_FILE: Final = 256 * 1024 * 1024
LARGEST_MESSAGE: Final = 500
LONGEST_FIELD: Final = 80


class StartError(Exception):
    """A replica did not come up. The message is one line that says why."""


class LostError(StartError):
    """The process that forks replicas ended, and the replica with it: no rows are to blame."""


class DiedError(Exception):
    """A replica died, or was killed as it took too long, while it had the rows."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RefusedError(Exception):
    """The model answered with an error. `index` and `field` say which row it is about, None where it names none."""

    def __init__(self, code: str, message: str, index: int | None, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.index = index
        self.field = field

    def of_row(self, index: int) -> "RefusedError":
        """The same, told to a call in which the row has this index."""
        message = re.sub(rf"\brow {self.index}\b", f"row {index}", str(self), count=1)
        return RefusedError(self.code, message, index, self.field)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one call or more: how many, and their JSON without the brackets, encoded once."""

    count: int
    encoded: bytes

    @classmethod
    def of(cls, rows: list[Any]) -> Self:
        """Encode the rows of one call."""
        return cls(len(rows), orjson.dumps(rows)[1:-1])

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Take the JSON of the rows of one call as it is. Raises ValueError if it is no list of at least one."""
        rows = orjson.loads(body)
        if not isinstance(rows, list) or not rows:
            raise ValueError("a list of at least one row is expected")
        return cls(len(rows), body.strip()[1:-1])

    @classmethod
    def joined(cls, many: Iterable["Rows"]) -> Self:
        """Put the rows of many calls behind each other."""
        many = list(many)
        return cls(sum(rows.count for rows in many), b",".join(rows.encoded for rows in many))


class Replica:
    """A loaded model. `died` is done when its process has ended. Calls are made one at a time, in their order."""

    def __init__(
        self,
        name: str,
        zygote: Zygote,
        *,
        died: "asyncio.Future[Exit]",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.died = died
        self._name = name
        self._zygote = zygote
        self._reader = reader
        self._writer = writer
        self._calling = asyncio.Lock()
        died.add_done_callback(lambda _: writer.close())

    @classmethod
    async def start(cls, name: str, zygote: Zygote, what: Replicable, log: Path) -> "Replica":
        """Fork one and wait until the model is loaded. Raises StartError; then nothing of it is left but its log.

        What the model writes can be read at `log`, in a folder that exists, while it runs and afterwards, unless it is
        another's to keep.
        """
        socket, written = zygote.folder / f"{name}.sock", zygote.log_of(name)
        request = {
            "model": str(what.model),
            "format": what.format.value,
            "socket": str(socket),
            "log": str(written) if written is not None else None,
            "limits": {"memory": what.memory, "file": LARGEST_FILE},
        }
        try:
            await zygote.start()
            died = await zygote.fork(name, request)
            if written is not None:
                _show(written, log)
                died.add_done_callback(partial(_keep, written, log))
            reader, writer = await asyncio.open_unix_connection(str(socket))
        except BaseException as error:
            await zygote.kill(name)
            if isinstance(error, (ZygoteError, OSError)):
                raise StartError(str(error)) from error
            raise
        replica = cls(name, zygote, died=died, reader=reader, writer=writer)
        try:
            await replica.loaded()
        except BaseException:
            await replica.stop()
            raise
        return replica

    async def loaded(self) -> None:
        """Wait until the model is loaded. Raises StartError."""
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                answer = await self._ask({"op": "ready"})
        except TimeoutError:
            raise StartError(f"the model was not loaded within {LOAD_SECONDS:g} s") from None
        except DiedError as error:
            raise StartError(str(error)) from error
        if not answer.get("ready"):
            raise StartError(str(_refusal(answer)))

    async def predict(self, rows: Rows, timeout: float) -> list[Any]:  # noqa: ASYNC109  it ends the process, too
        """Return one prediction for each row.

        Raises RefusedError where the model answers with an error, DiedError if the process ends, takes longer than
        `timeout` seconds (then it is killed) or answers what makes no sense, and LostError.
        """
        async with self._calling:
            try:
                async with asyncio.timeout(timeout):
                    instances = orjson.Fragment(b"[" + rows.encoded + b"]")
                    answer = await self._ask({"op": "predict", "instances": instances})
            except TimeoutError:
                await self.stop()
                raise DiedError("timeout", f"the model took longer than {timeout:g} s") from None
            except asyncio.CancelledError:
                await self.stop()  # its answer would be read as that to the next call
                raise
            predictions = answer.get("predictions")
            if isinstance(predictions, list) and len(predictions) == rows.count:
                return predictions
            if "error" in answer:
                raise _refusal(answer)
            await self.stop()
            raise DiedError("bad_prediction", "the process answered what is no list of one prediction for each row")

    async def stop(self) -> None:
        """Kill it."""
        self._writer.close()
        await self._zygote.kill(self._name)

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            await write_frame(self._writer, request)
            return await read_frame(self._reader)
        except (EOFError, OSError):
            await asyncio.wait({self.died}, timeout=EXIT_SECONDS)
            reason = self.died.result().reason if self.died.done() else "it closed its connection"
            await self.stop()
            if not self._zygote.alive:
                raise LostError(reason) from None
            raise DiedError("model_died", reason) from None
        except FrameError as error:
            await self.stop()
            raise DiedError("bad_prediction", f"the process sent {error}") from None


def _refusal(answer: dict[str, Any]) -> RefusedError:
    error = answer.get("error")
    told: dict[str, Any] = error if isinstance(error, dict) else {}
    index, field = told.get("index"), told.get("field")
    code, message = str(told.get("code") or "model_error")[:64], str(told.get("message") or "it says nothing")
    named = type(index) is int and index >= 0
    where = str(field)[:LONGEST_FIELD] if named and field is not None else None
    return RefusedError(code, message[:LARGEST_MESSAGE], index if named else None, where)


def _show(written: Path, log: Path) -> None:
    """Let `log` be what is written now."""
    log.unlink(missing_ok=True)
    log.symlink_to(written)


def _keep(written: Path, log: Path, _: "asyncio.Future[Exit]") -> None:
    keep_log(written, log)


def keep_log(written: Path, log: Path) -> None:
    """Let `log` be what was written. The tenant's code may have had its hands on that: it is no more than a log."""
    aside = log.with_suffix(".new")
    try:
        with open_log(written) as file:
            aside.write_bytes(file.read(LARGEST_LOG))
        os.replace(aside, log)  # noqa: PTH105  the same, and says what it does
        written.unlink()
    except OSError:
        aside.unlink(missing_ok=True)
