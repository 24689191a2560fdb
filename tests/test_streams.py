"""Commands whose stdout or stderr is full, closed or read by nobody: an exit code, at most one line, no traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from harness.eventually import PATIENCE

FULL: Final = Path("/dev/full")
COMMANDS: Final = (
    "--help",
    "config",
    "config --markdown",
    "queue --json",
    "queue --watch 0.1",
    "submit What?",
    "status nobody",
    "resume",
    "demo",
    "simulate --port 0",
)
SOME: Final = ("--version", "queue", "demo", "simulate --port 0")


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: bytes
    err: bytes


@pytest.fixture
def run(tmp_path: Path, redis_url: str) -> Callable[..., Ended]:
    """Run a command by the shell, which redirects its streams as people do."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "x"}\n')
    environment = {
        "PATH": os.environ["PATH"],
        "REDIS_URL": redis_url,
        "GREENSCALE_BACKEND": "echo",
        "COMMAND": f"{sys.executable} -m greenscale_worker",
    }

    def run(arguments: str, redirections: str, **changes: Any) -> Ended:
        done = subprocess.run(  # noqa: S603  our own command
            ["/bin/sh", "-c", f"exec $COMMAND {arguments} {redirections}"],
            cwd=tmp_path,
            env={**environment, **changes.pop("environment", {})},
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **changes},
        )
        return Ended(done.returncode, done.stdout or b"", done.stderr)

    return run


def one_line(said: bytes) -> str:
    line = said.decode()
    assert line.count("\n") == 1, line
    assert line.startswith("greenscale-worker: ")
    return line


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("command", "unbuffered"), [*((command, "") for command in COMMANDS), *((command, "1") for command in SOME)]
)
def test_a_full_disk_under_stdout(run: Callable[..., Ended], command: str, unbuffered: str) -> None:
    ended = run(command, "> /dev/full", environment={"PYTHONUNBUFFERED": unbuffered})
    assert one_line(ended.err) == "greenscale-worker: the output cannot be written: No space left on device\n"
    assert ended.code == 1


@pytest.mark.parametrize("command", SOME)
def test_a_stdout_that_is_closed(run: Callable[..., Ended], command: str) -> None:
    ended = run(command, ">&-")
    assert one_line(ended.err) == "greenscale-worker: the output cannot be written: Bad file descriptor\n"
    assert ended.code == 1


@pytest.mark.parametrize("command", SOME)
def test_a_pipe_that_nobody_reads(run: Callable[..., Ended], command: str) -> None:
    with ExitStack() as files:
        read, write = os.pipe()
        os.close(read)
        files.callback(os.close, write)
        ended = run(command, "", stdout=write)
    assert (ended.code, ended.err) == (141, b"")


@pytest.mark.parametrize("redirections", ["2> /dev/full", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("command", "code"),
    [("nonsense", 2), ("result nobody", 3), ("batch nowhere out.jsonl", 2), ("batch in.jsonl out.jsonl", 0)],
)
def test_a_stderr_that_cannot_be_written_to(
    run: Callable[..., Ended], command: str, code: int, redirections: str
) -> None:
    """What is for people only is lost, and the exit code is the same."""
    ended = run(command, redirections)
    assert (ended.code, ended.out, ended.err) == (code, b"", b"")


@pytest.mark.parametrize("redirections", ["> /dev/full", ">&-", "2>&-", "> /dev/full 2>&1"])
def test_a_worker_that_cannot_start_says_so_where_it_can(run: Callable[..., Ended], redirections: str) -> None:
    ended = run("", redirections, environment={"GREENSCALE_BACKEND": "nobody"})
    assert ended.code == 2
    if "2>" not in redirections:
        assert "GREENSCALE_BACKEND" in one_line(ended.err)
    else:
        assert ended.err == b""
