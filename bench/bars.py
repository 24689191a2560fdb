"""The bars that were set before anything was measured, and whether they are reached."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.results import Results
from harness.systems import GREENSCALE

OURS: Final = GREENSCALE.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar, what was measured, and whether that will do; None where it was not measured."""

    name: str
    goal: str
    measured: str
    reached: bool | None


def all_bars(results: Results) -> Sequence[Bar]:
    """Every bar, in the order of the document."""
    return [
        _ratio(results, "Throughput at 0 ms", ("throughput", "jobs_per_second"), at_least=2.0),
        _ratio(results, "CPU per job at 0 ms", ("throughput", "cpu_per_1000"), at_most=0.5),
        _script_calls(results),
        _half_the_gap(results, "I/O-bound, 200 ms × 100 lanes", "io_200"),
        _half_the_gap(results, "I/O-bound, 1,000 ms × 500 lanes", "io_1000"),
        _ratio(results, "Pick-up p50", ("pickup", "p50"), at_most=1.6),
        _ratio(results, "Pick-up p99", ("pickup", "p99"), at_most=2.5),
        _ratio(results, "Cold start", ("start", "start_ms"), at_most=1.6),
        _ratio(results, "Memory idle", ("start", "idle_mib"), at_most=1.5),
    ]


def _ratio(
    results: Results, name: str, figure: tuple[str, str], *, at_least: float = 0, at_most: float = float("inf")
) -> Bar:
    goal = f"≥ {at_least:.1f} × floor" if at_least else f"≤ {at_most:.1f} × floor"
    scenario, kind = figure
    ratios, ratio = results.ratios(scenario, OURS, kind), results.ratio(scenario, OURS, kind)
    if ratio is None:
        return Bar(name=name, goal=goal, measured="not measured", reached=None)
    measured = f"{ratio:.2f} × ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return Bar(name=name, goal=goal, measured=measured, reached=at_least <= round(ratio, 2) <= at_most)


def _script_calls(results: Results) -> Bar:
    calls = results.median("throughput", OURS, "scripts_per_job")
    measured = "not measured" if calls is None else f"{calls:.2f}"
    reached = None if calls is None else calls < 1
    return Bar(name="Script calls per job under load", goal="< 1", measured=measured, reached=reached)


def _half_the_gap(results: Results, name: str, scenario: str) -> Bar:
    floor, ours = (results.median(scenario, system, "share") for system in ("floor", OURS))
    if floor is None or ours is None:
        return Bar(name=name, goal="half of what the floor lacks", measured="not measured", reached=None)
    goal = floor + max(0.0, 1 - floor) / 2
    measured, wanted = f"{ours:.3f} of the ideal (floor {floor:.3f})", f"≥ {goal:.3f}: half of what the floor lacks"
    return Bar(name=name, goal=wanted, measured=measured, reached=round(ours, 3) >= round(goal, 3))
