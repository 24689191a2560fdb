"""Real processes at the front door: gateways and workers on a Redis, and an endpoint that counts what it is asked."""

import asyncio
import math
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from openai import AsyncOpenAI

from greenscale_worker.simulator import CHAT_PATH, SimulatorOptions, running
from harness.eventually import PATIENCE
from harness.redis_server import free_port
from harness.worker_process import Fleet, WorkerProcess

PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Door:
    """A gateway."""

    process: WorkerProcess
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE

    @property
    def peak(self) -> int:
        """The most resident bytes so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@dataclass
class Front:
    """What stands behind the doors. `session` calls without the SDK."""

    fleet: Fleet
    endpoint: str
    session: aiohttp.ClientSession
    doors: list[Door] = field(default_factory=list)

    async def gateway(self, **environment: object) -> Door:
        port = free_port()
        door = Door(self.fleet.start("serve", GREENSCALE_GATEWAY_PORT=port, **environment), port)
        self.doors.append(door)
        await door.process.says("gateway_started")
        return door

    def worker(self, **environment: object) -> WorkerProcess:
        return self.fleet.start(GREENSCALE_HEALTH_PORT=free_port(), **environment)

    async def stats(self) -> Any:
        async with self.session.get(f"{self.endpoint}/stats") as response:
            return await response.json()

    async def calls(self, names: Iterable[str]) -> set[int]:
        """How often the endpoint was asked for these, which are the `user` of each request."""
        jobs = (await self.stats())["jobs"]
        return {jobs.get(name, 0) for name in names}

    async def until_running(self, number: int, *, most: float = math.inf) -> None:
        """Wait until the endpoint has so many requests in work."""
        async with asyncio.timeout(PATIENCE):
            while not number <= (await self.stats())["in_flight"] <= most:  # noqa: ASYNC110  it is asked over HTTP
                await asyncio.sleep(0.02)

    async def in_queue(self, door: Door, number: int, *, most: float = math.inf) -> None:
        """Wait until so many jobs wait or run."""
        async with asyncio.timeout(PATIENCE):
            while True:
                async with self.session.get(f"{door.url}/v1/stats") as response:
                    depth = (await response.json())["depth"]
                if number <= depth["waiting"] + depth["running"] + depth["delayed"] <= most:
                    return
                await asyncio.sleep(0.1)

    async def faults(self, **faults: Any) -> None:
        async with self.session.post(f"{self.endpoint}/faults", json=faults) as response:
            assert response.status == 200


@asynccontextmanager
async def a_front(directory: Path, redis_url: str, **endpoint: Any) -> AsyncIterator[Front]:
    """Yield a front without doors and workers."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(SimulatorOptions(**endpoint)))
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        environment = {"REDIS_URL": redis_url, "NEYSA_API_URL": url + CHAT_PATH, "GREENSCALE_MODEL": "m"}
        fleet = stack.enter_context(Fleet(directory / "processes", **environment))
        yield Front(fleet, url, session)


def client_of(port: int, **options: Any) -> AsyncOpenAI:
    """A client that stays as it is, but for its address."""
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", **options)
