"""A KubeServe of the demo's own: `kubeserve up` as a child process, in a folder that keeps nothing but packages."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from greenscale_worker.up import tether
from greenscale_worker.up.probes import free_port

from kubeserve.errors import UnavailableError
from kubeserve.up import folder
from kubeserve.up.programs import OURSELVES

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 90.0
POLL_SECONDS: Final = 0.05
UP: Final = b"KubeServe is up"
KEPT: Final = frozenset({folder.LOCK, ".gitignore", "environments", "up.log"})


@contextmanager
def running(data: Path) -> Iterator[str]:
    """Run it, and yield its URL; at the end all of it is stopped. Raises UnavailableError if it does not start."""
    _empty(data)
    port = free_port()
    log = data / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  ourselves
            [*_tether(), *OURSELVES, "up", "--data", str(data)],
            env={**_without_redis(), "KUBESERVE_PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches only us
        )
    try:
        _wait(process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        _stop(process)
        _empty(data)


def _tether() -> list[str]:
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", str(tether.__file__), str(os.getpid())]


def _without_redis() -> dict[str, str]:
    """Return our environment, but for what names a Redis, a database or a store of files that others use."""
    ours = ("REDIS_", "KUBESERVE_", "INGRESS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while UP not in (said := log.read_bytes()):
        if process.poll() is not None or time.monotonic() > ends:
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise UnavailableError(f"KubeServe does not start: {last or 'it has said nothing'}", code="start")
        time.sleep(POLL_SECONDS)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _empty(data: Path) -> None:
    """Remove all but the packages, which the next demo need not fetch again."""
    for path in data.iterdir():
        if path.name not in KEPT:
            folder.remove(path)
