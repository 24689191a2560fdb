"""What a fault test plays on: a queue with its producer and readers, an endpoint, and as many workers as it starts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.eventually import eventually
from harness.redis_server import RedisServer
from harness.worker_process import Fleet, WorkerProcess
from tests.support.held_endpoint import HeldEndpoint
from tests.support.jobs import KINDS, Jobs


@dataclass(frozen=True, slots=True)
class Scene:
    endpoint: HeldEndpoint
    jobs: Jobs
    fleet: Fleet

    def start(self, *, breakpoint_at: str | None = None, **environment: object) -> WorkerProcess:
        """Start a worker; see Fleet."""
        return self.fleet.start(breakpoint_at=breakpoint_at, **environment)

    async def in_flight(self, calls: int) -> None:
        """Wait until so many calls have arrived at the endpoint and wait for their answers."""
        await eventually(lambda: self.endpoint.waiting.total() == calls)

    async def all_ended(self) -> None:
        await eventually(self.jobs.all_ended)

    async def idle(self, workers: int = 1) -> None:
        """Wait until so many workers of this server peek, which means that there was nothing to claim.

        For a server of one's own: it cannot be seen at which queue they peek.
        """
        await eventually(lambda: self.jobs.client.info("clients")["blocked_clients"] == workers)


@asynccontextmanager
async def play(
    directory: Path,
    server: RedisServer,
    name: str = "jobs",
    *,
    kind: str = "list",
    latency: float = 0.0,
    **environment: object,
) -> AsyncIterator[Scene]:
    """Set a scene; on one server there may be several, each with a list or a stream of its own."""
    jobs = KINDS[kind]
    async with HeldEndpoint(latency=latency) as endpoint:
        common = {"REDIS_URL": f"{server.url}/0", "NEYSA_API_URL": endpoint.url}
        common |= {"GREENSCALE_QUEUE": kind, jobs.named_by: name}
        with server.client() as client, Fleet(directory / name, **{**common, **environment}) as fleet:
            yield Scene(endpoint, jobs(client, name), fleet)
