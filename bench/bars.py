"""The bars set before anything was measured, and whether they are reached."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.results import Results
from harness.figures import amount
from harness.systems import GREENSCALE

OURS: Final = GREENSCALE.name
BURST_MS: Final = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar, what was measured, and whether it is reached; None if not measured."""

    name: str
    goal: str
    measured: str
    reached: bool | None


def all_bars(results: Results) -> Sequence[Bar]:
    """Return every bar, in the order of the document."""
    return [
        _ratio(results, "Throughput at 0 ms", ("throughput", "jobs_per_second"), at_least=2.5),
        _ratio(results, "CPU per job at 0 ms", ("throughput", "cpu_per_1000"), at_most=0.4),
        _ours(results, "Script calls per job under load", ("throughput", "scripts_per_job"), at_most=1),
        _ours(results, "Redis commands per job at 0 ms", ("throughput", "commands_per_job"), at_most=8),
        _ours(results, "Redis commands per job at 200 ms", ("io_200", "commands_per_job"), at_most=10),
        _half_the_gap(results, "I/O-bound, 200 ms × 100 lanes", "io_200"),
        _half_the_gap(results, "I/O-bound, 1,000 ms × 500 lanes", "io_1000"),
        _ratio(results, "Pick-up p50", ("pickup", "p50"), at_most=1.5),
        _ratio(results, "Pick-up p99", ("pickup", "p99"), at_most=2.5),
        _between(results, "Pick-up p50, 8 idle workers", ("pickup_8", "pickup", "p50"), at_most=1.3),
        _ratio(results, "Cold start", ("start", "start_ms"), at_most=1.4),
        _ratio(results, "Memory idle", ("start", "idle_mib"), at_most=1.5),
        _ours(results, "Fleet of 100: script calls for a job", ("fleet_100", "scripts"), at_most=6),
        _between(results, "Fleet of 100: Redis CPU for a job", ("fleet_100", "fleet_1", "redis_ms"), at_most=1.3),
        _ours(results, "Fleet of 100: kB sent for a job of 1 MB", ("fleet_100", "mb_sent_kb"), at_most=3100),
        _ours(results, "Fleet of 100: script calls, retried once", ("fleet_100", "retried_scripts"), at_most=12),
        _burst(results),
    ]


def _ratio(
    results: Results, name: str, figure: tuple[str, str], *, at_least: float = 0, at_most: float = float("inf")
) -> Bar:
    goal = f"≥ {at_least:.1f} × bare loop" if at_least else f"≤ {at_most:.1f} × bare loop"
    scenario, kind = figure
    ratios, ratio = results.ratios(scenario, OURS, kind), results.ratio(scenario, OURS, kind)
    if ratio is None:
        return Bar(name=name, goal=goal, measured="not measured", reached=None)
    measured = f"{ratio:.2f} × ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return Bar(name=name, goal=goal, measured=measured, reached=at_least <= round(ratio, 2) <= at_most)


def _ours(results: Results, name: str, figure: tuple[str, str], *, at_most: float) -> Bar:
    value = results.median(figure[0], OURS, figure[1])
    goal = f"≤ {at_most:,}"
    if value is None:
        return Bar(name=name, goal=goal, measured="not measured", reached=None)
    return Bar(name=name, goal=goal, measured=amount(value), reached=value <= at_most)


def _between(results: Results, name: str, figure: tuple[str, str, str], *, at_most: float) -> Bar:
    """Compare our figure in two scenarios."""
    of, to, kind = figure
    values = [results.median(scenario, OURS, kind) for scenario in (of, to)]
    goal = f"≤ {at_most:.1f} × with one worker"
    if values[0] is None or not values[1]:
        return Bar(name=name, goal=goal, measured="not measured", reached=None)
    ratio = values[0] / values[1]
    return Bar(name=name, goal=goal, measured=f"{ratio:.2f} ×", reached=round(ratio, 2) <= at_most)


def _burst(results: Results) -> Bar:
    name, goal = "Fleet of 100: burst of 1,600 jobs", f"≤ {BURST_MS} ms more than the bare loop"
    bare, ours = (results.median("fleet_100", system, "burst_ms") for system in ("bare loop", OURS))
    if bare is None or ours is None:
        return Bar(name=name, goal=goal, measured="not measured", reached=None)
    return Bar(name=name, goal=goal, measured=f"{ours - bare:+,.0f} ms", reached=ours - bare <= BURST_MS)


def _half_the_gap(results: Results, name: str, scenario: str) -> Bar:
    bare, ours = (results.median(scenario, system, "share") for system in ("bare loop", OURS))
    if bare is None or ours is None:
        return Bar(name=name, goal="half of what the bare loop lacks", measured="not measured", reached=None)
    goal = bare + max(0.0, 1 - bare) / 2
    measured = f"{ours:.3f} of the ideal (bare loop {bare:.3f})"
    wanted = f"≥ {goal:.3f}: half of what the bare loop lacks"
    return Bar(name=name, goal=wanted, measured=measured, reached=round(ours, 3) >= round(goal, 3))
