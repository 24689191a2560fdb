"""The command line: one role of the system for each command, or all of them (`up`)."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from greenscale_worker import ConfigError

from energy_readings.log import logging_to_stderr
from energy_readings.settings import Settings, read

WRONG: Final = 2
INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and give the exit code: 0 stopped, 1 it failed, 2 a wrong setting, said in one line."""
    args = _parser().parse_args(argv)
    try:
        with logging_to_stderr():
            code: int = args.run(read(os.environ), *args.arguments)
    except ConfigError as error:
        sys.stderr.write(f"energy-readings: {error}\n")
        return WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _ingest(settings: Settings) -> int:
    from energy_readings.http import serve  # noqa: PLC0415  each role pays for its own imports only
    from energy_readings.ingest import ingestion  # noqa: PLC0415  as above

    serve(ingestion(settings), settings.host, settings.ingest_port, "ENERGY_PORT_INGEST")
    return 0


def _worker(_settings: Settings, *arguments: str) -> int:
    from energy_readings.processing import worker_environment  # noqa: PLC0415  as above

    command = (sys.executable, "-m", "greenscale_worker", *arguments)
    os.execve(sys.executable, command, worker_environment(os.environ))  # noqa: S606  it takes the place of this process


def _readings(settings: Settings) -> int:
    from energy_readings.http import serve  # noqa: PLC0415  as above
    from energy_readings.readings import stored  # noqa: PLC0415  as above

    serve(stored(settings), settings.host, settings.readings_port, "ENERGY_PORT_READINGS")
    return 0


def _page(settings: Settings) -> int:
    from energy_readings.http import serve  # noqa: PLC0415  as above
    from energy_readings.page import page  # noqa: PLC0415  as above

    serve(page(settings), settings.host, settings.page_port, "ENERGY_PORT_PAGE")
    return 0


def _up(settings: Settings) -> int:
    from energy_readings.up import up  # noqa: PLC0415  as above

    return up(settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="energy-readings",
        description="Take in the power readings of meters, store each of them once, and show them.",
        epilog="Settings come from the environment: REDIS_HOST, REDIS_PORT and so on as for greenscale-worker, and "
        "ENERGY_…; the README lists them.",
        allow_abbrev=False,
    )
    parser.set_defaults(arguments=())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, text in (
        ("up", _up, "all four of them, until Ctrl-C"),
        ("ingest", _ingest, "the ingestion API, port 8000"),
        ("process", _worker, "the worker: greenscale-worker, set up for readings"),
        ("readings", _readings, "the readings API, port 8001"),
        ("page", _page, "the page, port 3000"),
    ):
        commands.add_parser(name, help=text, description=f"Run {text}.", allow_abbrev=False).set_defaults(run=run)
    text = "a command of greenscale-worker on the queue of readings: worker dead list"
    worker = commands.add_parser("worker", help=text, description=f"Run {text}.", allow_abbrev=False)
    worker.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="COMMAND …",
        help="queue, dead list and so on, with their options",
    )
    worker.set_defaults(run=_worker)
    return parser
