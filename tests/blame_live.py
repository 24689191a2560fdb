"""Blame by evidence with real parts: `python -m tests.blame_live` runs the whole matrix and prints its table.

Redis, workers and an HTTP endpoint that is ill as a function of job and time; all settings but the number of lanes and
the time limit of a call are the defaults. `tests/test_blame_live.py` holds the promises to what is found here.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

import orjson

from greenscale_worker.backends import ChatOptions
from greenscale_worker.backends.chat import ChatBackend
from greenscale_worker.execution import Policy
from greenscale_worker.queues import DeadLetter, Queue, QueueClient, QueueOptions, RedisOptions
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.queues.registry import open_client, open_queue
from greenscale_worker.worker import Worker
from harness.redis_server import RedisServer, start_shared
from harness.worker_process import Fleet
from tests.support.endpoint import Endpoint, Received, Reply, completion

ANSWERS: Final = Path(__file__).parent / "data" / "answers"
LOOK_SECONDS: Final = 0.1
FLAGGED: Final = frozenset({40, 170, 171})


def replay(name: str) -> Reply:
    """The answer in a file: head, an empty line, body."""
    head, _, body = (ANSWERS / f"{name}.http").read_bytes().partition(b"\n\n")
    body = body.rstrip(b"\n")
    lines = [*head.split(b"\n"), b"Content-Length: %d" % len(body), b"", body]
    return Reply(raw=b"\r\n".join(lines))


def silent(status: int, **headers: str) -> Reply:
    """An answer whose words say nothing."""
    return Reply(status=status, json={"error": {"message": "no"}}, headers=headers)


def hang(seconds: float) -> Reply:
    """No answer for so long, and then a good one that comes too late."""
    return Reply(wait=lambda: asyncio.sleep(seconds), json=completion())


class Asked(NamedTuple):
    """A call: of which job, seconds since the first one, and how many others are being answered."""

    job: int
    model: str
    seconds: float
    busy: int


Illness = Callable[[Asked], Reply | None]  # None: a good answer


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is tried. `ill` are the jobs that can never be answered, `timeout` and `latency` seconds.

    `ideal` is how long the others would take without them, with an outage added; None: it is not told. `patience` is
    when to stop waiting. `feed`: push more jobs as long as ill ones live.
    """

    illness: Callable[[], Illness]
    jobs: int = 1000
    workers: int = 1
    lanes: int = 16
    kind: str = "list"
    ill: frozenset[int] = frozenset()
    models: Sequence[str] = ("m",)
    latency: float = 0.5
    timeout: float = 300.0
    max_tries: int = 5
    ideal: float | None = None
    patience: float = 1000.0
    feed: bool = False


@dataclass(slots=True)
class Found:
    """What came of it. Times are seconds since the first call; `left` are jobs that had not ended in the end."""

    calls: int = 0
    refused: int = 0
    left: int = 0
    answered: int = 0
    answered_by: float = 0.0
    dead: set[int] = field(default_factory=set)
    letters: list[DeadLetter] = field(default_factory=list)
    dead_by: float = 0.0


class IllEndpoint(Endpoint):
    """Answers after `latency`, but as the illness says."""

    def __init__(self, illness: Illness, latency: float) -> None:
        super().__init__()
        self.calls = self.refused = self._busy = 0
        self.began: float | None = None
        self._illness = illness
        self._latency = latency

    def choose(self, request: Received) -> Reply:
        self.received.clear()
        self.began = self.began or monotonic()
        body = request.json
        prompt = body["messages"][-1]["content"]
        job = int(prompt.rpartition("-")[2])
        reply = self._illness(Asked(job, body["model"], monotonic() - self.began, self._busy))
        self.calls += 1
        if reply is not None:
            self.refused += 1
            return reply
        return Reply(json=completion(f"{prompt} #1"), wait=self._work)

    async def _work(self) -> None:
        self._busy += 1
        try:
            await asyncio.sleep(self._latency)
        finally:
            self._busy -= 1


async def play(name: str, cell: Cell, server: RedisServer, directory: Path | None = None) -> Found:
    """Run a cell. With a directory the workers are processes of their own, else they run here."""
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(IllEndpoint(cell.illness(), cell.latency))
        memory = MemoryQueue() if cell.kind == "memory" else None
        redis, options = RedisOptions(url=f"{server.url}/0"), QueueOptions(name=name)
        admin: QueueClient = memory or await open_client(cell.kind, redis, options)
        stack.push_async_callback(admin.aclose)
        scene = _Scene(name, cell, admin, endpoint)
        await scene.push(range(cell.jobs))
        for number in range(cell.workers):
            if directory is not None:
                continue
            queue: Queue = memory.beside(f"w{number}") if memory else await open_queue(cell.kind, redis, options)
            await stack.enter_async_context(_working(cell, queue, endpoint.url))
        if directory is not None:
            stack.enter_context(_processes(name, cell, server, directory, endpoint.url))
        return await scene.watch()


@dataclass
class _Scene:
    name: str
    cell: Cell
    admin: QueueClient
    endpoint: IllEndpoint

    async def push(self, numbers: Iterable[int]) -> None:
        jobs = []
        for number in numbers:
            job_id = f"{self.name}-{number}"
            model = self.cell.models[number % len(self.cell.models)]
            jobs.append((job_id, orjson.dumps({"job_id": job_id, "prompt": job_id, "model": model})))
        await self.admin.put(jobs)

    async def watch(self) -> Found:
        """Look until everything has ended, or for as long as there is patience."""
        found, pushed, cell, endpoint = Found(), self.cell.jobs, self.cell, self.endpoint
        left = pushed
        ends = monotonic() + cell.patience
        while left and monotonic() < ends:
            await asyncio.sleep(LOOK_SECONDS)
            depth = await self.admin.depth()
            since = monotonic() - (endpoint.began or monotonic())
            left = depth.waiting + depth.running + depth.delayed + depth.held
            letters = [letter async for letter in self.admin.dead()] if depth.dead != len(found.dead) else None
            if letters is not None:
                found.dead = {int(str(letter.job_id).rpartition("-")[2]) for letter in letters}
                found.letters = letters
                found.dead_by = since
            if (answered := pushed - left - depth.dead) > found.answered:
                found.answered_by, found.answered = since, answered
            if left and cell.feed and left < cell.lanes * cell.workers and not cell.ill <= found.dead:
                await self.push(range(pushed, pushed + cell.lanes))
                pushed, left = pushed + cell.lanes, left + cell.lanes
        found.calls, found.refused, found.left = endpoint.calls, endpoint.refused, left
        return found


@asynccontextmanager
async def _working(cell: Cell, queue: Queue, url: str) -> Any:
    backend = ChatBackend(ChatOptions(url=url, model="m", concurrency=cell.lanes))
    policy = Policy(timeout=cell.timeout, max_tries=cell.max_tries)
    worker = Worker(queue, backend, concurrency=cell.lanes, drain=0.0, policy=policy)
    task = asyncio.create_task(worker.run())
    try:
        yield
        assert not task.done(), task
    finally:
        worker.stop()
        worker.stop()
        await task
        await backend.aclose()


def _processes(name: str, cell: Cell, server: RedisServer, directory: Path, url: str) -> Fleet:
    key = "REDIS_STREAM_NAME" if cell.kind == "stream" else "REDIS_LIST_NAME"
    settings = {"REDIS_URL": f"{server.url}/0", "NEYSA_API_URL": url, "GREENSCALE_QUEUE": cell.kind, key: name}
    settings |= {"GREENSCALE_CONCURRENCY": str(cell.lanes), "GREENSCALE_TIMEOUT_SECONDS": str(cell.timeout)}
    fleet = Fleet(directory / name, **settings)
    for _ in range(cell.workers):
        fleet.start()
    return fleet


# The illnesses


def all_ill(reply: Reply, seconds: float, *, after: float = 3.0) -> Callable[[], Illness]:
    """Everything is ill from `after` on, for so long."""
    return lambda: lambda asked: reply if after <= asked.seconds < after + seconds else None


def some_ill(reply: Reply, jobs: frozenset[int] = FLAGGED) -> Callable[[], Illness]:
    """Some jobs are never answered."""
    return lambda: lambda asked: reply if asked.job in jobs else None


def in_turn(replies: Sequence[Reply], seconds: float, *, after: float = 3.0) -> Callable[[], Illness]:
    """Everything is ill, and says it in several ways."""
    return lambda: lambda asked: replies[asked.job % len(replies)] if after <= asked.seconds < after + seconds else None


def model_ill(reply: Reply, seconds: float, model: str = "a") -> Callable[[], Illness]:
    """One model is ill from the start."""
    return lambda: lambda asked: reply if asked.model == model and asked.seconds < seconds else None


def at_most(calls: int, reply: Reply) -> Callable[[], Illness]:
    """So many calls are answered at a time."""
    return lambda: lambda asked: reply if asked.busy >= calls else None


def half_ill(reply: Reply) -> Callable[[], Illness]:
    """Every second call fails."""

    def begin() -> Illness:
        calls = [0]

        def illness(_: Asked) -> Reply | None:
            calls[0] += 1
            return reply if calls[0] % 2 else None

        return illness

    return begin


def killer(job: int, down: float = 2.5) -> Callable[[], Illness]:
    """One prompt takes the server down behind a gateway: 502 for it, then 503 for everybody."""

    def begin() -> Illness:
        until = [-1.0]

        def illness(asked: Asked) -> Reply | None:
            if asked.seconds < until[0]:
                return silent(503)
            if asked.job != job:
                return None
            until[0] = asked.seconds + down
            return replay("502-that-one-prompt-causes")

        return illness

    return begin


CUT: Final = Reply(cut=True)
HANG: Final = hang(1000.0)
REPLIES: Final[dict[str, Reply]] = {
    "500 (a dead engine)": replay("500-engine-dead"),
    "500 that says nothing": silent(500),
    "cut": CUT,
    "424 (a dead shard)": replay("424-shard-dead"),
    "400 (wrong key)": replay("400-wrong-key"),
    "400 that says nothing": silent(400),
    "400 (budget exceeded)": replay("400-budget-exceeded"),
    "200 with an error 429 inside": replay("200-error-inside"),
    "200 with an error 400 inside": Reply(json={"error": {"message": "no", "code": 400}}),
    "200, finish_reason error": replay("200-finish-error"),
    "200 that is a page": Reply(pieces=(b"<html><body>It works!</body></html>",)),
    "200 with no choices": Reply(json={"object": "chat.completion", "choices": []}),
    "401": silent(401),
    "402 (more than the credit)": replay("402-more-tokens-than-credit"),
    "403 that says nothing": silent(403),
    "403 (flagged, all of them)": replay("403-input-flagged"),
    "404 (no such model)": silent(404),
    "429 without a time": silent(429),
    "429, Retry-After: 10, x-should-retry: false": replay("429-should-not-retry"),
    "429 (never fits, all of them)": replay("429-never-fits"),
    "502": replay("502-that-one-prompt-causes"),
    "503": silent(503),
    "503, Retry-After: 3": silent(503, **{"Retry-After": "3"}),
    "504": silent(504),
    "not HTTP": Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n"),
    "307": silent(307, Location="http://127.0.0.1:1/"),
}
FOR_ONE: Final[dict[str, Reply]] = {
    "403 (flagged)": replay("403-input-flagged"),
    "403": silent(403),
    "400": silent(400),
    "404": silent(404),
    "500": silent(500),
    "502": silent(502),
    "cut": CUT,
    "429": silent(429),
    "402 (more than the credit)": replay("402-more-tokens-than-credit"),
    "200 with an error 500 inside": Reply(json={"error": {"message": "no", "code": 500}}),
    "429, Retry-After: 20 (never fits)": replay("429-never-fits"),
    "429, Retry-After: 20": silent(429, **{"Retry-After": "20"}),
}


def matrix() -> dict[str, Cell]:
    """The long form: 40 s of illness, a thousand jobs, one worker and five."""
    cells: dict[str, Cell] = {}
    for workers in (1, 5):
        fleet = partial(Cell, workers=workers)
        full = 1000 * 0.5 / 16 / workers
        for name, reply in REPLIES.items():
            cells[f"all ill for 40 s: {name} | {workers}"] = fleet(illness=all_ill(reply, 40), ideal=full + 40)
        cells[f"hangs for 100 s, limit 5 s | {workers}"] = fleet(
            illness=all_ill(HANG, 100), ideal=full + 100, timeout=5
        )
        in_ways = in_turn([silent(500), CUT, silent(400), silent(503)], 40)
        cells[f"all ill for 40 s: 500, cut, 400, 503 in turn | {workers}"] = fleet(illness=in_ways, ideal=full + 40)
        by_id = [Reply(status=400, json={"error": {"message": "no", "code": f"E-{n:05x}"}}) for n in range(1000)]
        cells[f"all ill for 40 s: 400, an id in its code | {workers}"] = fleet(
            illness=in_turn(by_id, 40), ideal=full + 40
        )
        for name, reply in FOR_ONE.items():
            cells[f"3 of 1,003: {name} | {workers}"] = fleet(
                illness=some_ill(reply), jobs=1003, ill=FLAGGED, ideal=full
            )
        cells[f"one of 300 takes the server down | {workers}"] = fleet(
            illness=killer(30), jobs=300, ill=frozenset({30}), ideal=0.3 * full
        )
        cells[f"model a 500 for 40 s, b well | {workers}"] = fleet(
            illness=model_ill(silent(500), 40), models=("a", "b"), ideal=full / 2 + 40
        )
    limited = silent(429)
    cells["takes 8 at a time of 64 lanes: 429 | 1"] = Cell(
        illness=at_most(8, limited), jobs=600, lanes=64, ideal=600 * 0.5 / 8
    )
    cells["takes 8 at a time of 5 x 16 lanes: 429 | 5"] = Cell(
        illness=at_most(8, limited), jobs=600, workers=5, ideal=600 * 0.5 / 8
    )
    return cells


def line(name: str, cell: Cell, found: Found) -> str:
    """One line of the table."""
    kind, _, workers = name.rpartition(" | ")
    ideal = f" ({cell.ideal:.0f} s)" if cell.ideal is not None else ""
    wrong, died = len(found.dead - cell.ill), len(found.dead & cell.ill)
    ill = "-"
    if cell.ill:
        ill = f"{found.dead_by:.0f} s" if died == len(cell.ill) else f"{died} of {len(cell.ill)}"
    left = f", {found.left} left" if found.left else ""
    return f"| {kind} | {workers} | {found.answered_by:.0f} s{ideal}{left} | {wrong} | {ill} | {found.refused} |"


HEAD: Final = """\
| 16 lanes, calls of 0.5 s | workers | others answered by (ideal) | wrongly dead | the ill dead by | calls that failed |
|---|---|---|---|---|---|"""


async def run(cells: dict[str, Cell], server: RedisServer, directory: Path, *, at_once: int) -> dict[str, Found]:
    """Run cells by worker processes, some at a time."""
    gate, found = asyncio.Semaphore(at_once), {}

    async def run_one(number: int, name: str, cell: Cell) -> None:
        async with gate:
            found[name] = await play(f"cell{number}", cell, server, directory)
            sys.stdout.write(line(name, cell, found[name]) + "\n")
            sys.stdout.flush()

    async with asyncio.TaskGroup() as group:
        for number, (name, cell) in enumerate(cells.items()):
            group.create_task(run_one(number, name, cell))
    return found


def main() -> None:
    """Print the table, a line as soon as a cell has ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.blame_live")
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--at-once", type=int, default=4, help="cells that run at the same time; default: %(default)s")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that whatever was started is ended
    cells = {name: cell for name, cell in matrix().items() if arguments.only in name}
    sys.stdout.write(HEAD + "\n")
    with tempfile.TemporaryDirectory(prefix="blame-") as folder:
        server, _ = start_shared(Path(folder) / "redis")
        try:
            asyncio.run(run(cells, server, Path(folder) / "workers", at_once=arguments.at_once))
        finally:
            server.close()


if __name__ == "__main__":
    main()
