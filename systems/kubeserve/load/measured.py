"""What a load test has seen."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Sample:
    """How many replicas there were, `seconds` after the scenario began."""

    seconds: float
    users: int
    replicas: int
    state: str


@dataclass(frozen=True)
class Stage:
    """What users had while so many called: a row of locust's for each task, and its failures by their words."""

    users: int
    seconds: float
    entries: list[dict[str, Any]]
    failures: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass
class Scenario:
    """One deployment under ever more users."""

    name: str
    maximum: int
    stages: list[Stage] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def changes(self) -> Iterator[Sample]:
        """Yield the samples at which something is another number or state than before, and the last one."""
        before: Sample | None = None
        for sample in self.samples:
            told = (sample.users, sample.replicas, sample.state)
            if before is None or told != (before.users, before.replicas, before.state) or sample is self.samples[-1]:
                yield sample
            before = sample

    @property
    def failed(self) -> bool:
        """Whether a call failed, or none was made."""
        calls = [entry for stage in self.stages for entry in stage.entries]
        return not calls or not all(stage.entries for stage in self.stages) or any(e["num_failures"] for e in calls)


@dataclass(frozen=True)
class Run:
    """Scenarios, one after the other, and where and when it was."""

    url: str
    began: datetime
    platform: str
    scenarios: list[Scenario]


def percentile(times: dict[str, int], share: float) -> float:
    """Return the milliseconds within which that share of the calls was answered, of how often each time was seen."""
    counts = sorted((float(value), count) for value, count in times.items())
    left = share * sum(count for _, count in counts)
    for value, count in counts:
        left -= count
        if left <= 0:
            return value
    return 0.0
