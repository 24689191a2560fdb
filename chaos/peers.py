"""`python -m chaos peers`: runs the same faults on GreenScale and its peers."""

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from chaos.scenarios import SCENARIOS, scene
from harness import environments, machine
from harness.systems import GREENSCALE, PEERS, System

KEPT: Final = Path(__file__).with_name("results") / "peers.json"
AT_A_TIME: Final = 2  # systems; they mostly wait
EVERYBODY: Final[Sequence[System]] = (GREENSCALE, *PEERS)


@dataclass(slots=True)
class Comparison:
    """The outcome of every scenario for every system: `outcomes[scenario][system]`."""

    machine: dict[str, Any]
    commit: str
    began: str
    seconds: float = 0.0
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    not_installed: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path = KEPT) -> Self:
        """Load a saved comparison."""
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path = KEPT) -> None:
        """Save it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def compare(names: Sequence[str] = ()) -> Comparison:
    """Run every scenario on all systems, or those named, two at a time."""
    began = time.monotonic()
    result = Comparison(machine.describe(), machine.commit(), machine.now())
    systems = [system for system in EVERYBODY if not names or system.name in names]
    for system in list(systems):
        try:
            environments.make(system.environment)
        except environments.NotInstalledError as error:
            result.not_installed[system.name] = str(error)
            systems.remove(system)
        else:
            result.versions[system.name] = environments.versions(system)
    pairs = [(scenario, system) for scenario in SCENARIOS for system in systems]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for (scenario, system), outcome in zip(pairs, pool.map(lambda pair: _go_through(*pair), pairs), strict=True):
            result.outcomes.setdefault(scenario, {})[system.name] = outcome
    result.seconds = round(time.monotonic() - began, 1)
    return result


def _go_through(name: str, system: System) -> dict[str, Any]:
    try:
        with scene(system) as stage:
            outcome = SCENARIOS[name](stage)
    except Exception as error:  # noqa: BLE001  one system's failure is its outcome; others continue
        outcome = {"failed": str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}
    print(f"{name} {system.name}: {outcome}", file=sys.stderr, flush=True)
    return outcome
