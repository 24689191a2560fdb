"""The processes of a run: a Redis with a journal, an endpoint, and workers and gateways, restarted when they end."""

import asyncio
import shutil
import sys
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from chaos.endpoint import WORKER
from chaos.facts import Exit
from chaos.schedule import LEASE
from greenscale_worker.queues import QueueOptions, RedisOptions, TenantLimits
from greenscale_worker.queues.redis.keys import OF_LISTS, TURN_PAYLOADS, Keys
from greenscale_worker.queues.registry import open_client
from greenscale_worker.simulator import Faults
from harness.eventually import eventually
from harness.redis_server import RedisServer, free_port
from harness.tcp_proxy import TcpProxy
from harness.worker_process import Fleet, WorkerProcess

NAME: Final = "jobs"
LATENCY: Final = 1.0
TIMEOUT: Final = 8.0  # of a call: for one that hangs, not for one that is late on a busy machine
LANES: Final = 8
GATEWAYS: Final = 2
DRAINS: Final = (0.2, 5.0)  # seconds; a short and a long drain, for alternate slots
ENOUGH: Final = 1000  # crashes that bury a job: more than any job will have, so that none is buried
BUDGETS: Final = {"GREENSCALE_REQUESTS_PER_MINUTE": 2400, "GREENSCALE_TOKENS_PER_MINUTE": 2_400_000}
TENANTS: Final = {
    "first": TenantLimits(weight=3, in_flight=6),
    "other": TenantLimits(requests_per_minute=240, tokens_per_minute=1_000_000),
}
MODELS: Final = ("one", "other")
REPLY_SECONDS: Final = 10.0
START_SECONDS: Final = 60.0  # of a gateway on a busy machine
PROBE_SECONDS: Final = 1.0
KEPT_SECONDS: Final = 86_400
POLL_SECONDS: Final = 0.05
OWN_QUEUES: Final = (f"{{{NAME}}}:batches", f"{{{NAME}}}:webhooks")  # of the gateways, each a list
OPTIONS: Final = QueueOptions(name=NAME, lease=LEASE, result_ttl=KEPT_SECONDS)


@dataclass(slots=True, eq=False)
class Slot:
    """A place for a worker, with its own network proxy to Redis; or for a gateway, which has a `port`.

    `asked`: the signal that its process was sent to end.
    """

    number: int
    proxy: TcpProxy
    port: int = 0
    generation: int = 0
    asked: str = ""
    process: WorkerProcess = field(init=False)

    @property
    def place(self) -> str:
        """Its name, whatever process is there."""
        return f"gateway {self.number}" if self.port else str(self.number)

    @property
    def name(self) -> str:
        """The name of its process, in the endpoint's calls and in `ended`."""
        return f"{self.place}.{self.generation}"


class Stage:
    """Starts the processes; use with `async with`. `ended` is how they ended, `names` are workers' by process id."""

    def __init__(self, directory: Path, *, queue: str, workers: int, limit: int = 0) -> None:
        if shutil.which("redis-server") is None:
            raise SystemExit("redis-server 7 or newer is needed on PATH (apt-get install redis-server)")
        self.directory = directory
        self.queue = queue
        self.workers = workers
        self.limit = limit
        self.ended: list[Exit] = []
        self.names: dict[int, str] = {}
        self.slots: list[Slot] = []
        self.gateways: list[Slot] = []
        self.server = RedisServer(
            *(directory / "redis", "appendonly yes", "appendfsync always", "auto-aof-rewrite-percentage 0"),
            *("enable-debug-command local", "maxmemory-policy noeviction"),
            docker=False,
        )
        self.redis_lock = asyncio.Lock()
        self.keys = Keys(NAME)
        self.files = directory / "files"
        self._files_lock = asyncio.Lock()
        self._port = free_port()
        self._closing = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        enter = self._stack.enter_async_context
        self._stack.callback(self.server.close)
        await asyncio.to_thread(self.server.start)
        self._http = await enter(aiohttp.ClientSession(f"http://127.0.0.1:{self._port}"))
        self._probe = await enter(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_SECONDS)))
        command = (sys.executable, "-m", "chaos.endpoint", str(self._port), str(LATENCY))
        self._endpoint = WorkerProcess(self.directory / "endpoint", command, {"PYTHONPATH": str(Path.cwd())})
        self._stack.callback(self._endpoint.kill)
        while not await self._endpoint_answers():  # noqa: ASYNC110  it is a process, and has to be polled
            await asyncio.sleep(POLL_SECONDS)
        await self.reconnect()
        for name, limits in TENANTS.items() if self.limit else ():
            await self.admin.set_tenant(name, limits)
        self._fleet = self._stack.enter_context(Fleet(self.directory / "workers", **self._settings()))
        for number in range(self.workers):
            self.slots.append(Slot(number, await enter(TcpProxy(self.server.port))))
        for number in range(GATEWAYS):
            self.gateways.append(Slot(number, await enter(TcpProxy(self.server.port)), free_port()))
        for slot in self._all:
            self._start(slot)
        for gateway in self.gateways:
            await self.serves(gateway)
        self._supervisor = asyncio.create_task(self._supervise())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._supervisor.cancel()
        await self._stack.aclose()

    def connect(self) -> Any:
        """Open a plain client without retries."""
        return Redis(port=self.server.port, socket_timeout=REPLY_SECONDS, retry=Retry(NoBackoff(), 0))

    async def reconnect(self) -> None:
        """Connect again: faults leave dead connections in the clients' pools."""
        self.client = self.connect()
        self._stack.push_async_callback(self.client.aclose)
        self.admin = await open_client(self.queue, RedisOptions(url=self.server.url), OPTIONS)
        self._stack.push_async_callback(self.admin.aclose)

    async def waiting(self) -> int:
        """Count jobs that have not ended, claimed or not."""
        pipe = self.client.pipeline(transaction=False)
        for keys in (self.keys, *map(Keys, OWN_QUEUES)):
            if keys is self.keys and self.queue == "stream":
                pipe.xlen(NAME)
            else:
                pipe.llen(keys.name).hlen(keys.of("open"))
            for unclaimed in OF_LISTS:
                pipe.llen(keys.of(unclaimed))
            pipe.zcard(keys.of("later")).hlen(keys.of(TURN_PAYLOADS))
        pipe.hlen(self.keys.of("notify")).zcard(self.keys.notices)
        return sum(await pipe.execute())

    async def all_alive(self) -> bool:
        """Return whether the queues know the workers and gateways that live, and no others."""
        pipe = self.client.pipeline(transaction=False).zcard(self.keys.of("workers"))
        for name in OWN_QUEUES:
            pipe.zcard(Keys(name).of("workers"))
        return bool(await pipe.execute() == [self.workers, *len(OWN_QUEUES) * [GATEWAYS]])

    async def hide_files(self, seconds: float) -> None:
        """Let the gateways' files be away for a while; as without a volume, no gateway starts meanwhile."""
        async with self._files_lock:
            while not await self._all_serve():  # noqa: ASYNC110  they are processes, and have to be polled
                await asyncio.sleep(POLL_SECONDS)
            away = self.files.rename(self.files.with_name("away"))
            self.files.touch()  # so that nobody makes it anew
            await asyncio.sleep(seconds)
            self.files.unlink()
            away.rename(self.files)

    async def serves(self, gateway: Slot) -> bool:
        """Wait until a gateway answers; return whether it does within START_SECONDS."""
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends:
            if await self._answers(gateway):
                return True
            await asyncio.sleep(POLL_SECONDS)
        return False

    async def break_endpoint(self, faults: Faults) -> None:
        """Make the endpoint fail in these ways from now on."""
        async with self._http.post("/faults", data=orjson.dumps(asdict(faults))) as response:
            response.raise_for_status()

    async def fall_ill(self, **illness: str) -> None:
        """Make the endpoint fail for all, or for one model, until called again."""
        async with self._http.post("/illness", data=orjson.dumps(illness)) as response:
            response.raise_for_status()

    async def executions(self) -> list[dict[str, Any]]:
        """Return all calls that the endpoint has seen."""
        return list(await self._ask("/executions"))

    async def busy(self) -> dict[str, int]:
        """Return the number of calls in flight of each worker that has any."""
        return dict(await self._ask("/busy"))

    async def dismiss(self, seconds: float) -> None:
        """End all workers and gateways."""
        self._closing = True
        for slot in self._all:
            slot.asked = "SIGTERM"
            slot.process.terminate()
        with suppress(TimeoutError):
            await eventually(lambda: not any(slot.process.alive for slot in self._all), seconds)
        for slot in self._all:
            self._bury(slot)

    @property
    def _all(self) -> list[Slot]:
        return [*self.slots, *self.gateways]

    async def _all_serve(self) -> bool:
        """Return whether all gateways that live answer."""
        return all([await self._answers(each) for each in self.gateways if each.process.alive])

    async def _answers(self, gateway: Slot) -> bool:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._probe.get(f"http://127.0.0.1:{gateway.port}/livez") as response:
                return response.status == HTTPStatus.OK
        return False

    def _settings(self) -> dict[str, object]:
        return {
            "NEYSA_API_URL": f"http://127.0.0.1:{self._port}/v1/chat/completions",
            "GREENSCALE_QUEUE": self.queue,
            "GREENSCALE_LEASE_SECONDS": LEASE,
            "GREENSCALE_CONCURRENCY": LANES,
            "GREENSCALE_TIMEOUT_SECONDS": TIMEOUT,
            "GREENSCALE_MAX_CRASHES": ENOUGH,
            "GREENSCALE_MODEL": MODELS[0],
            "GREENSCALE_RESULT_TTL_SECONDS": KEPT_SECONDS,
        } | (BUDGETS | {"GREENSCALE_LIMIT": self.limit} if self.limit else {})

    def _start(self, slot: Slot) -> None:
        common = {
            "REDIS_URL": f"redis://127.0.0.1:{slot.proxy.port}",
            "GREENSCALE_DRAIN_SECONDS": DRAINS[slot.number % len(DRAINS)],
        }
        if slot.port:
            own = {"GREENSCALE_FILES": self.files, "GREENSCALE_WEBHOOKS_ALLOW_PRIVATE": "true"}
            slot.process = self._fleet.start("serve", GREENSCALE_GATEWAY_PORT=slot.port, **own, **common)
        else:
            headers = orjson.dumps({WORKER: slot.name}).decode()
            slot.process = self._fleet.start(GREENSCALE_ENDPOINT_HEADERS=headers, **common)
            self.names[slot.process.pid] = slot.name

    async def _supervise(self) -> None:
        """Restart what has ended, as Kubernetes does."""
        while True:
            for slot in self._all:
                waits = slot.port and self._files_lock.locked()
                if not (self._closing or slot.process.alive or waits):
                    self._bury(slot)
                    slot.generation += 1
                    slot.asked = ""
                    self._start(slot)
            await asyncio.sleep(POLL_SECONDS)

    def _bury(self, slot: Slot) -> None:
        code = slot.process.process.poll()
        self.ended.append(Exit(slot.name, code, slot.asked, slot.process.stderr))

    async def _ask(self, path: str) -> Any:
        async with self._http.get(path) as response:
            return orjson.loads(await response.read())

    async def _endpoint_answers(self) -> bool:
        with suppress(aiohttp.ClientError):
            return bool(await self._ask("/health"))
        return False
