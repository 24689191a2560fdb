"""Opens what commands work on: the settings, and the queue, backend or client that they name."""

import asyncio
import os
import sys
from contextlib import aclosing
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Final

from greenscale_worker.cli import interrupt
from greenscale_worker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greenscale_worker.backends import Backend
    from greenscale_worker.config import Settings
    from greenscale_worker.queues import Queue, QueueClient
    from greenscale_worker.queues.registry import QueueKind
    from greenscale_worker.telemetry import Metrics


ENV_FILE: Final[ContextVar[Path | None]] = ContextVar("ENV_FILE", default=None)  # the option --env-file


def settings_in_force() -> "Settings":
    """Read the settings of this process. Raises ConfigError."""
    from greenscale_worker.config import load

    named = ENV_FILE.get()
    return load(os.environ, named or Path(".env"), named=named is not None)


def settings_of_command() -> "Settings":
    """Read the settings for a command that a user typed; likely typing errors in them are reported on stderr."""
    from greenscale_worker.cli.terminal import hint, one_line

    settings = settings_in_force()
    for notice in settings.notices:
        hint(one_line(f"{notice.name}: {notice.hint}"))
    return settings


def open_configured_backend(settings: "Settings", *, model_optional: bool = False) -> "Backend":
    """Open the configured backend; only `chat` needs an endpoint and a model to be set. Raises ConfigError."""
    from greenscale_worker.backends import open_backend
    from greenscale_worker.config import chat_options

    if settings.backend == "chat":
        return open_backend("chat", chat_options(settings, model_optional=model_optional))
    try:
        return open_backend(settings.backend)
    except ConfigError as error:
        raise ConfigError(f"GREENSCALE_BACKEND: {error}") from error


async def open_queue(settings: "Settings", metrics: "Metrics") -> "Queue":
    """Open the queue for a worker. Waits for a Redis that is absent or loading. Raises ConfigError."""
    from greenscale_worker.config import queue_options, redis_options

    return await _kind(settings).open_queue(redis_options(settings), queue_options(settings), metrics)


async def open_client(settings: "Settings") -> "QueueClient":
    """Open the queue for a client, which connects with its first call. Raises ConfigError."""
    from greenscale_worker.config import queue_options, redis_options

    return await _kind(settings).open_client(redis_options(settings), queue_options(settings))


def logs_json(settings: "Settings") -> bool:
    """Return whether the log of a process is JSON, on stdout."""
    if settings.log_format == "auto":
        return not sys.stderr.isatty()
    return settings.log_format == "json"


def was_interrupted() -> bool:
    """Return whether Ctrl-C was swallowed: Python 3.11 may lose a CancelledError while redis-py reads."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _kind(settings: "Settings") -> "QueueKind":
    from greenscale_worker.queues.registry import find

    try:
        return find(settings.queue)
    except ConfigError as error:
        raise ConfigError(f"GREENSCALE_QUEUE: {error}") from error


def with_client(use: "Callable[[QueueClient, Settings], Awaitable[int]]") -> int:
    """Run a command on the queue. Return its exit code. Raises ConfigError and QueueUnavailableError."""
    settings = settings_of_command()

    async def command() -> int:
        async with aclosing(await open_client(settings)) as client:
            return await use(client, settings)

    return interrupt.run(command())
