"""The worker as operators run it: `python -m greenscale_worker` in its own process, configured by its environment."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson

from harness.eventually import PATIENCE, eventually

ROOT: Final = Path(__file__).parents[1]
COMMAND: Final[Sequence[str]] = (sys.executable, "-m", "greenscale_worker")
INHERITED: Final = ("PATH", "HOME", "TMPDIR", "LANG", "SYSTEMROOT")


class WorkerProcess:
    """One process. Its log is read as JSON lines; `stderr` is all other output."""

    def __init__(self, directory: Path, command: Sequence[str], environment: dict[str, str]) -> None:
        directory.mkdir(parents=True)
        self._log = directory / "stdout"
        self._stderr = directory / "stderr"
        with self._log.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM, as Kubernetes does."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9` it, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    async def exit_code(self, seconds: float = PATIENCE) -> int:
        """Wait for its end."""
        await eventually(lambda: not self.alive, seconds)
        return self.process.returncode

    async def stop(self, code: int = 0) -> None:
        """End it by SIGTERM; it must exit with `code` and, if that is 0, `is_clean`."""
        self.terminate()
        assert await self.exit_code() == code, self.stderr
        if code == 0:
            self.is_clean()

    def is_clean(self) -> None:
        """Assert that its log has no error and stderr is empty."""
        assert not [line for line in self.log() if line["level"] in {"error", "critical"}]
        assert self.stderr == ""

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the log lines so far, all or those of one event."""
        whole = self._log.read_bytes().rpartition(b"\n")[0]
        lines = [orjson.loads(line) for line in whole.splitlines()]
        return [line for line in lines if event in {None, line["event"]}]

    def outcomes(self) -> Counter[str]:
        """Count the outcomes of its jobs."""
        return Counter(line["outcome"] for line in self.log("job"))

    async def says(self, event: str, seconds: float = PATIENCE, **facts: Any) -> dict[str, Any]:
        """Wait for a log line and return it."""
        found: list[dict[str, Any]] = []

        def said() -> bool:
            alive = self.alive
            found[:] = [line for line in self.log(event) if facts.items() <= line.items()]
            if not found and not alive:
                raise RuntimeError(f"it ended with {self.process.returncode}: {self.stderr}")
            return bool(found)

        await eventually(said, seconds)
        return found[0]


class Fleet:
    """Workers that share their settings, each in a directory of its own. Those still running at the end are killed."""

    def __init__(self, directory: Path, **environment: object) -> None:
        self._directory = directory
        self._environment = environment
        self.workers: list[WorkerProcess] = []

    def start(self, *arguments: str, breakpoint_at: str | None = None, **environment: object) -> WorkerProcess:
        """Start a worker, with settings that extend or override the common ones; None unsets one.

        `arguments` name another command, such as `serve`. `breakpoint_at` is where it dies (harness/breakpoints.py).
        """
        settings = {"GREENSCALE_LOG_FORMAT": "json", "NEYSA_API_KEY": "", **self._environment, **environment}
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        given = {name: str(value) for name, value in settings.items() if value is not None}
        command: Sequence[str] = (*COMMAND, *arguments)
        if breakpoint_at is not None:
            command = (sys.executable, "-m", "harness.breakpoints", breakpoint_at)
            inherited["PYTHONPATH"] = str(ROOT)
        worker = WorkerProcess(self._directory / f"worker-{len(self.workers)}", command, {**inherited, **given})
        self.workers.append(worker)
        return worker

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            if worker.alive:
                worker.kill()
            if error is not None:
                error.add_note(f"{worker.pid}: {worker.process.returncode}\n{worker.stderr}\n{worker.log()[-20:]}")
