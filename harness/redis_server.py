"""Redis servers for tests only, on ports of their own; the test that starts one ends it."""

import gc
import importlib.util
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from greenscale_worker.errors import ConfigError
from greenscale_worker.queues.redis.redis_py import KEEPS_CLUSTERS
from greenscale_worker.up.valkey import find_server

CHOSEN: Final = "REDIS_SERVER"  # path of the server to test with, instead of Docker and what is on PATH
IMAGE: Final = "redis:7-alpine"
INSTALL: Final = (
    "no Redis to test with: start Docker, or install redis-server (apt-get install redis-server; brew install redis); "
    "on macOS, and on Linux with glibc, `make test` brings one"
)
CERTIFICATE: Final = Path(__file__).with_name("localhost.pem")  # self-signed, for tests only, key included
PATIENCE: Final = 30.0  # seconds that a server may take to start or to end
PORTS: Final = range(15_000, 22_000)  # these, and a cluster's bus 10,000 above, are below the ports of outgoing calls:
# otherwise a client that retries a stopped server would sooner or later get the server's own port, connect to itself,
# and keep the server from starting again


def docker_answers() -> bool:
    """Return whether a Docker engine answers."""
    if importlib.util.find_spec("docker") is None:
        return False
    import docker  # noqa: PLC0415  costs 0.2 s

    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # it leaves its connections open
        try:
            docker.from_env(timeout=5).close()
        except docker.errors.DockerException:
            return False
        finally:
            gc.collect()
    return True


def binary() -> str | None:
    """Return the path of a server: REDIS_SERVER, else `redis-server` on PATH, else the one installed for `up`."""
    if found := os.environ.get(CHOSEN) or shutil.which("redis-server"):
        return found
    try:
        return str(find_server())
    except ConfigError:
        return None


class Host(Protocol):
    """Where a server runs. Its name is for display, its address for clients."""

    name: str

    @property
    def address(self) -> str: ...
    def start(self) -> None: ...
    def signal(self, number: signal.Signals) -> None: ...
    def wait(self) -> None: ...
    def exited(self) -> bool: ...
    def log(self) -> str: ...
    def close(self) -> None: ...


class Process:
    """A server as a child process."""

    address: str = "127.0.0.1"

    def __init__(self, directory: Path, config: list[str], *, sentinel: bool) -> None:
        found = binary()
        if found is None:
            pytest.fail(INSTALL)
        self.name = found
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "redis.conf"
        path.write_text("\n".join([*config, "bind 127.0.0.1", f'dir "{directory}"', ""]))
        self._command = [found, str(path), *(["--sentinel"] if sentinel else [])]
        self._log = directory / "redis.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def wait(self) -> None:
        if self.process is not None:
            self.process.wait(PATIENCE)

    def exited(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        if not self.exited():
            self.signal(signal.SIGKILL)
            self.wait()


class Container:
    """A server in a container, by testcontainers. Its data last until it is closed."""

    name = f"testcontainers, {IMAGE}"

    def __init__(self, port: int, config: list[str]) -> None:
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415  costs 0.3 s

        command = [word for line in config for word in shlex.split(f"--{line}")]
        self._container = DockerContainer(IMAGE).with_bind_ports(port, port).with_command(["redis-server", *command])
        self._container.with_copy_into_container(CERTIFICATE.read_bytes(), str(CERTIFICATE), 0o644)
        self._created = False

    @property
    def address(self) -> str:
        return self._container.get_container_host_ip()

    @property
    def _engine(self) -> Any:
        wrapped = self._container.get_wrapped_container()
        wrapped.reload()
        return wrapped

    def start(self) -> None:
        if self._created:
            self._engine.start()
        else:
            self._container.start()
            self._created = True

    def signal(self, number: signal.Signals) -> None:
        self._engine.kill(number.name)

    def wait(self) -> None:
        self._engine.wait(timeout=PATIENCE)

    def exited(self) -> bool:
        return bool(self._engine.status == "exited")

    def log(self) -> str:
        return b"".join(self._container.get_logs()).decode(errors="replace")

    def close(self) -> None:
        self._container.stop()


class RedisServer:
    """A private server that can be stopped, frozen and started again. `start` it; `close` ends it for good.

    `config` are lines as in redis.conf (`appendonly yes`); they override the defaults: no persistence, 4 databases.
    With `tls` it accepts only TLS; harness/localhost.pem is its certificate, its authority and a client's certificate.
    A server in Docker (`docker`) cannot be a sentinel or a member of a cluster.
    """

    def __init__(
        self, directory: Path, *config: str, tls: bool = False, sentinel: bool = False, docker: bool | None = None
    ) -> None:
        self.port = free_port()
        self.tls = tls
        lines = [f"port {0 if tls else self.port}"]
        if not sentinel:
            lines += ["save ''", "appendonly no", "databases 4"]
        if tls:
            files = (f"tls-{kind}-file {CERTIFICATE}" for kind in ("cert", "key", "ca-cert"))
            lines += [f"tls-port {self.port}", "tls-auth-clients no", *files]
        lines += config
        if not KEEPS_CLUSTERS and any(line.startswith("cluster") for line in config):
            pytest.skip(f"redis-py {redis.__version__} is too old for a Cluster")
        if docker is None:
            docker = binary() is None and docker_answers()
        if docker and (sentinel or any(line.startswith(("cluster", "replicaof")) for line in config)):
            pytest.skip("servers that know each other need redis-server on PATH")
        self._host: Host = Container(self.port, lines) if docker else Process(directory, lines, sentinel=sentinel)

    @property
    def name(self) -> str:
        """The kind of server, for display."""
        return self._host.name

    @property
    def url(self) -> str:
        """`redis://…` or `rediss://…`, without user, password and database."""
        return f"redis{'s' if self.tls else ''}://{self._host.address}:{self.port}"

    def start(self) -> None:
        """Start it, or start it again with its data, and wait until it answers."""
        self._host.start()
        until(self._answers)

    def kill(self) -> None:
        """Kill it, as `kill -9` does."""
        self._host.signal(signal.SIGKILL)
        self._host.wait()

    def stop(self) -> None:
        """Stop it, as `systemctl stop` does: it saves as configured."""
        self._host.signal(signal.SIGTERM)
        self._host.wait()

    def freeze(self) -> None:
        """Suspend it: it answers nothing, but connections stay open."""
        self._host.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        self._host.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, whatever its state."""
        self._host.close()

    def client(self, **options: Any) -> redis.Redis:
        """Return a plain client for the test. Close it, or use it in a `with`."""
        if self.tls:
            files = dict.fromkeys(("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"), str(CERTIFICATE))
            options = {"ssl": True, **files, **options}
        return redis.Redis(self._host.address, self.port, retry=Retry(NoBackoff(), 0), **options)

    def _answers(self) -> bool:
        if self._host.exited():
            log = self._host.log()
            if self.tls and "tls" in log.lower():
                pytest.skip("this redis-server was built without TLS")
            raise RuntimeError(f"redis-server ended at once:\n{log[-2000:]}")
        untested = {"ssl_cert_reqs": "none", "ssl_check_hostname": False} if self.tls else {}  # may be another
        with self.client(socket_timeout=1, socket_connect_timeout=1, **untested) as client:
            try:
                client.ping()
            except (redis.AuthenticationError, redis.ResponseError):
                return True
            except (redis.ConnectionError, redis.TimeoutError):
                return False
        return True


def start_shared(directory: Path) -> tuple[RedisServer, str]:
    """Start the shared server of a test run: REDIS_SERVER, else in Docker, else a local one. Return it and its name.

    Raises RuntimeError, with what to install, if there is none.
    """
    note = ""
    if CHOSEN not in os.environ and docker_answers():
        server = RedisServer(directory, docker=True)
        try:
            server.start()
        except Exception as error:  # noqa: BLE001  no image, no Ryuk, no port: a local server may still start
            server.close()
            note = f" (not in Docker: {str(error).partition('(')[0]})"
        else:
            return server, server.name
    if binary() is None:
        raise RuntimeError(INSTALL + note)
    server = RedisServer(directory, docker=False)
    server.start()
    return server, server.name + note


def free_port() -> int:
    """Return a port of 127.0.0.1 that is not in use."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, or raise TimeoutError."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {PATIENCE:g} s")
        time.sleep(0.01)


def is_master(server: RedisServer) -> bool:
    """Return whether it is a master. Uses a new connection, as Sentinel cuts all clients of a replica it promotes."""
    try:
        with server.client() as client:
            return client.role()[0] == b"master"
    except redis.ConnectionError:
        return False
