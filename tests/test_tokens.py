"""The text of a job while it comes: from the endpoint or a handler, through the queue, to who follows it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from typing import Any

import orjson
import pytest
from redis import Redis

from greenscale_worker import (
    Client,
    JobFailed,
    Metrics,
    Policy,
    QueueOptions,
    QueueUnavailableError,
    RedisOptions,
    SyncClient,
    TokenPiece,
    Worker,
    open_queue,
)
from greenscale_worker.backends import ChatOptions, open_backend
from greenscale_worker.errors import PermanentError, TransientError
from greenscale_worker.job import Job, Output
from greenscale_worker.queues import Lease, Queue
from greenscale_worker.simulator import CHAT_PATH, SimulatorOptions, running
from greenscale_worker.token_writer import LAST_SECONDS, PAUSE_SECONDS, TokenWriter
from harness.eventually import PATIENCE, eventually
from harness.redis_server import RedisServer

KINDS = pytest.mark.parametrize("kind", ["list", "stream"])


@asynccontextmanager
async def working(
    url: str, backend: Any, kind: str = "list", wrap: Callable[[Queue], Any] = lambda queue: queue, **options: Any
) -> AsyncIterator[Client]:
    """A worker with this backend, and a client of its queue."""
    chosen = QueueOptions(**{"lease": 2.0, **options})
    queue = await open_queue(kind, RedisOptions(url=url), chosen, Metrics())
    async with (
        Worker(wrap(queue), backend, concurrency=8, policy=Policy(timeout=PATIENCE)),
        Client(url, kind=kind, options=chosen) as client,
    ):
        yield client


async def pieces_of(client: Client, job_id: str) -> list[TokenPiece]:
    async with asyncio.timeout(PATIENCE):
        return [piece async for piece in client.tokens(job_id)]


def texts(pieces: list[TokenPiece]) -> list[str]:
    return [piece.text for piece in pieces]


@KINDS
async def test_the_endpoints_words_are_read_while_they_come(redis_url: str, kind: str) -> None:
    async with (
        running(SimulatorOptions(per_token=0.05)) as url,
        aclosing(open_backend("chat", ChatOptions(url=url + CHAT_PATH, model="llama"))) as chat,
        working(redis_url, chat, kind) as client,
    ):
        job_ids = [await client.submit(f"Question {number}", tokens=True, keep="body") for number in range(5)]
        found = await asyncio.gather(*(pieces_of(client, job_id) for job_id in job_ids))
        for job_id, pieces in zip(job_ids, found, strict=True):
            answer = await client.result(job_id)
            assert "".join(texts(pieces)) == answer
            assert answer is not None
            assert answer.startswith("This is a simulated answer")
            assert len(pieces) > 2, "it was read while it came"
            assert {piece.attempt for piece in pieces} == {1}
            body = orjson.loads(await client.body(job_id) or b"")
            assert (body["object"], body["choices"][0]["message"]["content"]) == ("chat.completion", answer)
            record = await client.record(job_id)
            assert record is not None
            assert record.completion_tokens == body["usage"]["completion_tokens"] > 2
            assert (record.state, record.finish_reason) == ("succeeded", "stop")


async def test_the_first_piece_is_read_before_the_second_is_said(redis_url: str) -> None:
    read = asyncio.Event()

    async def handle(job: Job) -> str:
        job.emit("first, ")
        await read.wait()
        for text in ("second, ", "", "third, ", "fourth"):
            job.emit(text)
        return "first, second, third, fourth"

    async with working(redis_url, handle) as client:
        job_id = await client.submit("?", tokens=True)
        pieces = []
        async with asyncio.timeout(PATIENCE):
            async for piece in client.tokens(job_id):
                pieces.append(piece)
                read.set()
    assert texts(pieces) == ["first, ", "second, third, fourth"], "what gathers goes together"


async def test_a_plain_function_shows_its_text_from_its_thread(redis_url: str) -> None:
    read = threading.Event()

    def handle(job: Job) -> str:
        for number in range(100):
            job.emit(f"{number} ")
            if number == 0:
                assert read.wait(PATIENCE)
        return "".join(f"{number} " for number in range(100))

    async with working(redis_url, handle) as client:
        job_id = await client.submit("?", tokens=True)
        pieces = []
        async with asyncio.timeout(PATIENCE):
            async for piece in client.tokens(job_id):
                pieces.append(piece)
                read.set()
        assert "".join(texts(pieces)) == await client.result(job_id)
    assert pieces[0].text == "0 "


async def test_a_job_that_asks_for_nothing_shows_nothing(redis_url: str) -> None:
    async def handle(job: Job) -> str:
        job.emit("hidden")
        return "answer"

    async with working(redis_url, handle) as client:
        job_id = await client.submit("?")
        assert [(piece.attempt, piece.text) for piece in await pieces_of(client, job_id)] == [(1, "answer")]
        assert await (await client.queue()).read_tokens({job_id: ""}, wait=0.0) == []
    Job(job_id="1").emit("outside a worker")
    with pytest.raises(TypeError, match="a string is expected, not int"):
        Job(job_id="1").emit(4)  # type: ignore[arg-type]


async def test_a_run_that_follows_begins_anew(redis_url: str) -> None:
    async def handle(job: Job) -> str:
        job.emit(f"{job.attempt} of ")
        if job.attempt == 1:
            raise TransientError("flaky", "once more")
        job.emit("2")
        return "2 of 2"

    async with working(redis_url, handle) as client:
        job_id = await client.submit("?", tokens=True)
        pieces = await pieces_of(client, job_id)
    first, *second = pieces
    assert (first.text, "".join(texts(second))) == ("1 of ", "2 of 2")
    assert {piece.attempt for piece in second} == {first.attempt + 1}


async def test_the_answer_is_told_at_the_end_if_it_is_another(redis_url: str) -> None:
    async def handle(job: Job) -> str:
        job.emit("thinking")
        return "4"

    async with working(redis_url, handle) as client:
        first, last = await pieces_of(client, await client.submit("?", tokens=True))
    assert (first.text, last.text) == ("thinking", "4")
    assert last.attempt > first.attempt


async def test_a_failure_ends_the_text(redis_url: str) -> None:
    async def handle(job: Job) -> str:
        job.emit("half")
        raise PermanentError("refusal", "it refuses")

    async with working(redis_url, handle) as client:
        found = client.tokens(await client.submit("?", tokens=True))
        async with asyncio.timeout(PATIENCE):
            assert (await anext(found)).text == "half"
            with pytest.raises(JobFailed, match="it refuses"):
                await anext(found)


async def test_a_client_without_a_loop_reads_it_too(redis_url: str) -> None:
    async def handle(job: Job) -> str:
        job.emit("4")
        return "42"

    def read() -> tuple[list[str], str | None, bytes | None]:
        with SyncClient(redis_url) as client:
            job_id = client.submit("?", tokens=True)
            return texts(list(client.tokens(job_id))), client.result(job_id), client.body(job_id)

    async with working(redis_url, handle):
        assert await asyncio.to_thread(read) == (["4", "2"], "42", None)


class Hindered:
    """A queue that writes no text, each time in another way."""

    def __init__(self, queue: Queue, how: Callable[[Lease, str], Awaitable[bool]]) -> None:
        self._queue = queue
        self.written: list[str] = []
        self._how = how

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def write_tokens(self, lease: Lease, text: str, *, last: bool = False) -> bool:
        self.written.append(text)
        del last
        return await self._how(lease, text)


async def fails(_lease: Lease, _text: str) -> bool:
    raise QueueUnavailableError("away")


async def breaks(_lease: Lease, _text: str) -> bool:
    raise ZeroDivisionError


async def hangs(_lease: Lease, _text: str) -> bool:
    await asyncio.Event().wait()
    return True


async def loses(_lease: Lease, _text: str) -> bool:
    return False


@pytest.mark.parametrize("how", [fails, breaks, hangs, loses])
async def test_text_that_cannot_be_written_harms_no_job(redis_url: str, how: Any) -> None:
    async def handle(job: Job) -> str:
        job.emit("a")
        await asyncio.sleep(2 * PAUSE_SECONDS)
        job.emit("b")
        return "ab"

    opened: list[Hindered] = []

    def wrap(queue: Queue) -> Hindered:
        opened.append(Hindered(queue, how))
        return opened[0]

    async with working(redis_url, handle, wrap=wrap) as client:
        job_id = await client.submit("?", tokens=True)
        assert await client.wait(job_id, timeout=PATIENCE) == "ab"
        assert texts(await pieces_of(client, job_id)) == ["ab"]
        record = await client.record(job_id)
        assert record is not None
        assert record.attempts == 1
    assert opened[0].written == ["a"], "after a hole nothing is written"


async def test_a_value_of_another_program_is_replaced(redis_url: str, client: Redis) -> None:
    client.set("{jobs}:tokens:taken", "foreign")
    client.lpush("body:taken", "foreign")

    async def handle(job: Job) -> Output:
        job.emit("4")
        return Output("4", body=b"{}")

    async with working(redis_url, handle) as reader:
        job_id = await reader.submit("?", job_id="taken", tokens=True, keep="body")
        assert await reader.wait(job_id, timeout=PATIENCE) == "4"
        assert texts(await pieces_of(reader, job_id)) == ["4"]
        assert await reader.body("taken") == b"{}"
        client.set("body:taken", "foreign")
        assert await reader.body("taken") is None
        client.xadd("{jobs}:tokens:taken", {"text": "by hand"})
        assert texts(await (await reader.queue()).read_tokens({"taken": ""}, wait=0.0)) == ["4", "by hand"]


async def test_a_text_lasts_an_hour_while_its_job_runs_and_then_as_long_as_its_result(
    redis_url: str, client: Redis
) -> None:
    go_on = asyncio.Event()

    async def handle(job: Job) -> str:
        job.emit("4")
        await go_on.wait()
        return "4"

    async with working(redis_url, handle, result_ttl=60) as reader:
        job_id = await reader.submit("?", tokens=True)
        await eventually(lambda: client.xlen(f"{{jobs}}:tokens:{job_id}") == 1)
        assert 3500 < client.ttl(f"{{jobs}}:tokens:{job_id}") <= 3600
        go_on.set()
        await reader.wait(job_id, timeout=PATIENCE)
        assert 50 < client.ttl(f"{{jobs}}:tokens:{job_id}") <= 60


async def test_a_full_redis_takes_no_text_but_every_answer(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("maxmemory-policy noeviction")
    full = asyncio.Event()

    async def handle(job: Job) -> str:
        await full.wait()
        job.emit("4")
        await asyncio.sleep(2 * PAUSE_SECONDS)
        job.emit("2")
        return "42"

    async with working(server.url, handle) as reader:
        job_id = await reader.submit("?", tokens=True)
        with server.client() as client:
            await eventually(lambda: client.hget(f"job:{job_id}", "state") == b"running")
            client.config_set("maxmemory", 1)
            full.set()
            assert await reader.wait(job_id, timeout=PATIENCE) == "42"
            assert not client.exists(f"{{jobs}}:tokens:{job_id}")
            client.config_set("maxmemory", 0)
        assert texts(await pieces_of(reader, job_id)) == ["42"]


async def test_in_a_cluster(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("cluster-enabled yes")
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        await eventually(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))

    async def handle(job: Job) -> Output:
        job.emit("4")
        return Output("4", body=b"{}")

    async with working(f"redis+cluster://127.0.0.1:{server.port}", handle) as reader:
        job_ids = [await reader.submit("?", tokens=True, keep="body") for _ in range(3)]
        for job_id in job_ids:
            assert texts(await pieces_of(reader, job_id)) == ["4"]
            assert await reader.body(job_id) == b"{}"
        found = await (await reader.queue()).read_tokens(dict.fromkeys(job_ids, ""), wait=0.0)
        assert sorted(piece.job_id for piece in found) == sorted(job_ids)


# --- the writer ---


async def test_what_gathers_is_written_once_in_a_while_and_all_of_it_at_the_end() -> None:
    clock, written = asyncio.get_running_loop().time, list[tuple[float, str, bool]]()

    async def write(text: str, *, last: bool) -> bool:
        written.append((clock(), text, last))
        return True

    writer = TokenWriter(write, "1")
    await writer.finish()
    assert written == [], "a run that shows nothing costs nothing"
    writer = TokenWriter(write, "1")
    for number in range(30):
        writer.emit(f"{number} ")
        await asyncio.sleep(0.01)
    await writer.finish()
    writer.emit("late")
    assert "".join(text for _, text, _ in written) == "".join(f"{number} " for number in range(30))
    times = [at for at, _, _ in written]
    assert all(later - sooner >= PAUSE_SECONDS * 0.99 for sooner, later in pairwise(times[:-1]))
    assert [last for _, _, last in written] == [*[False] * (len(written) - 1), True]


async def test_a_writer_gives_up_on_a_slow_queue() -> None:
    async def write(_text: str, *, last: bool) -> bool:
        del last
        return await asyncio.Event().wait()

    writer = TokenWriter(write, "1")
    writer.emit("a")
    began = asyncio.get_running_loop().time()
    await writer.finish()
    assert asyncio.get_running_loop().time() - began < LAST_SECONDS + PATIENCE / 2


async def test_text_that_gathers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenscale_worker.token_writer.MOST_WAITING", 10)
    held, written = asyncio.Event(), list[str]()

    async def write(text: str, *, last: bool) -> bool:
        del last
        written.append(text)
        await held.wait()
        return True

    writer = TokenWriter(write, "1")
    writer.emit("a")
    await asyncio.sleep(0)
    for _ in range(20):
        writer.emit("b")
    held.set()
    await writer.finish()
    assert written == ["a"]
