"""A PostgreSQL of the tests' own: its own cluster in a temporary directory, on a free port, without durability."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

PATIENCE: Final = 60.0
INSTALLED: Final = Path("/usr/lib/postgresql")  # Debian keeps what is not for everyone's PATH here
OPTIONS: Final = ("fsync=off", "listen_addresses=127.0.0.1", "max_connections=60", "shared_buffers=16MB")


def programs() -> Path | None:
    """Find the directory with PostgreSQL's programs; None where it is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(INSTALLED.glob("*/bin"), key=lambda path: int(path.parent.name), default=None)


class Postgres:
    """A server, run by `postgres` where the tests are run by root, whom it refuses."""

    def __init__(self, bin_directory: Path) -> None:
        self._bin = bin_directory
        self._home = Path(tempfile.mkdtemp(prefix="kubeserve-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            who = pwd.getpwnam("postgres")
            os.chown(self._home, who.pw_uid, who.pw_gid)
            self._user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._run("initdb", "-D", str(self._data), "-U", "kubeserve", "-A", "trust", "-E", "UTF8", "--no-sync")

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def url(self, database: str) -> str:
        """Give the URL of a database in it."""
        return f"postgresql://kubeserve@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [word for option in OPTIONS for word in ("-c", option)]
        command = ["postgres", "-D", str(self._data), "-p", str(self.port), "-k", str(self._home), *settings]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  a program of PostgreSQL
                [str(self._bin / command[0]), *command[1:]], stdout=log, stderr=log, cwd="/", **self._user
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, (self._home / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port))
        except AssertionError:
            return False
        return True

    def stop(self) -> None:
        """Stop it at once, as when its machine dies."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # it and its children
            self._process.wait(PATIENCE)
            self._process = None

    def close(self) -> None:
        """Stop it, and leave nothing."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def query(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as an operator would."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "kubeserve", "-d", database]
        return self._run("psql", "-qAtX", *where, "-v", "ON_ERROR_STOP=1", "-c", statement)

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self._bin / program), *arguments]
        done = subprocess.run(  # noqa: S603  a program of PostgreSQL
            command, check=False, capture_output=True, text=True, cwd="/", timeout=120, **self._user
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
