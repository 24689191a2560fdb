"""`python -m chaos`: break everything for a while, and see whether a job is lost. `--help` says the rest.

Exit code 1: a promise was broken. The seed that is printed replays the schedule; logs and Redis' data are kept then.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench import machine
from chaos import peers, running
from chaos.outcome import FOLDER, Outcome
from chaos.schedule import KINDS, draw

COMMANDS: Final = "peers: three faults, for others too, 25 minutes; report: only render; default: %(default)s"
LAST: Final = Path("build/chaos/last.json")


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.command == "report":
        from chaos import report  # noqa: PLC0415  a run needs none

        return report.write()
    if arguments.command == "peers":
        peers.compare(arguments.systems.split(",") if arguments.systems else ()).save()
        return 0
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    arguments.seed = seed
    kinds = arguments.only.split(",") if arguments.only else list(KINDS)
    if unknown := set(kinds) - KINDS.keys():
        sys.exit(f"there is no fault {', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
    return _run(arguments, kinds)


def _run(arguments: argparse.Namespace, kinds: list[str]) -> int:
    seed, workers = arguments.seed, arguments.workers
    schedule = draw(seed, workers=workers, seconds=arguments.seconds, kills=arguments.kills, only=kinds)
    settings = {name: getattr(arguments, name) for name in ("seed", "queue", "workers", "rate", "kills")}
    print(f"seed {seed}: {len(schedule)} faults in {schedule[-1].at:.0f} s, {arguments.queue}", flush=True)
    directory, describe = Path(tempfile.mkdtemp(prefix="chaos-")), machine.describe()
    began, commit = machine.now(), machine.commit()
    start = time.monotonic()
    verdict, havoc = asyncio.run(
        running.run(directory, schedule, seed=seed, queue=arguments.queue, workers=workers, rate=arguments.rate)
    )
    outcome = Outcome(
        began=began,
        commit=commit,
        machine=describe,
        settings=settings,
        seconds=round(time.monotonic() - start, 1),
        faults=havoc.done,
        void=havoc.void,
        verdict=verdict,
    )
    outcome.save(FOLDER / f"{arguments.keep}.json" if arguments.keep else LAST)
    print(*outcome.lines(), sep="\n")
    if verdict.breaches:
        print(f"A promise is broken: python -m chaos --seed {seed} and the same arguments again; logs in {directory}")
        return 1
    shutil.rmtree(directory)
    print(f"Every promise held: seed {seed}, {outcome.seconds:.0f} s.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Break everything; see whether a job is lost.")
    parser.add_argument("command", nargs="?", choices=["run", "peers", "report"], default="run", help=COMMANDS)
    parser.add_argument("--systems", metavar="SYSTEM,…", help="for peers: some of them")
    parser.add_argument("--seed", type=int, help="draws what happens; default: the time")
    parser.add_argument("--seconds", type=float, default=120, help="how long things break; default: %(default)s")
    parser.add_argument("--kills", type=int, default=0, help="instead: until so many workers were killed")
    parser.add_argument("--only", metavar="FAULT,…", help=f"some of: {', '.join(KINDS)}")
    parser.add_argument("--workers", type=int, default=5, help="processes; default: %(default)s")
    parser.add_argument("--rate", type=float, default=20, help="jobs pushed in a second; default: %(default)s")
    parser.add_argument("--queue", choices=["list", "stream"], default="list")
    parser.add_argument("--keep", metavar="NAME", help="keep the figures for docs/reliability.md under this name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
