"""`python -m chaos`: break everything for a while, and see whether a job is lost. `--help` says the rest."""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson

from chaos import running
from chaos.schedule import KINDS, draw


def main() -> int:
    arguments = _parser().parse_args()
    seed = arguments.seed if arguments.seed is not None else int(datetime.now(UTC).strftime("%y%m%d%H%M"))
    schedule = draw(
        seed,
        workers=arguments.workers,
        seconds=arguments.seconds,
        kills=arguments.kills,
        only=arguments.only.split(",") if arguments.only else KINDS,
    )
    print(f"seed {seed}: {len(schedule)} faults in {schedule[-1].at:.0f} s", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    began = time.monotonic()
    verdict, havoc = asyncio.run(
        running.run(
            directory, schedule, seed=seed, queue=arguments.queue, workers=arguments.workers, rate=arguments.rate
        )
    )
    for kind, count in sorted(havoc.done.items()):
        print(f"  {count:5} × {kind}")
    for what, count in sorted(verdict.counts.items()):
        print(f"  {count:7} {what}")
    rec = sorted(verdict.recoveries)
    if rec:
        print(f"recovery after a kill: median {rec[len(rec)//2]} slowest {rec[-1]} of {len(rec)}")
    for breach in verdict.breaches[:30]:
        print(f"BREACH {breach}")
    print(f"{time.monotonic() - began:.0f} s; seed {seed}")
    if verdict.breaches:
        print(directory)
        return 1
    shutil.rmtree(directory)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--queue", choices=["list", "stream"], default="list")
    return parser


if __name__ == "__main__":
    sys.exit(main())
