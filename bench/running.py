"""Runs scenarios, alternating between systems, and saves their results."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.measuring import Figures
from bench.results import Results, Run, figure_of
from bench.scenarios import Scenario, Waits
from bench.systems import BARE_LOOP
from harness import environments, machine
from harness.systems import GREENSCALE, System

PERCENTILES: Final = ("p50", "p95", "p99")


def say(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


def begin(systems: Sequence[System]) -> Results:
    """Describe the machine and install all systems; the results name those that cannot be installed."""
    results = Results(machine=machine.describe(), commit=machine.commit(), began=machine.now())
    for system in systems:
        try:
            environments.make(system.environment)
        except environments.NotInstalledError as error:
            say(f"{system.name} cannot be installed: {error}")
            results.not_installed[system.name] = str(error)
        else:
            results.versions[system.name] = environments.versions(system)
    return results


def go_through(results: Results, scenarios: Mapping[str, Scenario], systems: Sequence[System], output: Path) -> None:
    """Run every scenario that has no results yet; results are saved after each, so that a run can be resumed."""
    for number, (name, scenario) in enumerate(scenarios.items(), 1):
        if name in results.scenarios:
            continue
        ours = [system for system in systems if system.name in results.versions and _takes_part(system, scenario)]
        say(f"{name} ({number} of {len(scenarios)}): {scenario.repeats} × {', '.join(system.name for system in ours)}")
        began = time.monotonic()
        runs: dict[str, list[Run]] = {system.name: [] for system in ours}
        for repetition in range(1, scenario.repeats + 1):
            for system in ours:
                runs[system.name].append(_once(scenario, system))
            say(f"  {repetition} of {scenario.repeats}: {time.monotonic() - began:.0f} s")
        results.scenarios[name] = runs
        results.seconds += round(time.monotonic() - began, 1)
        results.save(output)
        _print(results, name)


def _takes_part(system: System, scenario: Scenario) -> bool:
    return scenario.peers or system.name in {BARE_LOOP.name, GREENSCALE.name}


def _once(scenario: Scenario, system: System) -> Figures | Waits | dict[str, str]:
    try:
        figures = scenario.run(system)
    except Exception as error:  # noqa: BLE001  any error is this system's result, and the run goes on
        say(f"  {system.name} failed: {error}")
        return {"failed": str(error) or repr(error)}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}


def _print(results: Results, name: str) -> None:
    """Print medians, each with its ratio to the bare loop of the same repetition."""
    for system, runs in results.scenarios[name].items():
        figures = dict.fromkeys(figure for run in runs for figure in run if figure not in {"failed", "waits_ms"})
        figures |= dict.fromkeys(PERCENTILES if any(figure_of(run, "p50") is not None for run in runs) else ())
        cells = []
        for figure in figures:
            ratio = None if system == BARE_LOOP.name else results.ratio(name, system, figure)
            cells.append(
                f"{figure} {results.median(name, system, figure):.4g}" + (f" ({ratio:.2f} ×)" if ratio else "")
            )
        print(f"{name:<12} {system:<11} {'   '.join(cells) or results.failure(name, system)}", flush=True)
