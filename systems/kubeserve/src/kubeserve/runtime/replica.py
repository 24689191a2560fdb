"""A replica: the forked child of a zygote that walls itself in, loads one model and answers frames, one by one.

It answers `ready` with the signature, the level of its walls and the seconds of loading; `predict` with predictions. A
model that could not be loaded answers each frame with why. The process ends when it is killed, or its zygote is.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from typing import Any, NamedTuple, NoReturn

from kubeserve.runtime import frames, kernel, landlock, loaders, walls
from kubeserve.runtime.refusals import RefusedError

_LISTENER = 3  # after stdin, stdout and stderr


class Origin(NamedTuple):
    """The zygote: its process id, the level of its walls, and the bytes that it maps and has as its own data."""

    pid: int
    level: dict[str, Any]
    sizes: tuple[int, int]


def become(request: dict[str, Any], listener: int, log: int, origin: Origin) -> NoReturn:
    """Turn this just forked process into a replica."""
    try:
        if kernel.die_with(origin.pid, signal.SIGKILL):
            _keep_only(listener, log)
            _Replica(request, origin).run()
    except BaseException:  # noqa: BLE001 - a fork must not run on in the zygote's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def _keep_only(listener: int, log: int) -> None:
    """Leave this process stdin (empty), stdout and stderr (the log) and the socket."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    spare = os.dup(log), os.dup(listener)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (spare[0], 1), (spare[0], 2), (spare[1], _LISTENER)):
        os.dup2(source, target)
    os.closerange(_LISTENER + 1, os.sysconf("SC_OPEN_MAX"))


class _Replica:
    def __init__(self, request: dict[str, Any], origin: Origin) -> None:
        self._request, self._level, self._sizes = request, dict(origin.level), origin.sizes
        self._limit = int(request["limits"].get("frame", frames.LIMIT))
        self._seconds: dict[str, float] = {}
        self._model: loaders.Loaded | None = None
        self._refused = RefusedError("load_failed", "the model is not loaded")

    def run(self) -> None:
        """Wall in, load, answer for ever."""
        gc.enable()
        listener = socket.socket(fileno=_LISTENER)
        began = time.monotonic()
        try:
            self._wall_in()
            self._seconds["walls"] = round(time.monotonic() - began, 4)
            began = time.monotonic()
            self._model = loaders.load(self._request["model"], self._request["format"])
            self._seconds["load"] = round(time.monotonic() - began, 4)
        except RefusedError as refused:
            traceback.print_exc()
            self._refused = refused
        self._serve(listener)

    def _wall_in(self) -> None:
        scratch = self._request["scratch"]
        walls.clean(scratch)
        os.chdir(scratch)
        self._level.update(walls.limit(self._request["limits"], self._sizes))
        grants = [(self._request["model"], landlock.READ), (scratch, landlock.SCRATCH)]
        self._level.update(walls.confine("model", grants))
        walls.demand(self._request["minimum"], self._level)

    def _serve(self, listener: socket.socket) -> None:
        """Whoever sends a frame is answered before the next is read, whichever connection it comes by."""
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is listener:
                        selector.register(listener.accept()[0], selectors.EVENT_READ)
                    elif isinstance(key.fileobj, socket.socket) and not self._answered(key.fileobj):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()

    def _answered(self, connection: socket.socket) -> bool:
        """Answer one frame; False where the connection is of no more use."""
        try:
            message = frames.receive(connection, self._limit)
        except frames.FrameError as error:
            code = "too_large" if isinstance(error, frames.FrameTooLargeError) else "bad_request"
            self._send(connection, {"error": {"code": code, "message": str(error)}})
            return False
        except OSError:
            return False
        return message is not None and self._send(connection, self._answer(message))

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        model, operation = self._model, message.get("op")
        try:
            if model is None:
                raise self._refused
            if operation == "predict":
                return {"predictions": model.predict(message.get("instances"))}
            if operation == "ready":
                told = {"kind": model.kind, "signature": model.signature, "notes": model.notes}
                return {"ready": True, **told, "level": self._level, "seconds": self._seconds}
        except RefusedError as refused:
            if refused.__cause__ is not None:  # what the model raised, for its owner
                traceback.print_exception(type(refused.__cause__), refused.__cause__, refused.__cause__.__traceback__)
            return {"error": refused.said()}
        return {"error": {"code": "bad_request", "message": "`op` is ready or predict"}}

    def _send(self, connection: socket.socket, answer: dict[str, Any]) -> bool:
        try:
            frames.send(connection, answer, self._limit)
        except frames.FrameTooLargeError as error:
            return self._send(connection, {"error": {"code": "too_large", "message": str(error)}})
        except MemoryError:
            return self._send(connection, {"error": {"code": "out_of_memory", "message": "the answer needs too much"}})
        except (OSError, ValueError, TypeError):
            return False
        return True
