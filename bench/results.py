"""The figures of a run, saved as a JSON file from which the document is rendered."""

import json
import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from harness.figures import percentile

Run = dict[str, Any]
"""What a scenario returned for one system, or `{"failed": why}`."""


@dataclass(slots=True)
class Results:
    """One run of the benchmark: its machine, time and commit, and each scenario's repetitions by system."""

    machine: dict[str, Any]
    commit: str
    began: str
    seconds: float = 0.0
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    not_installed: dict[str, str] = field(default_factory=dict)
    scenarios: dict[str, dict[str, list[Run]]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        text = json.dumps(asdict(self), indent=1)
        text = re.sub(r"\[[\s\d.,]+\]", lambda numbers: " ".join(numbers[0].split()), text)  # many waits, one line
        new.write_text(text + "\n")
        new.replace(path)

    def values(self, scenario: str, system: str, figure: str) -> list[float]:
        """Return a figure of every repetition that has it."""
        return [value for run in self._runs(scenario, system) if (value := figure_of(run, figure)) is not None]

    def median(self, scenario: str, system: str, figure: str) -> float | None:
        """Return the median of the repetitions; None if nothing was measured."""
        values = self.values(scenario, system, figure)
        return statistics.median(values) if values else None

    def ratios(self, scenario: str, system: str, figure: str) -> list[float]:
        """Return the figure as a multiple of the bare loop's in the same repetition, in rising order."""
        pairs = zip(self._runs(scenario, system), self._runs(scenario, "bare loop"), strict=False)
        both = [(figure_of(ours, figure), figure_of(bare, figure)) for ours, bare in pairs]
        return sorted(ours / bare for ours, bare in both if ours is not None and bare)

    def ratio(self, scenario: str, system: str, figure: str) -> float | None:
        """Return the median of `ratios`."""
        ratios = self.ratios(scenario, system, figure)
        return statistics.median(ratios) if ratios else None

    def failure(self, scenario: str, system: str) -> str | None:
        """Return why a system has no figures in a scenario; None if it has some, or took no part."""
        runs = self._runs(scenario, system)
        words = [run["failed"] for run in runs if "failed" in run]
        return words[0] if words and len(words) == len(runs) else None

    def _runs(self, scenario: str, system: str) -> list[Run]:
        return self.scenarios.get(scenario, {}).get(system, [])


def figure_of(run: Run, figure: str) -> float | None:
    """Return a figure of one repetition; `p50`, `p95` and `p99` are percentiles of its waits."""
    if figure.startswith("p") and figure[1:].isdigit():
        waits = run.get("waits_ms")
        return percentile(sorted(waits), int(figure[1:])) if waits else None
    return run.get(figure)
