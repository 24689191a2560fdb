"""Compares what a job costs Redis with another revision: `python -m bench.script_cost --against REVISION`.

A job is put, claimed, bound and settled, one by one and in groups of 16, in a list and in a stream, with all of flow
control switched off; 48 jobs share a heartbeat. Each revision has a Redis of its own; steps of 16 jobs alternate. A
part's cost is the median of its steps, which other load hardly changes; servers are started anew several times, as
where their data lie makes a difference of some percent. All costs are of Redis: its processor time, the time in its
scripts alone, and, where valgrind is installed, its instructions, which neither load nor place changes. The figures
are kept in bench/results/script_cost.json (`--quick`: they are not), their table written into docs/flow-control.md.
`--against HEAD` shows the noise. Linux only.
"""

import argparse
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from bench.in_steps import JOBS
from harness import machine
from harness.environments import ROOT
from harness.figures import table
from harness.processes import Process
from harness.redis_server import binary, free_port, until

RESULTS: Final = ROOT / "bench" / "results" / "script_cost.json"
DOCUMENT: Final = ROOT / "docs" / "flow-control.md"
BEGIN: Final = "<!-- Written by `python -m bench.script_cost`; do not edit. -->\n"
END: Final = "<!-- End of what `python -m bench.script_cost` wrote. -->"
CASES: Final = [(store, group) for store in ("list", "stream") for group in (1, 16)]
SERVERS: Final = 9
WARM: Final = 15
STEPS: Final = 25
SHARES: Final = {"put": 1.0, "claim": 1.0, "bind": 1.0, "settle": 1.0, "heartbeat": JOBS / 48}
KINDS: Final = ("processor", "scripts")
COUNTED: Final = 20  # steps whose instructions are counted
COUNTER: Final = ("valgrind", "--tool=callgrind")
Figures = dict[str, Any]


class Driven:
    """A Redis, and a process that takes jobs through it with the package in a source tree."""

    def __init__(  # noqa: PLR0913  a server is made for one measurement
        self, stack: ExitStack, folder: Path, tree: Path, store: str, group: int, *, counter: Sequence[str] = ()
    ) -> None:
        port = free_port()
        server = (*counter, binary() or "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "")
        self.redis = stack.enter_context(Process(server, {}, folder / "redis.log"))
        client = stack.enter_context(Redis(port=port))
        until(lambda: _answers(client))
        pid = 0 if counter else self.redis.popen.pid
        command = (sys.executable, str(ROOT / "bench" / "in_steps.py"), str(port), str(pid))
        variables = {"PYTHONPATH": str(tree / "src")}
        self._driver = Process((*command, store, str(group)), variables, folder / "driver.log", pipes=True)
        stack.enter_context(self._driver)

    def step(self) -> dict[str, tuple[float, float]]:
        """Return the costs of a step, by part. Raises RuntimeError if the driver has ended."""
        stdin, stdout = self._driver.popen.stdin, self._driver.popen.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a driver is talked to through pipes")
        print(file=stdin, flush=True)
        if not (answer := stdout.readline()):
            raise RuntimeError(f"the driver has ended: {self._driver.log.read_text(errors='replace')[-500:]}")
        costs: dict[str, tuple[float, float]] = json.loads(answer)
        return costs


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


@contextmanager
def sources(revision: str) -> Iterator[Path]:
    """Lay out the package as it was at a revision."""
    command = ["git", "archive", revision, "src"]
    packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="script-cost-") as name:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(name, filter="data")
        yield Path(name)


def alternate(trees: Sequence[Path], store: str, group: int, steps: int) -> list[Figures]:
    """Return for each tree the µs that each part of a job costs, by kind of cost."""
    with ExitStack() as stack:
        driven = []
        for tree in trees:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="script-cost-")))
            driven.append(Driven(stack, folder, tree, store, group))
        seen: list[list[dict[str, tuple[float, float]]]] = [[] for _ in trees]
        for number in range(WARM + steps):
            for place in (range(len(trees)), reversed(range(len(trees))))[number % 2]:
                seen[place].append(driven[place].step())
    return [
        {
            kind: {part: statistics.median(each[part][index] for each in run[WARM:]) / JOBS for part in SHARES}
            for index, kind in enumerate(KINDS)
        }
        for run in seen
    ]


def instructions(tree: Path, store: str, group: int) -> float:
    """Count the instructions of Redis for a job."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="script-cost-")))
        counter = (*COUNTER, f"--callgrind-out-file={folder}/counted")
        driven = Driven(stack, folder, tree, store, group, counter=counter)
        for steps, control in ((WARM, "--zero"), (COUNTED, "--dump")):
            for _ in range(steps):
                driven.step()
            command = [shutil.which("callgrind_control") or "", control, str(driven.redis.popen.pid)]
            subprocess.run(command, capture_output=True, check=True)
        until(lambda: _counted(folder / "counted.1") > 0)
        return _counted(folder / "counted.1") / (COUNTED * JOBS)


def _counted(dump: Path) -> int:
    """Return how many instructions a dump of callgrind tells of; 0 until it is written."""
    found = re.search(r"^totals: (\d+)$", dump.read_text(), re.MULTILINE) if dump.exists() else None
    return int(found[1]) if found else 0


def whole(parts: dict[str, float]) -> float:
    """Add up the parts of a job's cost."""
    return sum(share * parts[part] for part, share in SHARES.items())


def compare(before: Path, store: str, group: int, *, servers: int, steps: int) -> Figures:
    """Compare this tree with an earlier one, each time on new servers."""
    runs = [alternate((before, ROOT), store, group, steps) for _ in range(servers)]
    figures: Figures = {"store": store, "group": group}
    for kind in KINDS:
        ratios = sorted(whole(now[kind]) / whole(was[kind]) for was, now in runs)
        figures[kind] = {
            "ratio": statistics.median(ratios),
            "lowest": ratios[0],
            "highest": ratios[-1],
            "micros": statistics.median(whole(now[kind]) for _, now in runs),
            "parts": {
                part: statistics.median(now[kind][part] / was[kind][part] for was, now in runs) for part in SHARES
            },
        }
    if shutil.which(COUNTER[0]):
        counted = [instructions(tree, store, group) for tree in (before, ROOT)]
        figures["instructions"] = {"ratio": counted[1] / counted[0], "count": counted[1]}
    return figures


def render(kept: Figures) -> str:
    """Render what the document says."""
    rows = []
    for row in kept["figures"]:
        cells = [f"{row['store']}, {'one by one' if row['group'] == 1 else 'groups of ' + str(row['group'])}"]
        for kind in KINDS:
            cost = row[kind]
            cells += [
                f"{cost['micros']:.0f} µs",
                f"{cost['ratio']:.3f} ({cost['lowest']:.3f} to {cost['highest']:.3f})",
            ]
        counted = row.get("instructions")
        cells.append(f"{counted['ratio']:.3f}" if counted else "not counted")
        rows.append(cells)
    head = [
        "a job",
        "processor time",
        "of what it was",
        "in scripts",
        "of what it was",
        "instructions, of what they were",
    ]
    where = kept["machine"]
    return f"""What a job costs Redis with all of it switched off, and its multiple of that before flow control (commit
{kept["against"]}):

{table(head, rows)}

Medians of {kept["servers"]} pairs of servers, in brackets the lowest and the highest, by
`python -m bench.script_cost --against {kept["against"]}` on {kept["began"]}, commit {kept["commit"]},
{where["processor"]}, {where["cores"]} cores, {where["busy_before_percent"]} % busy before, Redis {where["redis"]}.
"""


def document(kept: Figures) -> str:
    """Return the whole document with the table in its place."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{render(kept)}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REVISION", required=True, help="the earlier revision")
    parser.add_argument("--quick", action="store_true", help="fewer servers, and keep nothing")
    args = parser.parse_args()
    servers, steps = (2, STEPS) if args.quick else (SERVERS, STEPS)
    kept: Figures = {"machine": machine.describe(), "commit": machine.commit(), "began": machine.now()}
    kept |= {"against": args.against, "servers": servers, "figures": []}
    with sources(args.against) as before:
        for store, group in CASES:
            kept["figures"].append(compare(before, store, group, servers=servers, steps=steps))
            print(json.dumps(kept["figures"][-1]), file=sys.stderr, flush=True)
    print(render(kept))
    if not args.quick:
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        DOCUMENT.write_text(document(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
