"""A zygote and its replicas: what is asked and answered, and that none outlives those it belongs to."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from environments import environment
from kubeserve.runtime import frames
from replicas import PATIENCE, Ended, Zygote, command, pickled

GOOD = "class Model:\n    def predict(self, rows): return [sum(row) for row in rows]"


@pytest.fixture(scope="module")
def python() -> Path:
    return environment(()) / "bin" / "python"


@pytest.fixture
def zygote(python: Path) -> Iterator[Zygote]:
    with Zygote(python) as zygote:
        yield zygote


def gone(*pids: int) -> None:
    """Wait until these processes have ended."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([handle], [], [], PATIENCE)[0], f"{pid} lives on"
        finally:
            os.close(handle)


def test_it_says_what_was_imported_and_what_was_not(python: Path) -> None:
    with Zygote(python, "--preload", "decimal,nothing_of_that_name") as zygote:
        assert zygote.hello["ready"]
        assert list(zygote.hello["failed"]) == ["nothing_of_that_name"]


def test_a_replica_is_ready_with_its_signature_and_answers_in_order(zygote: Zygote) -> None:
    replica = zygote.replica(GOOD)
    ready = replica.ask("ready")
    assert (ready["ready"], ready["signature"]["kind"], ready["level"]["rlimits"]) == (True, "tabular", True)
    for number in range(3):
        replica.say({"op": "predict", "instances": [[number, 1]]})
    assert [replica.hear()["predictions"] for _ in range(3)] == [[1], [2], [3]]


def test_many_replicas_and_many_connections_to_one(zygote: Zygote) -> None:
    model = zygote.place(GOOD, "good")
    replicas = [zygote.replica(model) for _ in range(4)]
    assert [replica.predict([n]) for n, replica in enumerate(replicas)] == [{"predictions": [n]} for n in range(4)]
    with socket.socket(socket.AF_UNIX) as second:
        second.connect(str(zygote.run / replicas[0].name))
        frames.send(second, {"op": "predict", "instances": [[7]]})
        assert frames.receive(second) == {"predictions": [7]}
    assert replicas[0].predict([8]) == {"predictions": [8]}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"op": "spoon"}, "op"),
        ({"format": "tar"}, "format"),
        ({"model": 3}, "model"),
        ({"socket": "/tmp/elsewhere"}, "socket"),  # noqa: S108 - it is refused
        ({"log": "/etc/log"}, "log"),
        ({"limits": 3}, "limits"),
    ],
)
def test_a_request_that_is_wrong_is_told_by_its_field(wrong: dict[str, object], field: str, zygote: Zygote) -> None:
    places = {"socket": str(zygote.run / "r"), "log": str(zygote.run / "r.log")}
    zygote.say({"op": "fork", "id": "r", "model": "m", "format": "pickle", **places, **wrong})
    assert zygote.hear(id="r")["error"]["field"] == field
    assert zygote.replica(GOOD).predict([1]) == {"predictions": [1]}


def test_what_is_imported_reaches_nothing_of_others(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([find_uv_bin(), "-q", "venv", "--python", sys.executable, str(venv)], check=True, timeout=60)  # noqa: S603
    (next(venv.glob("lib/python*/site-packages")) / "prying.py").write_text(
        "import os, socket\nfound = []\n"
        "for what in (lambda: open('/etc/passwd'), lambda: open(f'/proc/{os.getppid()}/environ').read(),\n"
        "    lambda: open(f'/proc/{os.getppid()}/mem', 'rb').read(1), lambda: os.listdir(f'/proc/{os.getppid()}/fd'),\n"
        "    lambda: os.kill(os.getppid(), 0), lambda: socket.create_connection(('127.0.0.1', 1)),\n"
        "    lambda: socket.socket(socket.AF_UNIX).connect('/run/x'), lambda: os.execv('/bin/true', ['true'])):\n"
        "    try: found.append(what())\n    except PermissionError: pass\n"
        "if found: raise RuntimeError(found)\n"
    )
    with Zygote(venv / "bin" / "python", "--preload", "prying") as zygote:
        assert zygote.hello["failed"] == {}
        assert zygote.replica(GOOD).predict([1]) == {"predictions": [1]}


def test_a_name_runs_once(zygote: Zygote) -> None:
    replica = zygote.replica(GOOD)
    zygote.say({
        "op": "fork", "id": replica.name, "model": "m", "format": "pickle",
        "socket": str(zygote.run / "x"), "log": str(zygote.run / "x.log"),
    })  # fmt: skip
    assert "runs already" in zygote.hear(id=replica.name)["error"]["message"]


def test_a_path_that_is_too_long_for_a_socket_leaves_nothing(zygote: Zygote) -> None:
    long = str(zygote.run / ("x" * 120))
    zygote.say({
        "op": "fork", "id": "r", "model": "m", "format": "pickle", "socket": long, "log": str(zygote.run / "r.log"),
    })  # fmt: skip
    assert zygote.hear(id="r")["error"]["code"] == "fork_failed"
    assert zygote.replica(GOOD).predict([1]) == {"predictions": [1]}


def test_a_model_outside_of_what_the_zygote_may_read_is_told(zygote: Zygote, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(pickled(GOOD))
    assert zygote.replica(tmp_path / "model").ask("ready")["error"]["code"] == "load_failed"


def test_a_frame_that_is_too_large_is_refused_unread(zygote: Zygote) -> None:
    replica = zygote.replica(GOOD, limits={"frame": 1000})
    replica.say({"op": "predict", "instances": [[1] * 1000]})
    assert replica.hear()["error"]["code"] == "too_large"
    with pytest.raises(Ended):
        replica.hear()


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"op":NaN}', b"\xff", b"{}", b'{"op":"spoon"}'])
def test_a_frame_that_says_nothing_is_told(body: bytes, zygote: Zygote) -> None:
    replica = zygote.replica(GOOD)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(zygote.run / replica.name))
        raw.sendall(len(body).to_bytes(4, "big") + body)
        assert (frames.receive(raw) or {})["error"]["code"] == "bad_request"
    assert replica.predict([1]) == {"predictions": [1]}


def test_when_the_client_goes_all_end_and_nothing_but_the_logs_is_left(python: Path) -> None:
    zygote = Zygote(python)
    pids = [zygote.replica(source).pid for source in (GOOD, "while True: pass", "import time; time.sleep(600)")]
    zygote.control.close()
    assert zygote.process.wait(PATIENCE) == 0
    gone(*pids)
    assert {path.suffix for path in zygote.run.iterdir()} <= {".log"}
    zygote.leave()


def test_when_the_zygote_is_killed_its_replicas_end(python: Path) -> None:
    zygote = Zygote(python)
    pids = [zygote.replica(source).pid for source in (GOOD, "while True: pass")]
    zygote.process.send_signal(signal.SIGKILL)
    gone(*pids)
    zygote.leave()


def test_when_its_parent_is_killed_the_zygote_ends(python: Path, tmp_path: Path) -> None:
    argv = command(python, "zygote", "--socket", str(tmp_path / "c"), "--scratch", str(tmp_path))
    script = f"import subprocess, sys; print(subprocess.Popen({argv!r}).pid, flush=True); sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        while not (tmp_path / "c").exists():  # before, it would end for want of a client
            time.sleep(0.01)
        parent.kill()
    gone(pid)


def test_walls_below_the_minimum_are_told_and_end_it(python: Path) -> None:
    zygote = Zygote(python, "--minimum", '{"landlock": 99}')
    assert zygote.hello["error"]["code"] == "walls_missing"
    assert zygote.process.wait(PATIENCE) == 1
    zygote.leave()
