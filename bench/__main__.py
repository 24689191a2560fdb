"""`python -m bench`: measures, saves the figures, renders docs/benchmarks.md from them. See `--help`."""

import argparse
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from bench import report, running
from bench.results import Results
from bench.scenarios import QUICK, SCENARIOS
from bench.systems import SYSTEMS
from harness import machine
from harness.environments import FOLDER

Value = TypeVar("Value")


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.command == "report":
        return report.write()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit that ends all started processes
    whole = not (arguments.quick or arguments.only or arguments.systems)
    output = arguments.output or FOLDER / ("run.json" if whole else "some.json")
    chosen = arguments.systems or ("bare loop,greenscale" if arguments.quick else None)
    systems = list(_pick(SYSTEMS, chosen).values())
    results = _resumed(output) if arguments.resume and output.exists() else running.begin(systems)
    running.go_through(results, _pick(QUICK if arguments.quick else SCENARIOS, arguments.only), systems, output)
    print(f"{results.seconds / 60:.1f} minutes of measuring, kept in {output}")
    if not whole or arguments.output:
        return 0
    results.save(report.RESULTS)
    return report.write()


def _resumed(path: Path) -> Results:
    results = Results.load(path)
    if results.commit != machine.commit():
        sys.exit(f"{path} is a run of {results.commit}, this is {machine.commit()}: leave out --resume")
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure GreenScale next to others.")
    parser.add_argument("command", nargs="?", choices=["run", "report"], default="run", help="report: only render")
    parser.add_argument(
        "--only", metavar="SCENARIO,…", help=f"some of: {', '.join(SCENARIOS)}; scale is all of scale_…"
    )
    parser.add_argument("--systems", metavar="SYSTEM,…", help=f"some of: {', '.join(SYSTEMS)}")
    parser.add_argument("--quick", action="store_true", help="three scenarios, bare loop and GreenScale: a minute")
    parser.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    parser.add_argument("--output", type=Path, help="keep the figures there, and publish nothing")
    return parser


def _pick(table: Mapping[str, Value], names: str | None) -> dict[str, Value]:
    """Return entries of a table by name or by the part of the name before an underscore."""
    if names is None:
        return dict(table)
    wanted = names.split(",")
    for name in wanted:
        if not any(_named(key, name) for key in table):
            sys.exit(f"there is no {name}; there are: {', '.join(table)}")
    return {key: value for key, value in table.items() if any(_named(key, name) for name in wanted)}


def _named(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}_")


if __name__ == "__main__":
    sys.exit(main())
