"""docs/reliability.md and the README's table, from what was kept of runs and of the comparison."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from bench.systems import GREENSCALE
from bench.tables import bold, table
from chaos.outcome import Outcome, middle
from chaos.peers import Comparison
from chaos.scenarios import AWAY_SECONDS, JOBS, LANES, QUEUED, WATCH_SECONDS
from chaos.schedule import KILL, LEASE

Facts: TypeAlias = Mapping[str, Any]
PROMISES: Final[Mapping[str, tuple[str, str]]] = {
    "lost": (
        "A job that Redis accepted is run until it has a result, is a dead letter, or was cancelled as asked",
        "what producers were told, and Redis' journal",
    ),
    "recorded twice": ("One result for each job, or one dead letter", "every write of a result in Redis' journal"),
    "changed": ("A result, once written, stays; the record agrees", "the journal, and what readers read at the end"),
    "answer of nobody": ("A result is the answer to a call of that job", "the endpoint: no two answers are the same"),
    "cancelled in vain": ("What was cancelled in time is not answered", "what those who cancelled were told"),
    "wrong ending": ("Dead letters are for what could not be run, by the right code", "the dead letters"),
    "out of order": ("First deliveries are in the order of the pushes", "times of the first claims, by Redis' clock"),
    "executed again for no reason": (
        "A second call needs a reason: a fault of the endpoint, of the worker, or of what lies between",
        "the endpoint's memory beside the times of the faults",
    ),
    "left over": ("When all work is done, no lease, no binding, no entry is left", "the keys in Redis"),
    "worker broken": ("A worker ends only when told to, and complains to nobody", "exit codes and stderr"),
}
NAMES: Final = {"long": "long run, list", "list": "as in CI, list", "stream": "as in CI, stream"}
COUNTED: Final = (
    *("jobs", "answered", "malformed", "cancelled", "conflicts", "duplicates"),
    *("executions", "executed again", "answered twice by the endpoint", "late heartbeats"),
)


def render(runs: Mapping[str, Outcome], comparison: Comparison, findings: Mapping[str, str]) -> str:
    """Render the whole document. `findings` are what a person found out."""
    sections = (
        _head(runs),
        _promises(runs),
        _runs(runs),
        _recovery(runs),
        _others(comparison),
        _better(comparison),
        "## What was found\n\n" + findings["found"].strip(),
        "## What is noisy, and what is not proved\n\n" + findings["noise"].strip(),
        _settings(comparison),
    )
    return "\n\n".join(sections) + "\n"


def render_summary(runs: Mapping[str, Outcome], comparison: Comparison) -> str:
    """Render the README's table."""
    longest = max(runs.values(), key=lambda run: run.faults.get(KILL, 0))
    counts, faults = longest.verdict.counts, sum(longest.faults.values())
    rows = [
        [
            f"{longest.faults[KILL]:,} × kill -9 among {faults:,} faults, {counts['jobs']:,} jobs",
            f"{counts.get('lost', 0)} lost, {counts.get('recorded twice', 0)} recorded twice",
            "",
        ]
    ]
    for title, (scenario, show) in SUMMARY.items():
        outcomes = comparison.outcomes[scenario]
        others = {name: outcome for name, outcome in outcomes.items() if name != GREENSCALE.name}
        clean = [name for name, outcome in others.items() if _clean(outcome)]
        rows.append([title, show(outcomes[GREENSCALE.name]), f"{', '.join(clean) or 'none'} of {len(others)}"])
    return table(["what happens", "GreenScale", "others that lost, repeated and stranded nothing"], rows)


def _head(runs: Mapping[str, Outcome]) -> str:
    where = next(iter(runs.values())).machine
    return f"""<!-- Written by `python -m chaos report` from chaos/results and chaos/findings.toml; do not edit. -->

# Reliability

`make chaos` breaks everything for two minutes and draws up the account; `make chaos ARGS="--seconds 3600"` for longer.
Real processes: workers that are started again when they end, a Redis that keeps a journal (AOF, `appendfsync always`),
the simulator as the endpoint, producers that `LPUSH` (or `XADD`). A seed draws what happens, when, and to whom, so that
a failing seed replays its schedule. The account is drawn up from what others saw: the producers, the endpoint, Redis'
journal and its keys; never from what a worker says of itself. What the promises rest on:
[queue-protocol.md](queue-protocol.md).

| | |
|---|---|
| machine | {where["processor"]}, {where["cores"]} cores, {where["memory_gib"]} GiB, {where["system"]} |
| versions | Python {where["python"]}, Redis {where["redis"]}; everything on 127.0.0.1 |
| settings | leases of {LEASE:g} s, so that many faults fit in; as many tries and crashes as it takes |"""


def _promises(runs: Mapping[str, Outcome]) -> str:
    rows = [
        [promise, witness, *(f"{run.verdict.counts.get(key, 0)}" for run in runs.values())]
        for key, (promise, witness) in PROMISES.items()
    ]
    return "## What is promised, and how often it was broken\n\n" + table(["", "witness", *_names(runs)], rows)


def _runs(runs: Mapping[str, Outcome]) -> str:
    rows = [
        ["begun", *(run.began for run in runs.values())],
        ["commit", *(run.commit for run in runs.values())],
        ["seed", *(str(run.settings["seed"]) for run in runs.values())],
        ["minutes, workers", *(f"{run.seconds / 60:.0f}, {run.settings['workers']}" for run in runs.values())],
        ["busy before the run", *(f"{run.machine['busy_before_percent']} % of all cores" for run in runs.values())],
        ["faults", *(f"{sum(run.faults.values()):,}" for run in runs.values())],
    ]
    rows += [[title, *(_counted(run, title) for run in runs.values())] for title in COUNTED]
    kinds = sorted({kind for run in runs.values() for kind in run.faults})
    faults = [[kind, *(f"{run.faults.get(kind, 0):,}" for run in runs.values())] for kind in kinds]
    return f"""## The runs

{table(["", *_names(runs)], rows)}

An execution is a call to the endpoint. One is made again where the endpoint failed, or where a fault hit the worker
that made it. What the endpoint answered twice was recorded once. `duplicates` are jobs handed in once more,
`conflicts` those with the id of another that was still open. Faults that took place:

{table(["", *_names(runs)], faults)}"""


def _counted(run: Outcome, title: str) -> str:
    """Say how many; an older run may not have counted them."""
    return f"{run.verdict.counts[title]:,}" if title in run.verdict.counts else "–"


def _recovery(runs: Mapping[str, Outcome]) -> str:
    rows = []
    for name, run in runs.items():
        waits = sorted(run.verdict.recoveries)
        if waits:
            late = waits[int(0.95 * (len(waits) - 1))]
            rows.append([NAMES[name], str(len(waits)), f"{middle(waits):.1f}", f"{late:.1f}", f"{waits[-1]:.1f}"])
    header = ["", "kills amid calls", "median s", "95 %, s", "slowest s"]
    return f"""## Recovery after a kill

From each kill until the last of the calls that it cut off was made anew, leases of {LEASE:g} s. Other faults go on
meanwhile: slow are those in which Redis was away, the queue paused or the next worker killed as well.

{table(header, rows)}

![Recovery after a kill](plots/recovery.svg)"""


def _others(comparison: Comparison) -> str:
    killed, terminated, away = (
        [[bold(system), *_cells(show, outcome)] for system, outcome in comparison.outcomes[scenario].items()]
        for scenario, show in (("killed", _killed), ("terminated", _terminated), ("redis_away", _away))
    )
    absent = [f" {name} could not be installed: {why}." for name, why in comparison.not_installed.items()]
    where = comparison.machine
    return f"""## Next to others

The same faults, once each, for GreenScale and for what people use today, as the [benchmark](benchmarks.md) sets them
up: what concerns faults is the default of each, but that Celery acknowledges late, as it advises for long jobs. Redis
keeps a journal. {comparison.began}, commit {comparison.commit}, two systems at a time, cores
{where["busy_before_percent"]} % busy before.{"".join(absent)}

kill -9 with {LANES} jobs pushed and all lanes busy (RQ has 16 at most), a fresh worker at once, watched for
{WATCH_SECONDS} s:

{table(["", "jobs in flight that were called again"], killed)}

SIGTERM with {LANES} calls of 5 s in flight and {QUEUED} jobs queued; a fresh worker when the first has ended:

{table(["", "end", f"answers within {WATCH_SECONDS} s", "called twice"], terminated)}

Redis killed amid {JOBS} jobs of 1 s, back with its data after {AWAY_SECONDS} s; a worker that ends is started again:

{table(["", "worker", f"answers within {WATCH_SECONDS} s", "called twice"], away)}"""


def _cells(show: Callable[[Facts], list[str]], outcome: Facts) -> list[str]:
    return [f"nothing to show: {outcome['failed']}"] if "failed" in outcome else show(outcome)


def _killed(outcome: Facts) -> list[str]:
    waits, in_flight = outcome["back_after"], outcome["in_flight"]
    if not waits:
        return [f"none of {in_flight} within {WATCH_SECONDS} s"]
    return [f"{len(waits)} of {in_flight}, the last after {waits[-1]:.0f} s"]


def _terminated(outcome: Facts) -> list[str]:
    code = outcome["exit"]
    end = "not within a minute" if code is None else f"exit code {code} after {outcome['exit_seconds']:.1f} s"
    return [end, *_answers(outcome)]


def _away(outcome: Facts) -> list[str]:
    exits = outcome["exits"]
    return [f"ended with {', '.join(map(str, exits))}" if exits else "stayed", *_answers(outcome)]


def _answers(outcome: Facts) -> list[str]:
    stored, pushed = min(outcome["results"], outcome["pushed"]), outcome["pushed"]
    answers = f"all {pushed}" if stored == pushed else f"{stored} of {pushed}; {outcome['called']} were called"
    return [answers, str(outcome["called_again"])]


def _clean(outcome: Facts) -> bool:
    """Whether all came of it that should, and no more."""
    if "failed" in outcome:
        return False
    if "back_after" in outcome:
        return bool(len(outcome["back_after"]) == outcome["in_flight"])
    return bool(outcome["results"] >= outcome["pushed"] and not outcome["called_again"])


def _one_line(show: Callable[[Facts], list[str]]) -> Callable[[Facts], str]:
    def line(outcome: Facts) -> str:
        end, answers, again = show(outcome)
        return f"{end}; {answers} answered, {again} called twice"

    return line


SUMMARY: Final[Mapping[str, tuple[str, Callable[[Facts], str]]]] = {
    f"kill -9 with {LANES} in flight, a fresh worker": ("killed", lambda outcome: _killed(outcome)[0]),
    f"SIGTERM with {LANES} in flight, {QUEUED} queued": ("terminated", _one_line(_terminated)),
    f"Redis away for {AWAY_SECONDS} s amid {JOBS} jobs": ("redis_away", _one_line(_away)),
}


def _better(comparison: Comparison) -> str:
    lines = []
    for title, (scenario, read) in FIGURES.items():
        outcomes = {name: each for name, each in comparison.outcomes[scenario].items() if "failed" not in each}
        found = {name: value for name, each in outcomes.items() if (value := read(each)) is not None}
        ours = found.get(GREENSCALE.name, float("inf"))
        if better := [f"{name} {value:.1f}" for name, value in found.items() if value < ours]:
            lines.append(f"- {title}: {', '.join(better)}; GreenScale {ours:.1f}")
    return "## Where a peer is better\n\n" + ("\n".join(lines) or "In none of the figures above.")


def _last_back(outcome: Facts) -> float | None:
    waits = outcome["back_after"]
    return waits[-1] if len(waits) == outcome["in_flight"] else None


def _rest(outcome: Facts) -> float | None:
    return outcome["rest_seconds"] if outcome["results"] >= outcome["pushed"] else None


def _ends(outcome: Facts) -> float | None:
    return outcome["exit_seconds"] if outcome["exit"] is not None else None


FIGURES: Final[Mapping[str, tuple[str, Callable[[Facts], float | None]]]] = {
    "kill -9, last job back, s": ("killed", _last_back),
    "SIGTERM, end, s": ("terminated", _ends),
    "SIGTERM, all answers by a fresh worker, s": ("terminated", _rest),
    "Redis away, all answers after its return, s": ("redis_away", _rest),
}


def _settings(comparison: Comparison) -> str:
    lines = [
        f"- {system}: {', '.join(f'{name} {version}' for name, version in versions.items())}"
        for system, versions in comparison.versions.items()
    ]
    return "## Versions of the comparison\n\n" + "\n".join(lines)


def _names(runs: Mapping[str, Outcome]) -> list[str]:
    return [NAMES[name] for name in runs]
