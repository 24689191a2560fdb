"""The zygote of a pod: it outlives its door, and takes back what a former life left."""

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.eventually import eventually

from environments import environment
from kubeserve.runtime import frames
from replicas import PATIENCE, Zygote, command
from test_zygote import GOOD, gone

SLOW = "import time\nclass Model:\n    def predict(self, rows): time.sleep(600)"


class Staying(Zygote):
    """A zygote that stays, and its clients, one after the other."""

    def again(self) -> None:
        """Go, and come as the next client, which gives the same names to replicas."""
        self._count = 0
        self.control.close()
        self.control = socket.socket(socket.AF_UNIX)
        self.control.settimeout(PATIENCE)
        self.control.connect(str(self.run / "c"))
        self.hello = frames.receive(self.control) or {}

    def leave(self) -> None:
        self.process.terminate()
        super().leave()


@pytest.fixture(scope="module")
def python() -> Path:
    return environment(()) / "bin" / "python"


@pytest.fixture
def zygote(python: Path) -> Iterator[Staying]:
    with Staying(python, "--stay") as zygote:
        yield zygote


def test_the_next_client_finds_no_replica_of_the_former_one(zygote: Staying) -> None:
    model = zygote.place(GOOD, "good")
    for _ in range(3):
        replica = zygote.replica(model)
        assert replica.predict([1, 2]) == {"predictions": [3]}
        zygote.again()
        gone(replica.pid)
        assert zygote.hello["ready"]
    assert [path.name for path in zygote.run.iterdir() if path.suffix != ".log"] == ["c"]


def test_a_replica_in_the_middle_of_an_answer_ends_with_its_client(zygote: Staying) -> None:
    replica = zygote.replica(SLOW)
    replica.ask("ready")
    replica.say({"op": "predict", "instances": [[1]]})
    zygote.again()
    gone(replica.pid)
    assert zygote.replica(GOOD).predict([1]) == {"predictions": [1]}


def test_a_client_that_goes_before_it_was_greeted_costs_nothing(zygote: Staying) -> None:
    zygote.control.close()
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(zygote.run / "c"))
    zygote.again()
    assert zygote.replica(GOOD).predict([1]) == {"predictions": [1]}


def test_sigterm_ends_it_once_its_client_has_gone(python: Path) -> None:
    zygote = Staying(python, "--stay")
    replica = zygote.replica(GOOD)
    zygote.process.send_signal(signal.SIGTERM)
    assert replica.predict([5]) == {"predictions": [5]}
    assert zygote.process.poll() is None
    zygote.control.close()
    assert zygote.process.wait(PATIENCE) == 0
    zygote.leave()


async def test_sigterm_ends_it_at_once_without_a_client(python: Path) -> None:
    zygote = Staying(python, "--stay")
    zygote.control.close()
    await eventually(lambda: Path(f"/proc/{zygote.process.pid}/wchan").exists())
    zygote.process.send_signal(signal.SIGTERM)
    assert zygote.process.wait(PATIENCE) == 0
    zygote.leave()


def test_what_a_former_life_left_is_taken_over(python: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    argv = command(python, "zygote", "--stay", "--socket", str(tmp_path / "zygote.sock"), "--scratch", str(scratch))
    for life in range(2):
        process = subprocess.Popen(argv, env={}, stdin=subprocess.DEVNULL)  # noqa: S603  ours
        with process, socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE)
            while control.connect_ex(str(tmp_path / "zygote.sock")):
                assert process.poll() is None
            assert (frames.receive(control) or {})["ready"], life
            assert list(scratch.iterdir()) == []
            (scratch / "left").mkdir()
            (tmp_path / "replica.sock").touch()
            process.kill()
    assert process.returncode == -signal.SIGKILL


def test_the_group_reaches_its_sockets_and_nobody_else(zygote: Staying) -> None:
    replica = zygote.replica(GOOD)
    modes = {name: stat.S_IMODE((zygote.run / name).stat().st_mode) for name in ("c", replica.name)}
    assert modes == {"c": 0o770, replica.name: 0o770}


def test_without_a_file_for_it_what_a_model_writes_is_its_own_output(python: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        before = os.dup(1)
        os.dup2(out.fileno(), 1)
        try:
            zygote = Staying(python, "--stay")
        finally:
            os.dup2(before, 1)
            os.close(before)
    with zygote:
        model = zygote.place(
            "print('hello', flush=True)\nclass Model:\n    def predict(self, rows): return rows", "loud"
        )
        zygote.say({"op": "fork", "id": "r", "model": str(model), "format": "pickle", "log": None,
                    "socket": str(zygote.run / "r"), "limits": {}})  # fmt: skip
        assert zygote.hear(id="r")["pid"]
        zygote.say({"op": "kill", "id": "nobody"})
        with socket.socket(socket.AF_UNIX) as replica:
            replica.settimeout(PATIENCE)
            replica.connect(str(zygote.run / "r"))
            frames.send(replica, {"op": "ready"})
            assert (frames.receive(replica) or {})["ready"]
        zygote.say({"op": "kill", "id": "r"})
        zygote.hear(exited="r")
    assert (tmp_path / "out").read_text() == "hello\n"


def test_walls_below_the_minimum_are_told_to_a_client_and_end_it(python: Path) -> None:
    zygote = Staying(python, "--stay", "--minimum", '{"landlock": 99}')
    assert zygote.hello["error"]["code"] == "walls_missing"
    assert zygote.process.wait(PATIENCE) == 1
    zygote.leave()
