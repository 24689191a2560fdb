"""Starts the processes measured, pushes jobs, reads CPU time and memory."""

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from harness.environments import ROOT, python
from harness.systems import Place, System

INHERITED: Final = ("PATH", "HOME", "TMPDIR", "LANG")
TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
MIB: Final = 2**20
END_SECONDS: Final = 10


class Process:
    """A process with its children, in a session of its own. Its output goes to a file.

    With `pipes`, its standard input and output are connected to us.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], log: Path, *, pipes: bool = False) -> None:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                command,
                cwd=log.parent,  # away from a developer's .env
                env=inherited | {"PYTHONPATH": str(ROOT)} | dict(variables),
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else out,
                stderr=out,
                text=True,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the first process, as an operator does."""
        self.popen.send_signal(number)

    def kill(self) -> None:
        """Kill all its processes at once, as when a machine dies."""
        for pid in family([self]):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.popen.wait(END_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def start_worker(system: System, place: Place, log: Path) -> Process:
    """Start one worker."""
    command = (str(python(system.environment)), *system.worker(place.lanes))
    return Process(command, place.variables() | system.variables(place), log)


class Producer:
    """A process in the system's own environment that pushes jobs as its users do."""

    def __init__(self, system: System, place: Place, log: Path) -> None:
        command = (str(python(system.environment)), "-m", system.producer)
        self.process = Process(command, place.variables(), log, pipes=True)

    def push(self, first: int, count: int, size: int = 150) -> int:
        """Push `count` jobs from `job-FIRST` on, with prompts of `size` bytes.

        Returns, when they are pushed, the monotonic time (ns) just before. Raises RuntimeError if the producer ended.
        """
        stdin, stdout = self.process.popen.stdin, self.process.popen.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a producer is talked to through pipes")
        try:
            print(first, count, size, file=stdin, flush=True)
            answer = stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"the producer has ended: {self.process.log.read_text(errors='replace')[-500:]}")
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()


def family(processes: Sequence[Process]) -> dict[int, list[str]]:
    """Return the live ones of these and their descendants: by pid, the fields of /proc/PID/stat from the third on."""
    stats = {int(path.name): _stat(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    pids = [process.popen.pid for process in processes]
    for pid in pids:
        pids += [child for child, stat in stats.items() if stat and int(stat[1]) == pid]
    return {pid: stats[pid] for pid in pids if stats.get(pid)}


def cpu_seconds(processes: Sequence[Process]) -> float:
    """Return user and system time of all of them so far, including children that have ended."""
    return sum(sum(map(int, stat[11:15])) for stat in family(processes).values()) / TICKS


def cpu_seconds_of(pids: Iterable[int]) -> float:
    """Return user and system time of these processes so far, without their children."""
    stats = (_stat(Path("/proc") / str(pid)) for pid in pids)
    return sum(sum(map(int, stat[11:13])) for stat in stats if stat) / TICKS


def memory_mib(processes: Sequence[Process]) -> float:
    """Return resident memory of all of them; memory shared by forked processes counts for each."""
    return sum(int(stat[21]) for stat in family(processes).values()) * PAGE / MIB


def _stat(path: Path) -> list[str]:
    try:
        return (path / "stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
