"""A zygote and its replicas for tests, and models written as the source of a class."""

import json
import pickle
import select
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kubeserve import runtime
from kubeserve.runtime import frames

RUNTIME = Path(runtime.__file__).parent
PATIENCE = 60.0
MEMORY = 512 * 1024 * 1024
FILE = 8 * 1024 * 1024
LIMITS = {"memory": MEMORY, "cpu": 20, "file": FILE}


class Ended(Exception):  # noqa: N818 - an ending is what many tests wait for
    """The replica closed the connection."""


class _Written:
    def __init__(self, source: str) -> None:
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        build = "(lambda space: (exec(space['source'], space), space['Model']())[1])"
        return eval, (f"{build}({{'source': {self.source!r}}})",)


def pickled(source: str) -> bytes:
    """A pickle that runs this source when it is loaded; the source defines a class Model."""
    return pickle.dumps(_Written(source))


def command(python: Path, *arguments: str) -> list[str]:
    return [str(python), "-I", "-S", "-B", str(RUNTIME), *arguments]


def prove(python: Path, place: Path, content: bytes | str, **request: Any) -> tuple[int, list[dict[str, Any]], str]:
    """The exit status, the lines and what the model printed."""
    model, scratch = place / "model", place / "scratch"
    model.write_bytes(pickled(content) if isinstance(content, str) else content)
    scratch.mkdir(exist_ok=True)
    whole = {"model": str(model), "format": "pickle", "scratch": str(scratch), "sample": None, "limits": LIMITS}
    done = subprocess.run(  # noqa: S603 - ours
        command(python, "prove"), input=json.dumps({**whole, **request}).encode(),
        capture_output=True, timeout=PATIENCE, env={}, check=False,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


class Replica:
    def __init__(self, zygote: "Zygote", name: str, pid: int) -> None:
        self.zygote, self.name, self.pid = zygote, name, pid
        self.log = zygote.run / f"{name}.log"
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(PATIENCE)
        self._connection.connect(str(zygote.run / name))

    def close(self) -> None:
        self._connection.close()

    def say(self, message: dict[str, Any]) -> None:
        frames.send(self._connection, message)

    def hear(self) -> dict[str, Any]:
        """The next answer. Raises Ended."""
        try:
            answer = frames.receive(self._connection)
        except (ConnectionError, frames.FrameError) as error:
            raise Ended from error
        if answer is None:
            raise Ended
        return answer

    def silent(self, seconds: float) -> bool:
        return not select.select([self._connection], [], [], seconds)[0]

    def ask(self, operation: str, instances: Any = None) -> dict[str, Any]:
        self.say({"op": operation, "instances": instances})
        return self.hear()

    def predict(self, *rows: Any) -> dict[str, Any]:
        return self.ask("predict", list(rows))

    def stop(self) -> dict[str, Any]:
        """How it ended, once it has."""
        self.zygote.say({"op": "kill", "id": self.name})
        return self.ended()

    def ended(self) -> dict[str, Any]:
        self.close()
        return self.zygote.hear(exited=self.name)


class Zygote:
    """A zygote with directories of its own: `run` for sockets and logs, `models`, `scratch`."""

    def __init__(self, python: Path, *arguments: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ks-"))
        self.run, self.models, self.scratch = (self.root / name for name in ("run", "models", "scratch"))
        for place in (self.run, self.models, self.scratch):
            place.mkdir()
        places = ("--socket", str(self.run / "c"), "--models", str(self.models), "--scratch", str(self.scratch))
        argv = command(python, "zygote", *places, *arguments)
        self.process = subprocess.Popen(argv, env={}, stdin=subprocess.DEVNULL)  # noqa: S603 - ours
        self.control = socket.socket(socket.AF_UNIX)
        self.control.settimeout(PATIENCE)
        self._heard: list[dict[str, Any]] = []
        self._replicas: list[Replica] = []
        self._count = 0
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                self.control.connect(str(self.run / "c"))
                break
            except OSError:
                assert time.monotonic() < ends
                assert self.process.poll() is None
                time.sleep(0.01)
        self.hello = frames.receive(self.control) or {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leave()

    def leave(self) -> None:
        """Go, as a client does, and wait until all has ended."""
        self.control.close()
        for replica in self._replicas:
            replica.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            shutil.rmtree(self.root)

    def say(self, message: dict[str, Any]) -> None:
        frames.send(self.control, message)

    def hear(self, **wanted: Any) -> dict[str, Any]:
        """The first message with these values; others are kept for who asks for them."""
        while True:
            for message in self._heard:
                if wanted.items() <= message.items():
                    self._heard.remove(message)
                    return message
            message = frames.receive(self.control)
            assert message is not None, f"the zygote went before it said {wanted}"
            self._heard.append(message)

    def place(self, content: bytes | str, name: str) -> Path:
        """A model file; a text is the source of a class Model."""
        path = self.models / name
        path.write_bytes(pickled(content) if isinstance(content, str) else content)
        return path

    def asked(self, model: Path, form: str = "pickle", **more: Any) -> tuple[str, dict[str, Any]]:
        """Ask for a replica; its name, and what the zygote answered."""
        self._count += 1
        name = f"r{self._count}"
        limits = {"memory": MEMORY, "file": FILE, **more.pop("limits", {})}
        places = {"socket": str(self.run / name), "log": str(self.run / f"{name}.log")}
        self.say({"op": "fork", "id": name, "model": str(model), "format": form, "limits": limits, **places, **more})
        return name, self.hear(id=name)

    def replica(self, model: Path | bytes | str, form: str = "pickle", **more: Any) -> Replica:
        if not isinstance(model, Path):
            model = self.place(model, f"m{self._count + 1}.{form}")
        name, answer = self.asked(model, form, **more)
        self._replicas.append(Replica(self, name, answer["pid"]))
        return self._replicas[-1]
