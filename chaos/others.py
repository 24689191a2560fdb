"""Renders the comparison with other systems, a part of docs/reliability.md."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from chaos.peers import Comparison
from chaos.scenarios import AWAY_SECONDS, JOBS, LANES, QUEUED, WATCH_SECONDS
from harness.figures import bold, table
from harness.systems import GREENSCALE

Facts: TypeAlias = Mapping[str, Any]


def beside_ours(comparison: Comparison) -> str:
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


def clean(outcome: Facts) -> bool:
    """Return whether every job was answered, and none called twice."""
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


def better(comparison: Comparison) -> str:
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


def settings(comparison: Comparison) -> str:
    lines = [
        f"- {system}: {', '.join(f'{name} {version}' for name, version in versions.items())}"
        for system, versions in comparison.versions.items()
    ]
    return "## Versions of the comparison\n\n" + "\n".join(lines)
