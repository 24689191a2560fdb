"""The programs that `up` runs, in the order of their start: Redis, an endpoint if none is named, worker, gateway."""

import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from greenscale_worker.config import Settings, chat_options, has_endpoint, policy, queue_options, redis_options
from greenscale_worker.config.catalogue import name_of
from greenscale_worker.config.rules import CHAT_PATH
from greenscale_worker.errors import ConfigError
from greenscale_worker.up import backlog, valkey
from greenscale_worker.up.probes import check_port, free_port, http_unready, is_free
from greenscale_worker.up.supervisor import Service

HERE: Final = ("127.0.0.1", "localhost")
OTHERWISE: Final = "; for a worker on a Redis that runs already: greenscale-worker, without `up`"
# `-P`: no module of the working directory may shadow one of ours.
OURSELVES: Final = (sys.executable, "-P", "-m", "greenscale_worker")
SIMULATOR_STOP_SECONDS: Final = 5.0
DASHBOARD: Final = "greenscale_dashboard"
DASHBOARD_PORT: Final = 8501
DASHBOARD_STOP_SECONDS: Final = 10.0
HAND_BACK_SECONDS: Final = 10.0  # beyond the drain time of a worker


def check(settings: Settings, latency: float | None = None) -> None:
    """Raise ConfigError for settings that contradict each other, or that name a Redis other than that of `up`."""
    if latency is not None and not is_simulated(settings):
        raise ConfigError(
            "--latency is for the simulated endpoint; expected: no endpoint in the settings, or no --latency"
        )
    foreign = {"redis_url": settings.redis_url is not None, "redis_host": settings.redis_host not in HERE}
    foreign["redis_username"] = settings.redis_username is not None
    for field, is_foreign in foreign.items():
        if is_foreign:
            raise ConfigError(
                f"{name_of(field)} is set (from {settings.origins[field]}), and `up` brings its own Redis; expected: it"
                " unset, or a worker on the Redis that it names: greenscale-worker, without `up`"
            )
    redis_options(settings), queue_options(settings), policy(settings)
    if not is_simulated(settings) and settings.backend == "chat":
        chat_options(settings)


def is_simulated(settings: Settings) -> bool:
    """Return whether jobs need an endpoint and none is configured."""
    return settings.backend == "chat" and not has_endpoint(settings)


def services(  # noqa: PLR0913  what `up` was told
    settings: Settings,
    server: Path,
    folder: Path,
    env_file: Path | None,
    latency: float | None,
    *,
    dashboard: str | None = None,
) -> list[Service]:
    """Return the programs, in the order of their start. Ports that no setting names are chosen here.

    `latency` is how many seconds the simulated endpoint takes for an answer; None: as long as a fast model.
    `dashboard` is the Python that runs the page; None: no page.
    """
    password = redis_options(settings).password
    programs = [valkey.service(server, folder, settings.redis_port, password)]
    environment, port = {}, None
    if is_simulated(settings):
        port = free_port(settings.redis_port, settings.health_port)
        programs.append(_simulator(port, folder / "simulator.log", latency))
        environment = {"NEYSA_API_URL": f"http://127.0.0.1:{port}/v1{CHAT_PATH}", "NEYSA_API_KEY": ""}
    health_port = settings.health_port or free_port(settings.redis_port, port)
    programs.append(_worker(settings, health_port, environment, env_file))
    if settings.result_ttl_seconds:  # a gateway could give no answer
        promised = (settings.redis_port, port, health_port)
        log = folder / "gateway.log"
        if settings.files_url is None and find_spec("obstore") is not None:
            environment = {**environment, "GREENSCALE_FILES": str((folder / "files").absolute())}
        gateway = _gateway(settings, gateway_port(settings, *promised), environment, log, env_file)
        programs.append(gateway)
        if dashboard is not None:
            page_port = DASHBOARD_PORT if is_free(DASHBOARD_PORT) else free_port(*promised)
            programs.append(_dashboard(dashboard, page_port, gateway, folder / "dashboard.log"))
    return programs


def check_ports(settings: Settings) -> None:
    """Raise ConfigError if another program listens on a port that the settings name."""
    check_port("REDIS_PORT", settings.redis_port, OTHERWISE)
    gateway = settings.origins.get("gateway_port") is not None and settings.gateway_host in HERE
    if gateway and settings.result_ttl_seconds:
        check_port("GREENSCALE_GATEWAY_PORT", settings.gateway_port)


def check_dashboard(settings: Settings, python: str) -> None:
    """Raise ConfigError unless this Python has the dashboard, and there will be a gateway for it."""
    if not _has_dashboard(python):
        raise ConfigError(
            f"--dashboard needs the package greenscale-dashboard, which {python} does not have; expected:"
            " `pip install ./dashboard` in a clone, or there `make dashboard`, which needs no installation"
        )
    if not settings.result_ttl_seconds:
        raise ConfigError("--dashboard needs a gateway; expected: GREENSCALE_RESULT_TTL_SECONDS above 0")


def _has_dashboard(python: str) -> bool:
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({DASHBOARD!r}) is None)"
    try:
        return subprocess.run([python, "-P", "-c", look], capture_output=True, check=False).returncode == 0  # noqa: S603  named by the user
    except OSError:
        return False


def _dashboard(python: str, port: int, gateway: Service, log: Path) -> Service:
    return Service(
        name="dashboard",
        shown=f"http://127.0.0.1:{port}",
        command=[python, "-P", "-m", DASHBOARD],
        environment={
            "GREENSCALE_GATEWAY_URL": gateway.shown.partition("/v1")[0],
            "STREAMLIT_SERVER_ADDRESS": "127.0.0.1",
            "STREAMLIT_SERVER_PORT": str(port),
        },
        log=log,
        unready=partial(http_unready, "127.0.0.1", port, "/_stcore/health"),
        why=lambda: log.read_text(errors="replace").strip().rpartition("\n")[2],
        stop_seconds=DASHBOARD_STOP_SECONDS,
    )


def gateway_port(settings: Settings, *promised: int | None) -> int:
    """Return the port of the settings; a free one if they name none and the default is in use."""
    port, named = settings.gateway_port, settings.origins.get("gateway_port") is not None
    return port if named or (port not in promised and is_free(port)) else free_port(*promised)


def _simulator(port: int, log: Path, latency: float | None) -> Service:
    pace = ("--ttft", "0.2", "--per-token", "0.02") if latency is None else ("--latency", f"{latency:g}")
    return Service(
        name="simulator",
        shown=f"http://127.0.0.1:{port}/v1{CHAT_PATH}",
        command=[*OURSELVES, "simulate", "--port", str(port), *pace],
        log=log,
        unready=partial(http_unready, "127.0.0.1", port, "/health"),
        why=lambda: log.read_text(errors="replace").strip().rpartition("\n")[2],
        stop_seconds=SIMULATOR_STOP_SECONDS,
    )


def _gateway(settings: Settings, port: int, environment: dict[str, str], log: Path, env_file: Path | None) -> Service:
    name = f"[{settings.gateway_host}]" if ":" in settings.gateway_host else settings.gateway_host
    hint = "" if port == settings.gateway_port else f" ({settings.gateway_port} is in use)"
    return Service(
        name="gateway",
        shown=f"http://{name}:{port}/v1{hint}",
        command=[*OURSELVES, *(["--env-file", str(env_file)] if env_file is not None else []), "serve"],
        environment={**environment, "GREENSCALE_GATEWAY_PORT": str(port), "GREENSCALE_LOG_FORMAT": "console"},
        log=log,
        unready=partial(http_unready, settings.gateway_host, port, "/readyz"),
        why=lambda: log.read_text(errors="replace").strip().rpartition("\n")[2],
        stop_seconds=settings.drain_seconds + HAND_BACK_SECONDS,
        farewell=f"calls that wait have {settings.drain_seconds:g} s; Ctrl-C again tells them where to look, now",
    )


def _worker(settings: Settings, port: int, environment: dict[str, str], env_file: Path | None) -> Service:
    """Return a worker that serves its health on that port, and logs for people unless a setting says otherwise."""
    own = {"GREENSCALE_HEALTH_PORT": str(port)}
    if settings.log_format == "auto":
        own["GREENSCALE_LOG_FORMAT"] = "console"
    return Service(
        name="worker",
        shown=f"{settings.concurrency} jobs at a time; http://{settings.health_host}:{port}/metrics",
        command=[*OURSELVES, *(["--env-file", str(env_file)] if env_file is not None else [])],
        environment={**environment, **own},
        unready=partial(http_unready, settings.health_host, port, "/readyz"),
        stop_seconds=settings.drain_seconds + HAND_BACK_SECONDS,
        goes_on=partial(backlog.told, settings),
        farewell=f"running calls have {settings.drain_seconds:g} s; Ctrl-C again hands them back now",
    )
