"""A batch in this process: files and a queue in memory, and a feeder that is killed at any of its calls."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from greenscale_worker import PermanentError
from greenscale_worker.backends import Backend
from greenscale_worker.batches.feeder import Feeder, FeederOptions
from greenscale_worker.batches.objects import Request, State, new_id
from greenscale_worker.batches.store import Batches
from greenscale_worker.errors import Snooze
from greenscale_worker.files.by_obstore import in_memory
from greenscale_worker.files.objects import FileObjects
from greenscale_worker.job import Job, Output
from greenscale_worker.queues import QueueOptions
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.worker import Worker

NOW: Final = 1_800_000_000.0
OPTIONS: Final = FeederOptions(step=0.5)
Line = dict[str, Any]


class KilledError(BaseException):
    """The process of the feeder is gone."""


@dataclass
class Outside:
    """What lies between a feeder and the world: the `at`-th call fails by `error`, before or after it took effect.

    So do all up to the `until`-th, and after a KilledError all later ones.
    """

    at: int = 0
    after: bool = False
    error: Callable[[], BaseException] = KilledError
    until: int = 0
    calls: int = 0
    names: list[str] = field(default_factory=list)

    def of(self, inner: Any) -> Any:
        """Return an object whose calls go through here."""
        return _Watched(inner, self)

    def pass_by(self, name: str, *, after: bool) -> None:
        """Count a call, once; raise what is to be raised."""
        if not after:
            self.calls += 1
            self.names.append(name)
        if self.at and after == self.after and self.at <= self.calls <= max(self.at, self.until):
            raise self.error()
        if self.at and self.calls > self.at and self.error is KilledError:
            raise KilledError


class _Watched:
    def __init__(self, inner: Any, outside: Outside) -> None:
        self._inner = inner
        self._outside = outside

    def __getattr__(self, name: str) -> Any:
        method, outside = getattr(self._inner, name), self._outside
        if name == "listen":
            return method

        async def call(*args: Any, **options: Any) -> Any:
            outside.pass_by(name, after=False)
            result = await method(*args, **options)
            outside.pass_by(name, after=True)
            return result

        async def chunks(*args: Any, **options: Any) -> AsyncIterator[bytes]:
            async for chunk in method(*args, **options):
                outside.pass_by(name, after=False)
                yield chunk

        return chunks if name == "chunks" else call


@dataclass
class World:
    """All that outlives a feeder. `calls` counts what the endpoint was asked, by custom_id."""

    files: Any = field(default_factory=in_memory)
    queue: MemoryQueue = field(default_factory=lambda: MemoryQueue(QueueOptions(result_ttl=3600)))
    inputs: dict[str | None, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    told: list[tuple[Any, ...]] = field(default_factory=list)
    now: float = NOW
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def batches(self) -> Batches:
        return Batches(self.files)

    async def answer(self, job: Job) -> Output:
        """Answer as an endpoint: `fail-…` is refused, `slow-…` waits for `hold`."""
        name = job.payload["messages"][0]["content"]
        self.calls[name] += 1
        if name.startswith("slow"):
            await self.hold.wait()
        if name.startswith("fail"):
            raise PermanentError("http_400", "refused")
        usage = {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
        }
        body = {"id": f"r-{name}", "choices": [{"message": {"content": name}}], "usage": usage}
        return Output(name, body=orjson.dumps(body))

    @asynccontextmanager
    async def working(self, backend: Backend | None = None) -> AsyncIterator[None]:
        """Let a worker answer jobs."""
        async with Worker(self.queue.beside("worker"), backend or self.answer, concurrency=4, drain=0.0):
            yield

    @property
    def objects(self) -> FileObjects:
        return FileObjects(self.files, clock=lambda: self.now)

    async def write(self, data: list[str] | bytes, tenant: str | None = None) -> None:
        """Write an input file."""

        async def chunks() -> AsyncIterator[bytes]:
            yield data if isinstance(data, bytes) else b"".join(map(line_of, data))

        content = await self.objects.store(tenant, chunks())
        await self.objects.create(tenant, content, filename="in.jsonl", purpose="batch")
        self.inputs[tenant] = content.id

    def request(self, **fields: Any) -> Request:
        file_id = self.inputs[fields.get("tenant")]
        asked = {"endpoint": "/v1/chat/completions", "input_file_id": file_id, "completion_window": "24h"}
        given = {"id": new_id(NOW), "created_at": int(NOW), "expires_in": 86_400, **asked, **fields}
        return Request.model_validate(given)

    def feeder(self, outside: Outside | None = None, options: FeederOptions = OPTIONS) -> Feeder:
        """Return a feeder that knows nothing but what was committed."""
        outside = outside or Outside()

        async def tell(*event: Any) -> None:
            self.told.append(event)

        files = outside.of(self.files)
        objects = FileObjects(files, clock=lambda: self.now)
        queue = outside.of(self.queue)
        return Feeder(Batches(files), objects, queue, options=options, tell=tell, clock=lambda: self.now)

    async def state(self, request: Request) -> State:
        return await self.batches.state(request)

    async def lines(self, request: Request, kind: Literal["output", "error"]) -> list[Line]:
        """Return the lines of an output file."""
        file_id = getattr(await self.state(request), f"{kind}_file_id")
        if file_id is None:
            return []
        file = await self.objects.get(request.tenant, file_id)
        assert file is not None
        found = b"".join([chunk async for chunk in self.objects.chunks(request.tenant, file)])
        assert len(found) == file.bytes
        return [orjson.loads(each) for each in found.splitlines()]


def line_of(name: str) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": name}]}
    return orjson.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}) + b"\n"


def job_of(request: Request) -> Job:
    return Job(job_id=request.queue_id, payload={"batch": request.model_dump()})


async def driven(feeder: Feeder, request: Request) -> str:
    """Step by step until the batch has ended."""
    while True:
        try:
            return await feeder(job_of(request))
        except Snooze:
            await asyncio.sleep(0)
