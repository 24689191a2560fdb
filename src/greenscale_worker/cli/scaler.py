"""`greenscale-worker scaler`: KEDA's push scaler."""

import argparse
import asyncio
import os
import signal
from contextlib import AsyncExitStack, aclosing
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal

from greenscale_worker.cli.process import run_logged
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import ConfigError

if TYPE_CHECKING:
    from greenscale_worker.config import Settings
    from greenscale_worker.scaler.metrics import ScalerMetrics
    from greenscale_worker.scaler.server import TLSFiles
    from greenscale_worker.scaler.trigger import Own
    from greenscale_worker.scaler.watcher import Watcher

DESCRIPTION: Final = """\
Tell KEDA of a queue's first job at once, and how many jobs are worth a lane,
until SIGTERM or Ctrl-C. One scaler serves all queues of a Redis: a trigger of
the type external-push names the queue. docs/scaling.md has an example.

It listens on GREENSCALE_SCALER_LISTEN (0.0.0.0:6000), with TLS where
GREENSCALE_SCALER_CERT_FILE is set. It needs the extra `scaler`."""
NOTES: Final = """\
metadata of a trigger:
  listName, stream           the queue: one of the two; without it:
                             REDIS_LIST_NAME or REDIS_STREAM_NAME
  listLength, streamLength   jobs that a pod runs at the same time; without it:
                             GREENSCALE_CONCURRENCY
  podStartSeconds            how long before a scheduled job is due a pod is
                             asked for (default: 5)"""
EXAMPLES: Final = """\
REDIS_HOST=redis greenscale-worker scaler"""
CODES: Final = """\
0  stopped by SIGTERM or Ctrl-C
2  a wrong setting, or a port that is in use"""
EVERY_SECONDS: Final = 10.0  # in which queues are looked at once, even if Redis lets every connection time out


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    text = "tell KEDA of a queue's first job at once"
    parser = add_command(subparsers, "scaler", text, DESCRIPTION, notes=NOTES, examples=EXAMPLES, codes=CODES)
    parser.set_defaults(run=run)


def run(_args: argparse.Namespace) -> int:
    """Serve until a signal. Raises ConfigError."""
    if find_spec("grpc") is None or find_spec("google.protobuf") is None:
        raise ConfigError("scaler needs grpcio and protobuf; expected: pip install 'greenscale-worker[scaler]'")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it has to say is no JSON, and we say it
    return run_logged(_serve)


async def _serve(settings: "Settings") -> int:
    from greenscale_worker.config import queue_options, redis_options
    from greenscale_worker.config.rules import masked
    from greenscale_worker.queues.redis.lookout import Lookout
    from greenscale_worker.scaler.metrics import ScalerMetrics
    from greenscale_worker.scaler.server import serving
    from greenscale_worker.scaler.service import Service
    from greenscale_worker.scaler.watcher import Watcher
    from greenscale_worker.telemetry import log

    redis, tls, metrics, stopping = redis_options(settings), _tls(settings), ScalerMetrics(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        lookout = await stack.enter_async_context(aclosing(Lookout(redis, queue_options(settings))))
        watcher = await stack.enter_async_context(aclosing(Watcher(lookout, metrics)))
        await _serve_health(settings, watcher, metrics, stopping, stack)
        service = Service(watcher, metrics, _own(settings))
        port = await stack.enter_async_context(serving(service, settings.scaler_listen, tls))
        log.info("scaler_started", port=port, tls=tls is not None, redis=masked(redis.url))
        await stopping.wait()
        log.info("draining", seconds=0)
    log.info("stopped")
    return 0


def _own(settings: "Settings") -> "Own":
    """Return what the settings say of the queue, as far as they say it."""
    from greenscale_worker.config import queue_name
    from greenscale_worker.scaler.trigger import Own

    named = {"list_name", "stream_name"} & settings.model_fields_set and settings.queue in {"list", "stream"}
    key: Literal["listName", "stream"] = "stream" if settings.queue == "stream" else "listName"
    return Own(settings.concurrency, key, queue_name(settings) if named else None)


def _tls(settings: "Settings") -> "TLSFiles | None":
    """Return the files of TLS; None without. Raises ConfigError for one without another that it needs."""
    from greenscale_worker.scaler.server import TLSFiles

    cert, key, ca = settings.scaler_cert_file, settings.scaler_key_file, settings.scaler_ca_file
    if cert is not None and key is not None:
        return TLSFiles(cert, key, ca)
    if cert is not None or key is not None or ca is not None:
        raise ConfigError(
            "TLS of the scaler is incomplete; expected: GREENSCALE_SCALER_CERT_FILE and GREENSCALE_SCALER_KEY_FILE,"
            " and GREENSCALE_SCALER_CA_FILE only beside them"
        )
    return None


async def _serve_health(
    settings: "Settings",
    watcher: "Watcher",
    metrics: "ScalerMetrics",
    stopping: asyncio.Event,
    stack: AsyncExitStack,
) -> None:
    from greenscale_worker.health import heartbeat_faults, serving

    if settings.health_port is None:
        return

    async def notes() -> list[str]:
        return [] if watcher.away is None else [f"Redis does not answer: {watcher.away}"]

    async def scrape() -> bytes:
        return metrics.render()

    await stack.enter_async_context(
        serving(
            settings.health_host,
            settings.health_port,
            live=lambda: heartbeat_faults(watcher.tried, every=EVERY_SECONDS),
            ready=lambda: ["draining"] if stopping.is_set() else [],
            notes=notes,
            metrics=scrape,
        )
    )
