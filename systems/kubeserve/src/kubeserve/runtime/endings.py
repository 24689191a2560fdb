"""Why a process ended, in one line."""

from __future__ import annotations

import signal as signals

_BY_SIGNAL: dict[int, str] = {
    signals.SIGKILL: "killed, most likely because the machine's memory ran out",
    signals.SIGXCPU: "used more CPU time than it may",
    signals.SIGABRT: "aborted in native code, as libraries do when they get no more memory",
    signals.SIGSYS: "made a system call of a foreign architecture",
    signals.SIGSEGV: "crashed in native code",
    signals.SIGBUS: "crashed in native code",
    signals.SIGILL: "crashed in native code: an instruction that this processor lacks",
    signals.SIGFPE: "crashed in native code",
}


def reason(signal: int | None, status: int | None, *, asked: bool = False) -> str:
    """By the signal that ended it or its exit status; `asked`: it was killed because somebody asked for that."""
    if asked:
        return "stopped as asked"
    if signal is None:
        return "ended by itself" if status == 0 else f"the model ended its process with status {status}"
    try:
        name = signals.Signals(signal).name
    except ValueError:
        name = f"signal {signal}"
    return f"{_BY_SIGNAL.get(signal, 'ended by a signal')} ({name})"
