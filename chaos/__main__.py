"""`python -m chaos`: injects faults for a while and checks that no job is lost. See `--help`.

Exit code 1: a promise was broken. Then logs and Redis' data are kept, and the printed seed replays the schedule.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

from chaos import peers, running
from chaos.outcome import FOLDER, Outcome
from chaos.schedule import KILL, KINDS, Plan, draw
from harness import machine

COMMANDS: Final = "peers: three faults, for others too, 25 minutes; report: only render; default: %(default)s"
LAST: Final = Path("build/chaos/last.json")


def main() -> int:
    """Run the command line."""
    arguments = _parser().parse_args()
    if arguments.command == "report":
        from chaos import report  # noqa: PLC0415  a run needs none of it

        return report.write()
    if arguments.command == "peers":
        peers.compare(arguments.systems.split(",") if arguments.systems else ()).save()
        return 0
    kinds = arguments.only.split(",") if arguments.only else tuple(KINDS)
    if unknown := set(kinds) - KINDS.keys():
        sys.exit(f"there is no fault {', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
    if arguments.kills and KILL not in kinds:
        sys.exit(f"--kills counts {KILL}; --only must name it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all started processes are ended
    names = (field.name for field in fields(Plan))
    plan = Plan(**{name: getattr(arguments, name) for name in names} | {"only": kinds})
    return _run(plan, FOLDER / f"{arguments.keep}.json" if arguments.keep else LAST)


def _run(plan: Plan, kept: Path) -> int:
    schedule = draw(plan)
    print(f"seed {plan.seed}: {len(schedule)} faults in {schedule[-1].at:.0f} s, {plan.queue}", flush=True)
    directory, describe = Path(tempfile.mkdtemp(prefix="chaos-")), machine.describe()
    began, commit, start = machine.now(), machine.commit(), time.monotonic()
    verdict, havoc = asyncio.run(running.run(directory, plan))
    outcome = Outcome(
        began=began,
        commit=commit,
        machine=describe,
        settings=asdict(plan) | {"tries": "the default"},
        seconds=round(time.monotonic() - start, 1),
        faults=havoc.done,
        void=havoc.void,
        verdict=verdict,
    )
    outcome.save(kept)
    print(*outcome.lines(), sep="\n")
    if verdict.breaches:
        print(f"A promise is broken: the same arguments with --seed {plan.seed} replay it; logs in {directory}")
        return 1
    shutil.rmtree(directory)
    print(f"Every promise held: seed {plan.seed}, {outcome.seconds:.0f} s.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Break everything; see whether a job is lost.")
    parser.add_argument("command", nargs="?", choices=["run", "peers", "report"], default="run", help=COMMANDS)
    parser.add_argument("--systems", metavar="SYSTEM,…", help="for peers: some of them")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="draws what happens; default: the time")
    parser.add_argument("--seconds", type=float, default=120, help="how long things break; default: %(default)s")
    parser.add_argument("--kills", type=int, default=0, help="instead: until so many workers were killed")
    parser.add_argument("--only", metavar="FAULT,…", help=f"some of: {', '.join(KINDS)}")
    parser.add_argument("--workers", type=int, default=5, help="processes; default: %(default)s")
    parser.add_argument("--rate", type=float, default=20, help="jobs pushed in a second; default: %(default)s")
    parser.add_argument(
        "--limit", type=int, default=0, help="calls of the fleet, twice --rate or more, with budgets and tenants"
    )
    parser.add_argument("--queue", choices=["list", "stream"], default="list")
    parser.add_argument("--keep", metavar="NAME", help="keep the figures for docs/reliability.md under this name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
