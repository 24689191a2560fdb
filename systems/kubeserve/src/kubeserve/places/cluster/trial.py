"""What a new revision has to show: until one of its pods has answered, it is on trial."""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from kubeserve.domain import DeploymentState
from kubeserve.places import Observation
from kubeserve.places.workload import Workload

PATIENCE: Final = 90.0  # seconds in which a revision that breaks may recover, as from a registry that was away
BROKEN: Final = frozenset({DeploymentState.FAILED, DeploymentState.DEGRADED})


@dataclass(slots=True)
class Trial:
    """A revision that was applied and has not answered yet. `reason` is set once it is given up."""

    workload: Workload
    since: float | None = None  # when it was first seen broken
    reason: str | None = None

    def judge(self, seen: Observation, patience: float) -> bool:
        """Note how it stands. Return whether it is to be given up now."""
        now = asyncio.get_running_loop().time()
        if seen.state in BROKEN:
            self.since = now if self.since is None else self.since
            if self.reason is None and now - self.since >= patience:
                self.reason = seen.reason
                return True
        return False

    def told(self, seen: Observation | None) -> Observation | None:
        """Return how it stands, as far as the owner is concerned."""
        number, generation = self.workload.target.revision, self.workload.generation
        if self.reason is not None:
            state = DeploymentState.FAILED if seen is None or seen.active is None else DeploymentState.DEGRADED
            active, replicas = (None, 0) if seen is None else (seen.active, seen.replicas)
            return Observation(generation, state, f"given up: {self.reason}", active, replicas)
        if seen is not None and seen.state is DeploymentState.ASLEEP:
            why = f"revision {number} waits for the autoscaler to start its first pod"
            return replace(seen, state=DeploymentState.STARTING, reason=why, active=None)
        return seen
