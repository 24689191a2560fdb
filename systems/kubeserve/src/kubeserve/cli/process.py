"""What the commands that run for long share: settings, log and signals."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
import structlog
from greenscale_worker import RedisOptions
from greenscale_worker.config import load, redis_options

from kubeserve.settings import Settings


def read_settings() -> tuple[Settings, RedisOptions]:
    """Read the settings from the environment. Raises ConfigError."""
    return Settings.from_env(os.environ), redis_options(load(os.environ, Path(".env")))


def until_signalled(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `work` with an event that SIGTERM and SIGINT set."""

    async def run() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await work(stopping)

    _log()
    asyncio.run(run())


def _log() -> None:
    """One line for each event, to stderr: for people at a terminal, else JSON."""
    terminal = sys.stderr.isatty()
    people, programs = structlog.dev.ConsoleRenderer(), structlog.processors.JSONRenderer(orjson.dumps, default=str)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            people if terminal else programs,
        ],
        logger_factory=(
            structlog.PrintLoggerFactory(sys.stderr) if terminal else structlog.BytesLoggerFactory(sys.stderr.buffer)
        ),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
