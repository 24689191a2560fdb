"""The whole system as people start it: `energy-readings up`, in processes of its own on free ports."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import orjson
import redis
from harness.redis_server import PATIENCE, RedisServer, free_port
from harness.worker_process import INHERITED

POLL = 0.02


class System:
    """Starts when the block is entered, and is ended by SIGTERM when it is left. `Redis` is the test's to close."""

    def __init__(self, directory: Path, server: RedisServer, **settings: object) -> None:
        self._server = server
        self.ports = {role: free_port() for role in ("ingest", "readings", "page")}
        own = {f"ENERGY_PORT_{role.upper()}": port for role, port in self.ports.items()}
        given = {"REDIS_URL": f"{server.url}/0", "GREENSCALE_LEASE_SECONDS": 2, **own, **settings}
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self.environment = {**inherited, **{name: str(value) for name, value in given.items()}}
        self._output = directory / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, role: str) -> str:
        return f"http://127.0.0.1:{self.ports[role]}"

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, without waiting for it."""
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "energy_readings", "up"),
                env=self.environment,
                cwd=self._output.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self._process

    def said(self) -> str:
        return self._output.read_text()

    def stored(self, site_id: str) -> list[dict[str, Any]]:
        with self._server.client() as db:
            return [orjson.loads(each) for each in db.lrange(f"site_readings:{site_id}", 0, -1)]

    def database(self) -> redis.Redis:
        return self._server.client(decode_responses=True)

    def __enter__(self) -> Self:
        process = self.start()
        until(lambda: "is up" in self.said() or process.poll() is not None)
        assert process.poll() is None, self.said()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0, self.said()


def until(condition: Any, seconds: float = PATIENCE) -> Any:
    """Wait for something true, and give it; not for ever."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(POLL)
    return found
