"""The whole system, each program in a process of its own on a free port of 127.0.0.1."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

HERE = Path(__file__).parents[1]
WORKER = os.environ.get("GREENSCALE_WORKER", str(HERE.parent / ".venv/bin/greenscale-worker"))
INHERITED = ("PATH", "HOME", "TMPDIR", "LANG")
PATIENCE = 30.0
POLL = 0.05


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait for something true, and give it; not for ever. An assertion that fails is not true yet."""
    ends = time.monotonic() + seconds
    why: BaseException | None = None
    while True:
        try:
            if found := condition():
                return found
        except AssertionError as error:
            why = error
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {seconds:g} s") from why
        time.sleep(POLL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Program:
    """A program that can be started again on its port."""

    def __init__(self, log: Path, port: int, command: Sequence[str], **environment: object) -> None:
        self.port, self._log, self._command = port, log, command
        self._environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._environment |= {name: str(value) for name, value in environment.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=self._log.parent, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log,
            )  # fmt: skip
        until(self._ready)

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"{self._command[:3]} ended: {self._log.read_text()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()


class System:
    """Redis, a simulated endpoint, a worker, the gateway and the page."""

    def __init__(self, folder: Path) -> None:
        if not Path(WORKER).exists() or not (redis := shutil.which("redis-server")):
            pytest.skip("greenscale-worker in .venv (`make test` brings it) and redis-server are needed")
        ports = [free_port() for _ in range(5)]
        self._folder, self._endpoint_port = folder, ports[1]
        chosen = {
            "REDIS_PORT": ports[0], "NEYSA_API_URL": f"http://127.0.0.1:{ports[1]}/v1/chat/completions",
            "NEYSA_API_KEY": "", "GREENSCALE_LEASE_SECONDS": 2, "GREENSCALE_HEALTH_PORT": ports[2],
            "GREENSCALE_GATEWAY_PORT": ports[3], "GREENSCALE_FILES": folder / "files",
        }  # fmt: skip
        self.redis = Program(folder / "redis.log", ports[0], (
            redis, "--port", str(ports[0]), "--bind", "127.0.0.1", "--appendonly", "yes",
        ))  # fmt: skip
        self.endpoint = self._endpoint("--latency", "0.5")
        self.slow_endpoint = self._endpoint("--per-token", "1")  # on the same port, instead of the other
        self.worker = Program(folder / "worker.log", ports[2], (WORKER,), **chosen)
        self.gateway = Program(folder / "gateway.log", ports[3], (WORKER, "serve"), **chosen)
        self.page = page(folder, ports[4], self.gateway.url)
        self._all = (self.redis, self.endpoint, self.worker, self.gateway, self.page)

    def _endpoint(self, *pace: str) -> Program:
        port = self._endpoint_port
        return Program(self._folder / "endpoint.log", port, (WORKER, "simulate", "--port", str(port), *pace))

    def start(self) -> None:
        for program in self._all:
            program.start()

    def stop(self) -> None:
        for program in reversed(self._all):
            program.stop()

    def slow(self, seconds: float) -> None:
        """Let the endpoint take so long for an answer."""
        self.faults(rate_slow=1, slow_seconds=seconds)

    def faults(self, **rates: float) -> None:
        """Let the endpoint have these faults, and no others."""
        requests.post(f"{self.endpoint.url}/faults", json=rates, timeout=10).raise_for_status()

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.gateway.url}/v1/jobs/{job_id}", timeout=10).json()
        return found


def page(folder: Path, port: int, gateway_url: str, *, script: bool = False) -> Program:
    """Return the page, as installed, or by `streamlit run app.py`."""
    command = ("-m", "streamlit", "run", str(HERE / "app.py")) if script else ("-m", "greenscale_dashboard")
    environment = {"GREENSCALE_GATEWAY_URL": gateway_url, "STREAMLIT_SERVER_PORT": port, "PYTHONPATH": HERE}
    return Program(folder / "page.log", port, (sys.executable, *command), **environment)
