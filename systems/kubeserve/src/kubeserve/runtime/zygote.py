"""A process that imports a tenant's environment once and forks a replica whenever it is told to.

One client tells it, over the control socket; when the client or the parent goes, the replicas and this process end. As
the first process of a container (`--stay`) it has one client after the other instead.

Everything here runs within walls, for what is imported is the tenant's code: it reaches the environment, `--models`
and the directory of the control socket, where the sockets and logs of replicas lie too. It has one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import resource
import selectors
import shutil
import signal
import site
import socket
import sys
import time
from pathlib import Path
from typing import Any

from kubeserve.runtime import endings, frames, kernel, landlock, loaders, replica, walls
from kubeserve.runtime.logs import Log
from kubeserve.runtime.refusals import RefusedError, one_line

_PATIENCE = 30.0  # for the client to connect, once all is imported
_LARGEST_FILE = 256 * 1024 * 1024  # that a package may write at its import
_WAKE = "wake"


def main(arguments: list[str]) -> int:
    """Exit status 0 when the client went, 1 where the walls are below the minimum or no client came.

    With `--stay`, 0 once SIGTERM has come and no client is there: a door may end what it does.
    """
    options = _options(arguments)
    term = _Term()
    if options.stay:
        _settle(options, term)
    elif not kernel.die_with(os.getppid(), signal.SIGKILL):
        return 1
    statm = os.open("/proc/self/statm", os.O_RDONLY)  # within the walls it cannot be opened
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(options.socket)
        listener.listen(128)  # clients that gave up before they were greeted wait there, too
        try:
            level = _wall_in(options)
            hello = {"ready": True, "level": level, **_preload(options.preload.split(","))}
        except RefusedError as refused:
            level, hello = {}, {"error": refused.said()}
            sys.stderr.write(f"{refused}\n")
        if not options.stay:
            return _serve_one(listener, options, hello, statm)
        while True:
            with term.next_client(listener) as control:
                if _serve(control, options, hello, statm):
                    return 1


def _serve_one(listener: socket.socket, options: argparse.Namespace, hello: dict[str, Any], statm: int) -> int:
    listener.settimeout(_PATIENCE)
    try:
        control, _ = listener.accept()
    except OSError:  # its time is up
        return 1
    listener.close()
    Path(options.socket).unlink(missing_ok=True)
    control.settimeout(None)
    return _serve(control, options, hello, statm)


def _serve(control: socket.socket, options: argparse.Namespace, hello: dict[str, Any], statm: int) -> int:
    """Until the client goes; 1 where it could only be told why no model is loaded here."""
    with contextlib.suppress(OSError):  # it went before it was told
        frames.send(control, hello)
    return 1 if "error" in hello else _Zygote(control, options, hello["level"], statm).run()


class _Term:
    """SIGTERM ends this process at once while it has no client, else when that has gone."""

    def __init__(self) -> None:
        self._came, self._alone = False, True

    def __call__(self, *_: object) -> None:
        self._came = True
        if self._alone:
            os._exit(0)  # nothing is left to clear, and no package that is imported may object

    def next_client(self, listener: socket.socket) -> socket.socket:
        self._alone = True
        if self._came:
            os._exit(0)
        control, _ = listener.accept()
        self._alone = False
        return control


def _settle(options: argparse.Namespace, term: _Term) -> None:
    """Take over the directories of a container: what a former life left there goes, and the group reaches what comes.

    SIGTERM is handled, for the first process of a container has no default action for it.
    """
    signal.signal(signal.SIGTERM, term)
    os.umask(0o007)
    for left in Path(options.socket).absolute().parent.glob("*.sock"):
        left.unlink()
    shutil.rmtree(options.scratch, ignore_errors=True)
    Path(options.scratch).mkdir(exist_ok=True)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="zygote", allow_abbrev=False)
    parser.add_argument("--socket", required=True, help="where the control socket is to be: in a directory of its own")
    parser.add_argument("--models", action="append", default=[], help="a directory that replicas may load from")
    parser.add_argument("--scratch", required=True, help="an empty directory, for the scratch of replicas")
    parser.add_argument("--scratch-size", type=int, default=256 * 1024 * 1024, help="bytes, of all replicas together")
    parser.add_argument("--preload", default="", help="modules to import, by commas")
    parser.add_argument("--stay", action="store_true", help="outlive clients and the parent, until SIGTERM")
    parser.add_argument("--minimum", type=json.loads, default={}, help="the least level of walls, as JSON")
    return parser.parse_args(arguments)


def _wall_in(options: argparse.Namespace) -> dict[str, Any]:
    run = str(Path(options.socket).absolute().parent)
    level = walls.enclose(options.scratch, options.scratch_size)
    walls.clean(options.scratch)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    models = [(path, landlock.READ) for path in options.models]
    level.update(walls.confine("zygote", [*models, (run, landlock.RUN), (options.scratch, landlock.SCRATCH)]))
    walls.demand({wall: least for wall, least in options.minimum.items() if wall != "rlimits"}, level)
    return level


def _preload(modules: list[str]) -> dict[str, Any]:
    """Import what is there; answers the seconds, and why a module could not be imported."""
    began = time.monotonic()
    if sys.flags.no_site:
        site.main()
    failed = {module: why for module in modules if module and (why := _why_not_imported(module))}
    gc.collect()
    gc.freeze()  # a child that collects does not copy these pages
    gc.disable()
    return {"seconds": round(time.monotonic() - began, 4), "failed": failed}


def _why_not_imported(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except BaseException as error:  # noqa: BLE001 - the module is the tenant's
        return one_line(error)
    return None


class _Child:
    """A replica that runs: what it is called, where its socket and scratch are, and its log."""

    def __init__(self, request: dict[str, Any], log: Log) -> None:
        self.id, self.socket, self.scratch = request["id"], request["socket"], request["scratch"]
        self.log, self.asked = log, False

    def clear(self) -> None:
        """Leave nothing of it but the text of its log."""
        self.log.close()
        Path(self.socket).unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)


class _Zygote:
    def __init__(self, control: socket.socket, options: argparse.Namespace, level: dict[str, Any], statm: int) -> None:
        self._control, self._level, self._statm = control, level, statm
        self._run, self._scratch = Path(options.socket).absolute().parent, Path(options.scratch)
        self._children: dict[int, _Child] = {}  # by process id
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Until the client goes."""
        woken, wakes = os.pipe()
        for end in (woken, wakes):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakes)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(woken, selectors.EVENT_READ, _WAKE)
        try:
            with contextlib.suppress(frames.FrameError, OSError):  # of the control connection: the client went
                while self._served(woken):
                    self._reap()
        finally:
            self._end()
            signal.set_wakeup_fd(-1)
            self._selector.close()
            os.close(woken)
            os.close(wakes)
        return 0

    def _served(self, woken: int) -> bool:
        """Wait for something to do, and do it; False when the client went."""
        for key, _ in self._selector.select():
            if key.fileobj is self._control:
                message = frames.receive(self._control)
                if message is None:
                    return False
                self._obey(message)
            elif key.data == _WAKE:
                os.read(woken, 4096)
            elif key.data.open and not key.data.pump():
                self._selector.unregister(key.fileobj)
                key.data.close()
        return True

    def _obey(self, message: dict[str, Any]) -> None:
        known = message.get("id")
        if message.get("op") == "kill":
            self._kill(known)
            return
        try:
            answer = {"id": known, "pid": self._fork(self._checked(message))}
        except RefusedError as refused:
            answer = {"id": known, "error": refused.said()}
        except OSError as error:
            answer = {"id": known, "error": {"code": "fork_failed", "message": str(error)}}
        frames.send(self._control, answer)

    def _checked(self, message: dict[str, Any]) -> dict[str, Any]:
        """A request to fork with all its parts. Raises RefusedError `bad_request`."""
        if message.get("op") != "fork":
            raise RefusedError("bad_request", "`op` is fork or kill", field="op")
        message.setdefault("log", None)
        for name in ("id", "model", "format", "socket", "log"):
            if not isinstance(message.get(name), str) and (name != "log" or message[name] is not None):
                raise RefusedError("bad_request", f"`{name}` is a text", field=name)
        if message["format"] not in loaders.FORMS:
            raise RefusedError("bad_request", f"`format` is one of {', '.join(loaders.FORMS)}", field="format")
        if any(child.id == message["id"] for child in self._children.values()):
            raise RefusedError("bad_request", f"{message['id']} runs already", field="id")
        for name in ("socket", "log"):
            if message[name] is not None and Path(message[name]).parent != self._run:
                raise RefusedError("bad_request", f"`{name}` is a file in {self._run}", field=name)
        for name in ("limits", "minimum"):
            message[name] = message.get(name) or {}
            if not isinstance(message[name], dict):
                raise RefusedError("bad_request", f"`{name}` is an object", field=name)
        message["scratch"] = str(self._scratch / f"{Path(message['socket']).name}.d")
        return message

    def _fork(self, request: dict[str, Any]) -> int:
        """The socket listens before the fork: who connects at once waits for its answer."""
        log = Log(request["log"])
        child = _Child(request, log)
        origin = replica.Origin(os.getpid(), self._level, walls.sizes(self._statm))
        try:
            Path(request["scratch"]).mkdir(exist_ok=True)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                Path(request["socket"]).unlink(missing_ok=True)
                listener.bind(request["socket"])
                listener.listen(128)
                pid = os.fork()
                if pid == 0:
                    replica.become(request, listener.fileno(), log.sink, origin)
        except OSError:
            child.clear()
            raise
        log.close_sink()
        self._children[pid] = child
        self._selector.register(log.source, selectors.EVENT_READ, log)
        return pid

    def _kill(self, known: Any) -> None:
        for pid, child in self._children.items():
            if child.id == known:
                child.asked = True
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Tell the client of those that have ended, and clear up after them."""
        while self._children:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                self._clear(child)
                frames.send(self._control, _exited(child, pid, status, used))

    def _clear(self, child: _Child) -> None:
        if child.log.open:
            child.log.drain()
            self._selector.unregister(child.log.source)
        child.clear()

    def _end(self) -> None:
        for pid in self._children:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid, child in self._children.items():
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)
                self._clear(child)


def _exited(child: _Child, pid: int, status: int, used: resource.struct_rusage) -> dict[str, Any]:
    by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    why = endings.reason(by, code, asked=child.asked)
    cost = {"cpu": round(used.ru_utime + used.ru_stime, 4), "rss": used.ru_maxrss * 1024}
    return {"exited": child.id, "pid": pid, "signal": by, "status": code, "reason": why, **cost}
