"""A folder as `make` leaves it after its first run, and a shell with little on its PATH, to run documented lines."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.eventually import PATIENCE

ROOT: Final = Path(__file__).parents[1]
STAMPS: Final = (".made", ".installed", ".up", ".tools")
FOUND: Final = ("make", "sh", "cp", "git")  # all that a shell there finds on its PATH
WORKER: Final = "import sys\nfrom greenscale_worker.cli import main\nsys.exit(main())\n"
REDIS_CLI: Final = """\
import os, sys
from redis import Redis
answer = Redis(port=int(os.environ["REDIS_PORT"]), decode_responses=True).execute_command(*sys.argv[1:])
print("" if answer is None else answer)
"""


@dataclass
class Checkout:
    """The folder, and the variables of a shell in it."""

    path: Path
    environment: dict[str, str]

    def type(self, line: str) -> str:
        """Run a line to its end and return its stdout. Raises AssertionError unless it succeeds."""
        process = self._start(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        assert process.returncode == 0, f"{line}\n{out.decode()}{err.decode()}"
        return out.decode()

    @contextmanager
    def running(self, lines: str, until: str) -> Iterator[Path]:
        """Run lines until the block ends, then send Ctrl-C; yields the file of their output, once it has `until`."""
        said = self.path / "said.txt"
        with said.open("wb") as stream:
            process = self._start(lines, stdout=stream, stderr=stream)
        try:
            wait_for(said, until, process)
            yield said
        finally:
            with_everybody(process, signal.SIGINT)

    def _start(self, lines: str, **streams: Any) -> "subprocess.Popen[bytes]":
        """Run them in a shell, in a process group of its own, so that no process is left behind."""
        command = ["/bin/sh", "-c", lines]
        return subprocess.Popen(command, cwd=self.path, env=self.environment, start_new_session=True, **streams)


def wait_for(said: Path, text: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a process has printed `text`. Raises AssertionError with its output otherwise."""
    ends = time.monotonic() + PATIENCE
    while text not in said.read_text():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < ends, said.read_text()
        time.sleep(0.02)


def with_everybody(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Signal a process and those it started, as a terminal does, and wait for its end; kill them if that takes long."""
    os.killpg(process.pid, number)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def check_out(path: Path, variables: Mapping[str, str]) -> Checkout:
    """Create the folder: the files that `make` checks, and this environment under another path."""
    binaries, tools = path / ".venv/bin", path / "tools"
    for folder in (binaries, tools):
        folder.mkdir(parents=True)
    for file in (ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".env.example", *ROOT.glob("requirements*.txt")):
        path.joinpath(file.name).symlink_to(file)
    for name in FOUND:
        if (found := shutil.which(name)) is not None:
            tools.joinpath(name).symlink_to(found)
    write(binaries / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    write(binaries / "greenscale-worker", f"#!{sys.executable}\n{WORKER}")
    write(tools / "redis-cli", f"#!{sys.executable}\n{REDIS_CLI}")
    for stamp in STAMPS:
        path.joinpath(".venv", stamp).touch()
    environment = {"PATH": str(tools), "LC_ALL": "C.UTF-8", **variables}
    return Checkout(path, environment)


def write(path: Path, text: str) -> None:
    """Write an executable file."""
    path.write_text(text)
    path.chmod(0o755)
