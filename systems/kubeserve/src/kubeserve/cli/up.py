"""`kubeserve up` and `kubeserve down`."""

import argparse
import asyncio
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Final

from greenscale_worker import ConfigError
from greenscale_worker.cli.terminal import bold, columns, hint, one_line, say
from greenscale_worker.for_people import fitted
from greenscale_worker.up.folder import reserved
from greenscale_worker.up.supervisor import StartError, Supervisor

from kubeserve.cli import FAILED, MISUSED
from kubeserve.cli.command import Command, describe
from kubeserve.cli.session import DEFAULT_URL
from kubeserve.up import folder
from kubeserve.up.environment import prepare
from kubeserve.up.programs import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

DATA: Final = Path(".kubeserve")
ERASE: Final = "\r\x1b[K"


def _up_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Run all of it on this machine until Ctrl-C: API and page (127.0.0.1:8600),\n"
        "the door that runs the models, and a Redis of its own (Valkey) unless REDIS_URL\n"
        "names one. What dies meanwhile is started again.",
        "kubeserve up\nKUBESERVE_PORT=9000 kubeserve up --data /srv/kubeserve\n"
        "REDIS_URL=redis://localhost:6379/3 kubeserve up",
        "Accounts, models and predictions lie in a folder, and the next `up` goes on with\n"
        "them, however this one has ended. Ctrl-C lets predictions end; again: hurry.",
    )
    _add_data(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, metavar="DIR", default=DATA, help="the folder of all data (default: %(default)s)"
    )


def _up(given: argparse.Namespace) -> int:
    data = given.data.resolve()
    with reserved(data, 0):
        return asyncio.run(_run(Plan.made(os.environ, data)))


async def _run(plan: Plan) -> int:
    supervisor, loop = Supervisor(_tell), asyncio.get_running_loop()

    def stop() -> None:
        (supervisor.hurry if supervisor.stopping.is_set() else supervisor.stopping).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
            loop.add_signal_handler(number, stop)
    code, preparing = 0, None
    try:
        running = [
            (program.name, f"pid {await supervisor.start(program)}", program.shown)
            for program in plan.programs()
            if not supervisor.stopping.is_set()
        ]
        if not supervisor.stopping.is_set():
            say(_banner(plan, running))
            sys.stdout.flush()
            preparing = asyncio.create_task(_prepare(plan.settings.data))
        await supervisor.stopping.wait()
    except StartError as error:
        code = MISUSED if error.code == MISUSED else FAILED
        _tell(str(error), "kubeserve")
    finally:
        if preparing is not None:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)
        clean = await supervisor.stop()
    return code or (0 if clean else FAILED)


async def _prepare(data: Path) -> None:
    """Build the base environment. It is no part of `up`: what goes wrong is said, and ends nothing."""
    first = not any((data / "environments").glob("[0-9a-f]*"))
    if first:
        _tell("building the environment for models (scikit-learn, pandas, ONNX …), once; the rest answers already")
    await prepare(data, _tell, show_progress)


def show_progress(words: str) -> None:
    """Show on a terminal how far something is, on one line that `""` removes."""
    if sys.stderr.isatty():
        with suppress(OSError):
            sys.stderr.write(f"{ERASE}{f'up: {words} …' if words else ''}")
            sys.stderr.flush()


def _tell(line: str, who: str = "up") -> None:
    """Write a line on stderr. If it cannot be written, go on: programs must not be left behind."""
    with suppress(OSError):
        if sys.stderr.isatty():
            sys.stderr.write(ERASE)
        say(fitted(f"{who}: {one_line(line)}", sys.stderr), sys.stderr)


def _banner(plan: Plan, running: "Sequence[Sequence[str]]") -> str:
    """Return what runs, and what to type next; commands are not broken, so that they can be copied."""
    rows = list(running) if plan.redis is None else [("Redis", "", plan.redis), *running]
    elsewhere = plan.url != DEFAULT_URL
    ours = Path(sys.executable).parent
    return "\n".join(
        [
            f"{bold('KubeServe is up:')} {plan.url}",
            *([f"Port {plan.settings.port} is in use by another program."] if plan.port != plan.settings.port else []),
            "",
            *(fitted(f"  {line}", sys.stdout) for line in columns(rows).splitlines()),
            "",
            "In another terminal:",
            "",
            *([f"  export KUBESERVE_URL={shlex.quote(plan.url)}"] if elsewhere else []),
            *([] if which("kubeserve") else [f"  export PATH={shlex.quote(str(ours))}:$PATH"]),
            "  kubeserve register you@example.org",
            "  kubeserve upload iris:v1 model.joblib",
            "  kubeserve deploy iris:v1",
            "  kubeserve predict iris 5.1,3.5,1.4,0.2",
            "",
            "Ctrl-C stops all of it. The next `up` goes on with what is here.",
            "",
        ]
    )


def _down_arguments(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "End the `up` that runs on a folder: predictions that run may end first.",
        "kubeserve down\nkubeserve down --data /srv/kubeserve --purge",
    )
    _add_data(parser)
    parser.add_argument("--purge", action="store_true", help="remove the data, too: accounts, models, predictions")
    parser.add_argument("--yes", action="store_true", help="with --purge: do not ask")


def _down(given: argparse.Namespace) -> int:
    data = given.data.resolve()
    folder.owner(data)
    if given.purge and not given.yes:
        _ask(data)
    hint("It is down." if folder.end(data) else "Nothing ran.")
    if given.purge:
        folder.purge(data)
        hint(f"{data} is removed.")
    return 0


def _ask(data: Path) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("--purge removes all data, and nobody can be asked here; --yes is expected")
    sys.stderr.write(f"Remove {data} with all accounts, models and predictions? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise ConfigError("nothing was removed, nothing was stopped")


up = Command(_up_arguments, _up)
down = Command(_down_arguments, _down)
