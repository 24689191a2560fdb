"""The programs that `up` runs, in the order of their start: Valkey unless a Redis is named, the door, the API."""

import asyncio
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from greenscale_worker.config import Settings as QueueSettings
from greenscale_worker.config import load, redis_options
from greenscale_worker.up import valkey
from greenscale_worker.up.probes import check_port, free_port, http_unready, is_free
from greenscale_worker.up.supervisor import Service

from kubeserve.places.layout import Layout
from kubeserve.settings import Settings

OURSELVES: Final = (sys.executable, "-P", "-c", "import sys; from kubeserve.cli import main; sys.exit(main())")
OF_REDIS: Final = ("redis_url", "redis_host", "redis_port", "redis_username", "redis_password", "redis_db")
ASK_SECONDS: Final = 2.0
SERVE_STOP_SECONDS: Final = 20.0
DOOR_STOP_SECONDS: Final = 40.0
LOCAL: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run. `redis` is where a Redis is that somebody else runs, None: one is brought."""

    settings: Settings
    redis: str | None
    port: int

    @classmethod
    def made(cls, environ: Mapping[str, str], data: Path) -> Self:
        """Read the settings. Raises ConfigError for a wrong one, and for a port that is in use."""
        settings = Settings.from_env({**environ, "KUBESERVE_DATA": str(data.resolve())})
        queue = load(environ, Path(".env"))
        named = any(queue.origins.get(field) is not None for field in OF_REDIS)
        return cls(settings, _shown(queue) if named else None, _port(settings, environ))

    @property
    def url(self) -> str:
        """Where people go."""
        host = LOCAL if self.settings.host in {"0.0.0.0", "::", "localhost"} else self.settings.host  # noqa: S104  a comparison
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def programs(self) -> list[Service]:
        """Return the programs, in the order of their start."""
        data = self.settings.data
        logs = data / "logs"
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {"KUBESERVE_DATA": str(data), "KUBESERVE_PORT": str(self.port)}
        programs = []
        if self.redis is None:
            port, password = free_port(self.port), secrets.token_hex(16)
            folder = data / "valkey"
            folder.mkdir(mode=0o700, exist_ok=True)
            programs.append(valkey.service(valkey.find_server(), folder, port, password))
            environment["REDIS_URL"] = f"redis://:{password}@{LOCAL}:{port}/0"
        return [*programs, self._door(logs, environment), self._serve(logs, environment)]

    def _door(self, logs: Path, environment: Mapping[str, str]) -> Service:
        log = logs / "door.log"
        return Service(
            name="door",
            shown="runs the models that are deployed",
            command=[*OURSELVES, "door"],
            environment=environment,
            log=log,
            unready=partial(_door_unready, Layout(self.settings.data).socket),
            why=partial(_last_line, log),
            stop_seconds=DOOR_STOP_SECONDS,
            farewell="predictions that run may end, the rest waits for the next `up`",
        )

    def _serve(self, logs: Path, environment: Mapping[str, str]) -> Service:
        log = logs / "serve.log"
        return Service(
            name="API",
            shown=self.url,
            command=[*OURSELVES, "serve"],
            environment=environment,
            log=log,
            unready=partial(_serve_unready, self.settings.host, self.port),
            why=partial(_last_line, log),
            stop_seconds=SERVE_STOP_SECONDS,
        )


def _port(settings: Settings, environ: Mapping[str, str]) -> int:
    """Return the port of the settings; a free one if they name none and the usual one is in use."""
    if environ.get("KUBESERVE_PORT", "").strip().isdecimal():
        check_port("KUBESERVE_PORT", settings.port)
        return settings.port
    return settings.port if is_free(settings.port) else free_port()


def _shown(queue: QueueSettings) -> str:
    """Return where a Redis is that the settings name, without its password. Raises ConfigError."""
    options = redis_options(queue)
    return str(options.url).rpartition("@")[2].removeprefix("redis://") if options.url else queue.redis_host


async def _serve_unready(host: str, port: int) -> str | None:
    return await http_unready(LOCAL if host in {"0.0.0.0", "::"} else host, port, "/healthz")  # noqa: S104  a comparison


async def _door_unready(socket: Path) -> str | None:
    """Return why the door does not answer yet, None once it does."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            writer.write(b"GET /status HTTP/1.0\r\n\r\n")
            head = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        return "nothing answers yet"
    return None if b" 200 " in head else "it does not answer well"


def _last_line(log: Path) -> str:
    return log.read_text(errors="replace").strip().rpartition("\n")[2]
