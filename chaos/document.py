"""Renders docs/reliability.md and the README's table from saved runs and the saved comparison."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from chaos import others
from chaos.outcome import Outcome
from chaos.peers import Comparison
from chaos.schedule import KILL, LEASE
from harness.figures import percentile, table
from harness.systems import GREENSCALE

PROMISES: Final[Mapping[str, tuple[str, str]]] = {
    "lost": (
        "A job that Redis accepted is run until it has a result, is a dead letter, or was cancelled as asked",
        "what producers were told, and Redis' journal",
    ),
    "recorded twice": ("One result for each job, or one dead letter", "every write of a result in Redis' journal"),
    "changed": ("A result, once written, stays; the record agrees", "the journal, and what readers read at the end"),
    "answer of nobody": ("A result is the answer to a call of that job", "the endpoint: no two answers are the same"),
    "cancelled in vain": ("What was cancelled in time is not answered", "what those who cancelled were told"),
    "wrong ending": (
        "Dead letters are for what cannot be run, by the right code, and two at most for an illness of the endpoint",
        "the dead letters, beside what the endpoint did to their calls",
    ),
    "out of order": ("First deliveries are in the order of the pushes", "times of the first claims, by Redis' clock"),
    "executed again for no reason": (
        "A second call needs a reason: a fault of the endpoint, of the worker, or of what lies between",
        "the endpoint's memory beside the times of the faults",
    ),
    "left over": ("When all work is done, no lease, no binding, no entry is left", "the keys in Redis"),
    "worker broken": ("A worker or gateway ends only when told to, and complains to nobody", "exit codes and stderr"),
}
OF_GATEWAYS: Final[Mapping[str, tuple[str, str]]] = {
    "put twice": (
        "A job handed in over HTTP is put once, however often it is sent with its key, and to whichever gateway",
        "every payload in Redis' journal",
    ),
    "refused and run": ("What a gateway refused for good is nowhere", "Redis' journal, and what clients were told"),
    "too early": ("A job with `not_before` is not called before", "the endpoint's clock"),
    "told otherwise": ("What a gateway says of a job is what Redis recorded", "each answer, beside record and result"),
    "answered badly": (
        "A gateway answers clearly and rightly; only its own end or stop cuts a request off, only a fault puts one off",
        "each client, beside the times of the faults",
    ),
}
OF_BATCHES: Final[Mapping[str, tuple[str, str]]] = {
    "batch ended badly": (
        "A batch that a gateway accepted ends as it should, once for all, and its counts and output agree",
        "the clients, who read it as it runs, at its end and at the end of the run",
    ),
    "line lost or twice": (
        "Each line of a batch is once in its output or in its error file, and its job has one result",
        "the two files, and Redis' journal",
    ),
    "line ended wrongly": (
        "A line's answer is one that its call got; a good line fails only if its batch was cancelled, or as a job may",
        "the files, beside the endpoint's memory",
    ),
    "line put again": (
        "A line is put once; a gateway that was stopped or cut off may put its window again",
        "Redis' journal",
    ),
    "line left over": ("When its batch has ended, nothing is left of a line", "the keys in Redis"),
    "event lost": (
        "Each end of a batch, and of a job with `notify`, is told to its webhook, by one id",
        "the receiver",
    ),
    "event of nobody": ("A webhook is told of nothing else, and each message is signed", "the receiver"),
}
ALL: Final = {**PROMISES, **OF_GATEWAYS, **OF_BATCHES}
NAMES: Final = {
    "long": "long run, list",
    "kills": "kills alone, list",
    "kills-stream": "kills alone, stream",
    "list": "as in CI, list",
    "stream": "as in CI, stream",
}
ENDLESS: Final = "as many as it takes"  # in runs saved before tries were counted by evidence
COUNTED: Final = (
    *("jobs", "answered", "malformed", "poisoned", "buried by an illness", "buried by two illnesses", "cancelled"),
    *("conflicts", "duplicates"),
    *("executions", "executed again", "answered twice by the endpoint", "late heartbeats"),
    *("requests", "ends told by a gateway", "requests cut off", "requests put off"),
    *("batches", "lines of batches", "lines answered", "lines failed", "lines cancelled", "lines put again"),
    *("events", "events sent again"),
)


def render(runs: Mapping[str, Outcome], comparison: Comparison, findings: Mapping[str, str]) -> str:
    """Render the whole document. `findings` are remarks by section."""
    sections = (
        _head(runs),
        _promises(runs),
        _runs(runs),
        _recovery(runs),
        others.beside_ours(comparison),
        others.better(comparison),
        "## What was found\n\n" + findings["found"].strip(),
        "## What is noisy, and what is not proved\n\n" + findings["noise"].strip(),
        others.settings(comparison),
    )
    return "\n\n".join(sections) + "\n"


def render_summary(runs: Mapping[str, Outcome], comparison: Comparison) -> str:
    """Render the README's table."""
    counts, faults = Counter[str](), Counter[str]()
    for run in runs.values():
        counts.update(run.verdict.counts)
        faults.update(run.faults)
    rows = [
        [
            f"{faults[KILL]:,} × kill -9 among {faults.total():,} faults in {len(runs)} runs, {counts['jobs']:,} jobs",
            f"{counts['lost']} lost, {counts['recorded twice']} recorded twice",
            "",
        ]
    ]
    for title, (scenario, show) in others.SUMMARY.items():
        outcomes = comparison.outcomes[scenario]
        peers = {name: outcome for name, outcome in outcomes.items() if name != GREENSCALE.name}
        clean = [name for name, outcome in peers.items() if others.clean(outcome)]
        rows.append([title, show(outcomes[GREENSCALE.name]), f"{', '.join(clean) or 'none'} of {len(peers)}"])
    return table(["what happens", "GreenScale", "others that lost, repeated and stranded nothing"], rows)


def _head(runs: Mapping[str, Outcome]) -> str:
    where = next(iter(runs.values())).machine
    return f"""<!-- Written by `python -m chaos report` from chaos/results and chaos/findings.toml; do not edit. -->

# Reliability

`make chaos` breaks everything for two minutes and draws up the account; `make chaos ARGS="--seconds 3600"` for longer.
Real processes: workers and two gateways that are started again when they end, a Redis that keeps a journal (AOF,
`appendfsync always`), the simulator as the endpoint, producers that `LPUSH` (or `XADD`), clients that hand in jobs
over HTTP or upload files and have them answered as [batches](batches.md), and a receiver of [webhooks](webhooks.md)
that refuses some once. A seed draws what happens, when, and to whom, so that a failing seed replays its schedule. The
account is drawn up from what others saw: producers, clients and the receiver, the endpoint, Redis' journal and its
keys; never from what a worker or a gateway says of itself. What the promises rest on:
[queue-protocol.md](queue-protocol.md).

| | |
|---|---|
| machine | {where["processor"]}, {where["cores"]} cores, {where["memory_gib"]} GiB, {where["system"]} |
| versions | Python {where["python"]}, Redis {where["redis"]}; everything on 127.0.0.1 |
| settings | leases of {LEASE:g} s, so that many faults fit in; as many crashes as it takes |"""


def _promises(runs: Mapping[str, Outcome]) -> str:
    rows = [
        [promise, witness, *(_broken(run, key) for run in runs.values())] for key, (promise, witness) in ALL.items()
    ]
    return f"""## What is promised, and how often it was broken

{table(["", "witness", *_names(runs)], rows)}

A dash: there were no gateways, or no batches, in that run yet."""


def _broken(run: Outcome, key: str) -> str:
    counts = run.verdict.counts
    absent = (key in OF_GATEWAYS and "requests" not in counts) or (key in OF_BATCHES and "batches" not in counts)
    return "–" if absent else f"{counts.get(key, 0)}"


def _runs(runs: Mapping[str, Outcome]) -> str:
    rows = [
        ["begun", *(run.began for run in runs.values())],
        ["commit", *(run.commit for run in runs.values())],
        ["seed", *(str(run.settings["seed"]) for run in runs.values())],
        ["minutes, workers", *(f"{run.seconds / 60:.0f}, {run.settings['workers']}" for run in runs.values())],
        ["busy before the run", *(f"{run.machine['busy_before_percent']} % of all cores" for run in runs.values())],
        ["faults", *(f"{sum(run.faults.values()):,}" for run in runs.values())],
    ]
    rows.append(["tries", *(str(run.settings.get("tries", ENDLESS)) for run in runs.values())])
    rows += [[title, *(_counted(run, title) for run in runs.values())] for title in COUNTED]
    kinds = sorted({kind for run in runs.values() for kind in run.faults})
    faults = [[kind, *(f"{run.faults.get(kind, 0):,}" for run in runs.values())] for kind in kinds]
    return f"""## The runs

{table(["", *_names(runs)], rows)}

An execution is a call to the endpoint. One is made again where the endpoint failed, or where a fault hit the worker
that made it. What the endpoint answered twice was recorded once. `duplicates` are jobs handed in once more,
`conflicts` those with the id of another that was still open. Of the `requests` to gateways, some were cut off when a
gateway was killed, stopped or just leaving, and some put off (503) while Redis could not be reached. Faults that took
place:

{table(["", *_names(runs)], faults)}"""


def _counted(run: Outcome, title: str) -> str:
    """Format a count; older runs may lack it."""
    return f"{run.verdict.counts[title]:,}" if title in run.verdict.counts else "–"


def _recovery(runs: Mapping[str, Outcome]) -> str:
    rows = []
    for name, run in runs.items():
        waits = sorted(run.verdict.recoveries)
        if waits:
            shown = (percentile(waits, percent) for percent in (50, 95, 100))
            rows.append([NAMES[name], str(len(waits)), *(f"{wait:.1f}" for wait in shown)])
    header = ["", "kills amid calls", "median s", "95 %, s", "slowest s"]
    return f"""## Recovery after a kill

From each kill until the last of the calls that it cut off was made anew, leases of {LEASE:g} s. Other faults go on
meanwhile: slow are those in which Redis was away, the queue paused or the next worker killed as well. Median and 95 %
are those of all kills of a run, as in the picture: the shortest time within which so many had recovered.

{table(header, rows)}

![Recovery after a kill](plots/recovery.svg)"""


def _names(runs: Mapping[str, Outcome]) -> list[str]:
    return [NAMES[name] for name in runs]
