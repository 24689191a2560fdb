"""Where deployments run: this machine, or a cluster. The reconciler knows nothing of either but this Protocol.

A place is level-triggered: `apply` says what shall be, as often as one likes, and `observe` what is.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from kubeserve.domain import DeploymentState
from kubeserve.places.workload import Workload

Ids = Callable[[], Awaitable[Collection[str]]]


@dataclass(frozen=True, slots=True)
class Observation:
    """How a deployment stands: `generation` is the last workload that the place has taken up.

    `active` is the number of the revision that answers, None while there is none. `reason` is one line.
    """

    generation: int
    state: DeploymentState
    reason: str
    active: int | None
    replicas: int


@dataclass(frozen=True, slots=True)
class Known:
    """Ask the database for all users, and for all deployments, those included that are to be deleted."""

    users: Ids
    deployments: Ids


class Place(Protocol):
    """Runs workloads. Calls raise UnavailableError while the place does not answer."""

    @property
    def name(self) -> str:
        """What does not answer then, for people."""
        ...

    @property
    def resync(self) -> float:
        """The seconds after which it is told again what shall be: others may have changed it."""
        ...

    async def run(self, changed: Callable[[], None]) -> None:
        """Follow what happens in the place until cancelled, and call `changed` when something has."""
        ...

    async def tend(self, known: Known) -> None:
        """Keep there what each user has there, and remove what nobody has any more, until cancelled.

        One process at a time does that.
        """
        ...

    async def welcome(self, user_id: str) -> None:
        """Make there what a new user has there. Raises KubeServeError if it comes later, by `tend`."""
        ...

    async def apply(self, workload: Workload) -> None:
        """Make `workload` what shall run under its id. Returns when that is kept, which is before it runs."""
        ...

    async def observe(self, deployment_id: str) -> Observation | None:
        """Return how a deployment stands, None if the place knows of none with this id."""
        ...

    async def remove(self, deployment_id: str) -> bool:
        """Take a deployment away. Return whether nothing of it is left; ask again until that is so."""
        ...

    def logs(self, deployment_id: str, *, follow: bool = False) -> AsyncIterator[str]:
        """Yield what the models of a deployment wrote, line by line, the oldest first; with `follow` without end."""
        ...

    async def metrics(self) -> bytes:
        """Return what the place has counted, in Prometheus' text format."""
        ...

    async def aclose(self) -> None:
        """End what belongs to this process alone. What runs goes on."""
        ...
