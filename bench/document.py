"""Renders docs/benchmarks.md and the README's table from saved figures."""

from collections.abc import Mapping
from typing import Final

from bench.bars import all_bars
from bench.results import Results
from bench.scenarios import CREWS, DEPTHS, FLEETS, LANES, SIZES
from bench.systems import SYSTEMS
from bench.tables import Column, by_system, by_variant, cell
from harness.figures import amount, bold, table
from harness.systems import GREENSCALE, PEERS

RATE: Final = Column("jobs/s", "jobs_per_second")
CPU: Final = Column("CPU s per 1,000 jobs", "cpu_per_1000")
REDIS_CPU: Final = Column("Redis CPU s per 1,000", "redis_cpu_per_1000")
SHARE: Final = Column("share of the ideal rate", "share", ratio=False)
DONE: Final = Column("calls made", "calls", ratio=False)
PERCENTILES: Final = (Column("p50 ms", "p50"), Column("p95 ms", "p95"), Column("p99 ms", "p99"))
START: Final = Column("cold start ms", "start_ms")
IDLE: Final = Column("memory idle MiB", "idle_mib")
SMALLER_IS_BETTER: Final = {
    "CPU at 0 ms": ("throughput", "cpu_per_1000"),
    "Redis CPU at 0 ms": ("throughput", "redis_cpu_per_1000"),
    "Redis commands per job": ("throughput", "commands_per_job"),
    "CPU at 200 ms": ("io_200", "cpu_per_1000"),
    "pick-up p50": ("pickup", "p50"),
    "pick-up p99": ("pickup", "p99"),
    "cold start": ("start", "start_ms"),
    "memory idle": ("start", "idle_mib"),
}
LARGER_IS_BETTER: Final = {
    "throughput at 0 ms": ("throughput", "jobs_per_second"),
    "share of the ideal rate at 200 ms": ("io_200", "share"),
}


def render(results: Results, findings: Mapping[str, str]) -> str:
    """Render the whole document. `findings` are remarks, by the names of bars and of sections."""
    sections = (
        _head(results),
        _bars(results, findings),
        _throughput(results),
        _io_bound(results),
        _pickup(results),
        _start_and_memory(results),
        _growth(results),
        *([_lanes(results)] if any(f"lanes_{count}" in results.scenarios for count in LANES) else []),
        _idle(results),
        _fleet(results),
        _better(results),
        _settings(results),
        "## What was found\n\n" + findings["found"].strip(),
        "## What is noisy\n\n" + findings["noise"].strip(),
    )
    return "\n\n".join(sections) + "\n"


def render_summary(results: Results) -> str:
    """Render the README's table."""
    figures = (  # three: with the system's name, the table fits a phone
        ("throughput", RATE),
        ("throughput", CPU),
        ("pickup", Column("pick-up p50 ms", "p50")),
    )
    rows = [[bold(name), *(cell(results, *_of(figure, name)) for figure in figures)] for name in SYSTEMS]
    header = ["", *(column.title for _, column in figures)]
    return f"""{table(header, rows)}

Medians and, in brackets, multiples of the bare loop; {results.began}, {results.commit}. Some figures of some peers are
better: [which](docs/benchmarks.md#where-a-peer-is-better)."""


def _of(figure: tuple[str, Column], system: str) -> tuple[str, str, Column]:
    return figure[0], system, figure[1]


def _head(results: Results) -> str:
    where = results.machine
    return f"""<!-- Written by `python -m bench report` from bench/results and bench/findings.toml; do not edit. -->

# Benchmarks

`make bench` measures GreenScale, a bare loop and what people use today side by side on one machine, and writes this.
Everybody does the same job: take a prompt from Redis, post it to the same endpoint, store the answer. The **bare loop**
(`bench/bare_loop.py`) is LMOVE to a processing list, 100 tasks, aiohttp POST, one pipeline of SET and LREM; no leases,
retries, logs or metrics. GreenScale runs with everything on. The systems take turns; a figure is the median of the
repetitions, and the number in brackets the median of its multiples of the bare loop's figure in the same repetition.
Percentiles are taken within each repetition first, in tables and pictures alike.

| | |
|---|---|
| begun | {results.began}, {results.seconds / 60:.0f} minutes of measuring |
| commit | {results.commit} |
| machine | {where["processor"]}, {where["cores"]} cores, {where["memory_gib"]} GiB, {where["system"]} |
| versions | Python {where["python"]}, Redis {where["redis"]}; Redis without persistence, everything on 127.0.0.1 |
| busy before the run | {where["busy_before_percent"]} % of all cores |"""


def _bars(results: Results, findings: Mapping[str, str]) -> str:
    verdicts = {True: "reached", False: "**not reached**", None: "–"}
    bars = all_bars(results)
    rows = [[bar.name, bar.goal, bar.measured, verdicts[bar.reached]] for bar in bars]
    why = "\n".join(f"- **{bar.name}**: {findings[bar.name].strip()}" for bar in bars if bar.name in findings)
    heading = "## The bars\n\nSet before anything was measured. In brackets: the lowest and the highest repetition.\n\n"
    return heading + table(["", "goal", "measured", ""], rows) + (f"\n\n{why}" if why else "")


def _throughput(results: Results) -> str:
    columns = (
        RATE,
        CPU,
        REDIS_CPU,
        Column("Redis commands per job", "commands_per_job"),
        Column("script calls per job", "scripts_per_job", ratio=False),
        DONE,
    )
    return f"""## Throughput

5,000 jobs preloaded, an endpoint that answers at once, 100 lanes. Rate and costs are those between a tenth of the jobs
and the last one, so that a start is not counted. CPU is that of all of a worker's processes; commands that scripts call
inside Redis are counted too. What had not done its jobs after 15 s is shown with what it had done.

{by_system(results, "throughput", columns)}

![Throughput and CPU](plots/throughput.svg)"""


def _io_bound(results: Results) -> str:
    return f"""## I/O-bound

The ideal rate is lanes ÷ latency: every lane always has a call under way. Ramp-up and tail (the first call and the last
of every lane) are not counted. Fewer calls than jobs: the time was up; more: some jobs were run twice. 3,000 jobs at
200 ms, 100 lanes:

{by_system(results, "io_200", (SHARE, RATE, CPU, DONE))}

10,000 jobs at 1,000 ms, 500 lanes:

{by_system(results, "io_1000", (SHARE, RATE, CPU))}"""


def _pickup(results: Results) -> str:
    return f"""## Pick-up

A push every 50 ms to an idle worker of 16 lanes: from just before the push to the arrival at the endpoint, so that the
time of each system's own producer is in it.

{by_system(results, "pickup", PERCENTILES)}

![Distribution of pick-up times](plots/pickup.svg)

The same with 8 idle workers:

{by_system(results, "pickup_8", PERCENTILES)}"""


def _start_and_memory(results: Results) -> str:
    memory = (Column("resident MiB", "mib"),)
    leak = (
        Column("after 5,000 jobs, MiB", "early_mib"),
        Column("after 100,000", "late_mib"),
        Column("growth", "growth_mib", ratio=False),
    )
    return f"""## Start and memory

From the start of the process to its first call, with a job waiting; resident memory of all its processes when it is
idle again (what forked processes share counts for each).

{by_system(results, "start", (START, IDLE))}

With every lane waiting for the endpoint:

{by_variant(results, {f"memory_{lanes}": f"{lanes:,} in flight" for lanes in (100, 1000)}, memory)}

After many jobs at 0 ms, idle again:

{by_system(results, "leak", leak)}"""


def _growth(results: Results) -> str:
    scale = {f"scale_{count}": f"{count} workers" for count in CREWS}
    depth = {f"depth_{waiting}": f"{waiting:,} waiting" for waiting in DEPTHS}
    size = {f"size_{size}": f"{size:,} bytes" for size in SIZES}
    return f"""## Scale

Workers on one Redis, 100 lanes each, endpoint at 200 ms, 1,500 jobs for each worker: ideal is 500 jobs/s for each.

{by_variant(results, scale, (RATE, SHARE))}

![Jobs per second by number of workers](plots/scale.svg)

## Depth of the queue

Jobs at 0 ms from the head of a queue of that depth (5,000 of them, or all): a claim must cost the same.

{by_variant(results, depth, (RATE, REDIS_CPU))}

## Size of the payload

0 ms, 100 lanes; prompts of that size.

{by_variant(results, size, (RATE, CPU))}"""


def _lanes(results: Results) -> str:
    lanes = {f"lanes_{count}": f"{count} lanes" if count > 1 else "1 lane" for count in LANES}
    return f"""## Number of lanes

0 ms. Jobs that are claimed and recorded together share the cost of a script, and more lanes make larger groups.

{by_variant(results, lanes, (RATE, CPU, Column("script calls per job", "scripts_per_job", ratio=False)))}"""


def _idle(results: Results) -> str:
    columns = (
        Column("Redis commands/s", "commands_per_second", ratio=False),
        Column("Redis CPU %", "redis_cpu_percent", ratio=False),
        Column("CPU % of each", "cpu_percent_each", ratio=False),
        Column("MiB of each", "mib_each", ratio=False),
        *PERCENTILES[:2],
    )
    return f"""## 50 idle processes on one Redis

What they cost while nothing happens for 10 seconds, and how soon one of them picks up a job.

{by_system(results, "idle_50", columns)}"""


def _fleet(results: Results) -> str:
    variants = {f"fleet_{count}": f"{count} workers" if count > 1 else "1 worker" for count in FLEETS}
    columns = (
        Column("script calls", "scripts", ratio=False),
        Column("Redis ms", "redis_ms", ratio=False),
        Column("kB sent for 1 MB", "mb_sent_kb", ratio=False),
        Column("script calls, retried once", "retried_scripts", ratio=False),
        Column("burst ms", "burst_ms", ratio=False),
    )
    return f"""## A fleet of workers with free lanes

What one job costs Redis, less what the fleet costs idle; of a job of 1 MB, what Redis sends for it. Burst: as many jobs
at once as there are lanes (16 each); how long until all are called.

{by_variant(results, variants, columns)}"""


def _better(results: Results) -> str:
    lines = []
    for signs, metrics in ((1, SMALLER_IS_BETTER), (-1, LARGER_IS_BETTER)):
        for title, (scenario, figure) in metrics.items():
            ours = results.median(scenario, GREENSCALE.name, figure)
            theirs = {peer.name: results.median(scenario, peer.name, figure) for peer in PEERS}
            better = {
                name: value
                for name, value in theirs.items()
                if ours is not None and value is not None and signs * value < signs * ours
            }
            if better:
                names = ", ".join(f"{name} {amount(value)}" for name, value in better.items())
                lines.append(f"- {title}: {names}; GreenScale {amount(ours or 0)}")
    return "## Where a peer is better\n\n" + ("\n".join(lines) or "In none of the figures above.")


def _settings(results: Results) -> str:
    blocks = []
    for system in SYSTEMS.values():
        versions = ", ".join(f"{name} {version}" for name, version in results.versions.get(system.name, {}).items())
        told = results.not_installed.get(system.name)
        head = f"**{system.name}**: " + (f"could not be installed: {told}" if told else versions)
        blocks.append("\n".join([head, "", *(f"- {chosen}: {why}" for chosen, why in system.settings.items())]))
    heading = """## Versions and settings

What a good user of each would choose; what is not named is its default, logs too, which go to a file.

"""
    return heading + "\n\n".join(blocks)
