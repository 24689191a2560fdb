"""The proof of a model file: each step told, and nothing of the environment runs outside the walls."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

from environments import environment
from replicas import LIMITS, PATIENCE, command, pickled, prove

GOOD = "class Model:\n    def predict(self, rows): return [len(rows)] * len(rows)"


@pytest.fixture(scope="module")
def python() -> Path:
    """An environment with nothing in it."""
    return environment(()) / "bin" / "python"


def test_each_step_is_told_and_what_the_model_prints_is_not_among_them(python: Path, tmp_path: Path) -> None:
    status, lines, printed = prove(python, tmp_path, f"print('hello')\n{GOOD}", sample=[[1], [2]])
    assert [line["step"] for line in lines] == ["walls", "loaded", "predicted"]
    assert lines[1]["signature"]["kind"] == "tabular"
    assert lines[2]["predictions"] == [2, 2]
    assert (status, printed.strip()) == (0, "hello")


def test_the_walls_are_told(python: Path, tmp_path: Path) -> None:
    level = prove(python, tmp_path, GOOD, sample=[[1]])[1][0]["level"]
    assert set(level) == {"landlock", "seccomp", "namespaces", "scratch", "rlimits", "uid"}
    assert level["seccomp"]


@pytest.mark.parametrize("minimum", [{"landlock": 99}, {"namespaces": ["time"]}, {"seccomp": 2}, {"moat": True}])
def test_a_level_below_the_minimum_is_refused_before_anything_is_loaded(
    minimum: dict[str, Any], python: Path, tmp_path: Path
) -> None:
    status, lines, printed = prove(python, tmp_path, "print('loaded')", minimum=minimum)
    assert lines[-1]["error"]["code"] == "walls_missing"
    assert lines[-1]["error"]["stage"] == "walls"
    assert (status, printed) == (1, "")


REFUSED = {
    "reads a file": ("open('/etc/passwd')", "load_failed", "load"),
    "takes 10 GB": ("bytearray(10 * 2**30)", "out_of_memory", "load"),
    "exits": ("raise SystemExit(0)", "load_failed", "load"),
    "does not tell what it takes": (GOOD, "sample_needed", "predict"),
    "predicts 9 MB": ("class Model:\n    def predict(self, rows): return ['x' * 9 * 2**20]", "too_large", "predict"),
}


@pytest.mark.parametrize(("source", "code", "stage"), REFUSED.values(), ids=REFUSED.keys())
def test_a_model_that_is_refused_is_told_why(source: str, code: str, stage: str, python: Path, tmp_path: Path) -> None:
    sample = None if code == "sample_needed" else [[1]]
    status, lines, _ = prove(python, tmp_path, source, sample=sample)
    assert (lines[-1]["error"]["code"], lines[-1]["error"]["stage"], status) == (code, stage, 1)


@pytest.mark.parametrize("deaf", ["", "import signal; signal.signal(24, signal.SIG_IGN)"])
def test_a_proof_ends_when_its_cpu_time_is_used_up(deaf: str, python: Path, tmp_path: Path) -> None:
    status, lines, _ = prove(python, tmp_path, f"{deaf}\nwhile True: pass", limits={**LIMITS, "cpu": 1})
    assert -status in {signal.SIGXCPU, signal.SIGKILL}
    assert [line["step"] for line in lines] == ["walls"]


def test_a_request_that_is_none_is_told(python: Path) -> None:
    done = subprocess.run(command(python, "prove"), input=b"[]", capture_output=True, timeout=PATIENCE, check=False)  # noqa: S603
    assert json.loads(done.stdout)["error"]["code"] == "bad_request"


def test_what_an_environment_runs_at_start_runs_within_the_walls(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([find_uv_bin(), "-q", "venv", "--python", sys.executable, str(venv)], check=True, timeout=60)  # noqa: S603
    packages = next(venv.glob("lib/python*/site-packages"))
    line = f"import sys; print('ran', file=sys.stderr); open({str(tmp_path / 'planted')!r}, 'w')\n"
    (packages / "hook.pth").write_text(line)
    _, lines, printed = prove(venv / "bin" / "python", tmp_path, GOOD, sample=[[1]])
    assert lines[-1]["predictions"] == [1]
    assert "ran" in printed
    assert "Permission denied" in printed
    assert not (tmp_path / "planted").exists()


def test_a_proof_dies_with_whoever_began_it(python: Path, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(pickled("import time; time.sleep(600)"))
    request = {"model": str(tmp_path / "model"), "format": "pickle", "scratch": str(tmp_path), "limits": LIMITS}
    script = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen({command(python, 'prove')!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        f"child.stdin.write({json.dumps(request).encode()!r}); child.stdin.close()\n"
        "child.stdout.readline(); print(child.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        handle = os.pidfd_open(pid)
        parent.kill()
    poll = __import__("select").poll()
    poll.register(handle)
    assert poll.poll(PATIENCE * 1000), "it lives on"
    os.close(handle)
