"""`kubeserve usage`."""

import argparse
from datetime import UTC, datetime, timedelta
from typing import Final

from greenscale_worker import ConfigError
from greenscale_worker.cli.terminal import seconds_of
from greenscale_worker.for_people import age

from kubeserve.cli import session
from kubeserve.cli.command import Json, add_json, describe, show, table
from kubeserve.cli.names import deployment_of

NOTHING: Final = "Nothing was used."
LONGEST: Final = 3660 * 86_400.0  # seconds


def arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    describe(
        parser,
        "Show what your deployments have used: each in the last day, or one, step by\nstep, in the last hour.",
        "kubeserve usage\nkubeserve usage iris\nkubeserve usage iris --last 7d --step 1d",
        "CALLS are predictions that have ended, ERRORS those of them that failed. MODEL\n"
        "is how long replicas worked, REPLICAS how long they stood, all together.",
    )
    parser.add_argument("name", nargs="?", metavar="DEPLOYMENT")
    parser.add_argument("--last", type=seconds_of, metavar="TIME", help="how far back, as 90m, 24h or 30d")
    parser.add_argument("--step", type=seconds_of, metavar="TIME", help="what is summed together, as 1m, 1h or 1d")
    add_json(parser)


def run(given: argparse.Namespace) -> int:
    """Do it. Raises ConfigError, KubeServeError."""
    if given.step is not None and given.name is None:
        raise ConfigError("--step is for one deployment: name it")
    if given.last is not None and not 0 < given.last <= LONGEST:
        raise ConfigError(f"--last: more than 0 and at most {LONGEST // 86_400:.0f}d are accepted")
    begin = datetime.now(UTC) - timedelta(seconds=given.last) if given.last is not None else None
    with session.connect() as api:
        if given.name is None:
            told = api.usage_of_all(begin)
            rows = [(each["deployment"] or each["deployment_id"], *_numbers(each)) for each in told["deployments"]]
            show(given, told, table(("NAME", "CALLS", "ERRORS", "ROWS", "MODEL", "REPLICAS"), rows, NOTHING))
            return 0
        step = int(given.step) if given.step is not None else None
        told = api.usage(deployment_of(api, given.name)["id"], begin, step=step)
    rows = [(_when(each["at"], told["step"]), *_numbers(each)) for each in told["points"]]
    if rows:
        rows.append(("total", *_numbers(told["total"])))
    show(given, told, table(("FROM", "CALLS", "ERRORS", "ROWS", "MODEL", "REPLICAS"), rows, NOTHING))
    return 0


def _numbers(used: Json) -> tuple[str, ...]:
    times = (used["busy_seconds"], used["replica_seconds"])
    return (*(f"{used[name]:,}" for name in ("predictions", "errors", "rows")), *map(_time, times))


def _time(seconds: float) -> str:
    return age(seconds) if seconds >= 1 or not seconds else f"{seconds:.3f} s"


def _when(moment: str, step: int) -> str:
    """Return a time of the API on the clock of this machine, its date alone where steps are days."""
    at = datetime.fromisoformat(moment)
    return at.strftime("%Y-%m-%d") if step % 86_400 == 0 else at.astimezone().strftime("%Y-%m-%d %H:%M")
