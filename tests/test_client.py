"""The client of producers and readers: against a real Redis, and workers that are real queues or processes."""

import asyncio
import inspect
import os
import re
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from redis import Redis
from redis import exceptions as redis_errors

from greenscale_worker import (
    BadInputError,
    Client,
    ConfigError,
    JobCancelled,
    JobFailed,
    JobFilter,
    JobGone,
    MemoryQueue,
    Metrics,
    Queue,
    QueueOptions,
    QueueUnavailableError,
    RedisOptions,
    SyncClient,
    open_queue,
)
from greenscale_worker.client import ends
from greenscale_worker.client.ends import Ends
from greenscale_worker.job import Failed, Failure, Output, Succeeded, Usage
from greenscale_worker.queues.redis.call_limit import CALLS, CallLimit
from greenscale_worker.testing.rig import run
from harness.eventually import PATIENCE, eventually
from harness.redis_server import RedisServer, free_port, is_master
from harness.tcp_proxy import TcpProxy, Trap
from tests.support.scene import play

KINDS: Final = ("list", "stream")
every_kind = pytest.mark.parametrize("kind", KINDS)


def answer(text: str) -> Succeeded:
    return Succeeded(Output(text, usage=Usage(1, 1, 2)))


@asynccontextmanager
async def opened(url: str, kind: str = "list", **options: Any) -> AsyncIterator[tuple[Client, Queue]]:
    """A client, and a worker's side that this test plays."""
    chosen = QueueOptions(**options)
    queue = await open_queue(kind, RedisOptions(url=url), chosen, Metrics())
    async with aclosing(queue), Client(url, kind=kind, options=chosen) as client:
        yield client, queue


async def waiting(client: Client, *job_ids: str) -> list[asyncio.Task[str]]:
    """Begin to wait, and let each have looked once while ends are told."""
    tasks = [asyncio.create_task(client.wait(job_id, PATIENCE)) for job_id in job_ids]
    await eventually(lambda: client._ends is not None and client._ends._listening and not client._ends._to_look_at)  # noqa: SLF001  what a caller need not know
    return tasks


@pytest.fixture
def only_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself within the time of a test."""
    for name in ("DEAF_SECONDS", "SAFE_SECONDS"):
        monkeypatch.setattr(ends, name, 3600.0)


@every_kind
async def test_a_prompt_is_answered_by_a_worker(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, kind: str
) -> None:
    async with play(tmp_path, redis_server, kind=kind) as scene, Client(redis_url, kind=kind) as client:
        scene.start()
        assert await client.ask("What is 2+2?", timeout=PATIENCE, job_id="one") == "What is 2+2? #1"
        assert await client.result("one") == "What is 2+2? #1"
        assert (await client.record("one")).state == "succeeded"


@every_kind
@pytest.mark.usefixtures("only_told")
async def test_ends_are_told(redis_url: str, kind: str) -> None:
    async with opened(redis_url, kind) as (client, queue):
        ids = await client.submit_many(["answered", "fails", "is buried", "is cancelled"])
        answered, fails, buried, cancelled = await waiting(client, *ids)
        assert await queue.settle(await run(queue), answer("4"))
        assert await answered == "4"
        assert await queue.settle(await run(queue), Failed("content_filter", "refused"))
        with pytest.raises(JobFailed, match="content_filter: refused") as failed:
            await fails
        assert (failed.value.job_id, failed.value.code, failed.value.message) == (ids[1], "content_filter", "refused")
        lease = await run(queue)
        assert await queue.retry(lease, Failure(code="http_500", message="ill", used=1.0, max_tries=1.0)) == "dead"
        with pytest.raises(JobFailed, match="http_500"):
            await buried
        await run(queue)
        assert await client.cancel(ids[3]) == "cancelled"
        with pytest.raises(JobCancelled, match=ids[3]):
            await cancelled


@every_kind
@pytest.mark.usefixtures("only_told")
async def test_a_job_may_be_waited_for_before_it_is_pushed(redis_url: str, client: Redis, kind: str) -> None:
    payload = orjson.dumps({"job_id": "later", "prompt": "hello"})
    async with opened(redis_url, kind) as (ours, queue):
        (later,) = await waiting(ours, "later")
        client.lpush("jobs", payload) if kind == "list" else client.xadd("jobs", {"job": payload})
        assert await queue.settle(await run(queue), answer("at last"))
        assert await later == "at last"
        assert await ours.wait("later") == "at last", "what has ended is answered at once"


async def test_a_thousand_waits_cost_one_connection_and_few_commands(redis_url: str, client: Redis) -> None:
    async with opened(redis_url) as (ours, queue):
        ids = await ours.submit_many([f"prompt {number}" for number in range(1000)])
        others = {int(each["id"]) for each in client.client_list()}
        tasks = await waiting(ours, *ids)
        more = [each for each in client.client_list() if int(each["id"]) not in others]
        assert [each["sub"] for each in more] == ["1"]

        def looks() -> int:
            return int(client.info("commandstats")["cmdstat_hgetall"]["calls"])

        before = looks()

        async def work_off() -> None:
            for _ in range(100):
                assert await queue.settle(await run(queue), answer("done"))

        await asyncio.gather(*(work_off() for _ in range(10)))
        assert await asyncio.gather(*tasks) == ["done"] * 1000
        assert looks() - before < 3 * 1000, "each is looked at when it has ended, and not again and again"


async def test_what_nobody_tells_is_seen_all_the_same(
    redis_url: str, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a worker of the version before, which tells nobody."""
    monkeypatch.setattr(ends, "SAFE_SECONDS", 0.05)
    async with Client(redis_url) as ours:
        job_id = await ours.submit("hello")
        (end,) = await waiting(ours, job_id)
        client.set(f"result:{job_id}", "silent")
        client.hset(f"job:{job_id}", "state", "succeeded")
        assert await end == "silent"


@pytest.mark.usefixtures("only_told")
async def test_what_ends_while_the_subscription_is_cut_is_found_when_it_is_back(redis_url: str, client: Redis) -> None:
    async with opened(redis_url) as (ours, queue):
        job_id = await ours.submit("hello")
        (end,) = await waiting(ours, job_id)
        lease = await run(queue)
        channels = client.pubsub_numsub("{jobs}:ended")
        assert channels == [(b"{jobs}:ended", 1)]
        client.client_kill_filter(_type="pubsub")
        assert await queue.settle(lease, answer("still there"))
        assert await end == "still there"


async def test_more_callers_than_connections_wait_for_one(redis_url: str, client: Redis) -> None:
    async with Client(redis_url) as here:
        ids = await asyncio.gather(*(here.submit(f"question {number}") for number in range(400)))
        records = await asyncio.gather(*map(here.record, ids))
    assert {record.state for record in records if record} == {"waiting"}
    assert client.llen("jobs") == len(records) == 400


async def test_those_who_follow_texts_keep_nobody_from_calling(redis_url: str) -> None:
    async with Client(redis_url) as here:
        queue = await here.queue()
        readers = {asyncio.create_task(queue.read_tokens({f"{number}": ""}, wait=60)) for number in range(CALLS)}
        async with asyncio.timeout(PATIENCE):
            assert await here.submit("question")
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


async def test_who_waits_for_a_slot_is_told_at_once_that_the_server_is_away() -> None:
    calls, tried = CallLimit(), list[int]()

    async def call(number: int) -> None:
        async with calls.slot():
            tried.append(number)
            await asyncio.sleep(0)
            raise redis_errors.ConnectionError("away")

    ended = await asyncio.gather(*(call(number) for number in range(10 * CALLS)), return_exceptions=True)
    assert all(isinstance(error, QueueUnavailableError) for error in ended)
    assert len(tried) == CALLS
    with pytest.raises(QueueUnavailableError):
        await call(-1)
    assert tried[-1] == -1, "who comes later tries anew"


async def test_a_server_that_is_away_is_waited_for(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("appendonly yes", "appendfsync always")
    async with Client(f"{server.url}/0") as ours:
        job_id = await ours.submit("hello")
        (end,) = await waiting(ours, job_id)
        server.kill()
        with pytest.raises(QueueUnavailableError):
            await ours.submit("meanwhile")
        server.start()
        async with aclosing(await open_queue("list", RedisOptions(url=f"{server.url}/0"), None, Metrics())) as queue:
            assert await queue.settle(await run(queue), answer("back"))
        assert await end == "back"


async def test_where_it_may_not_listen_it_looks(
    start_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "DEAF_SECONDS", 0.05)
    server = start_redis("user deaf on nopass ~* +@all -subscribe")
    async with opened(f"{server.url}/0") as (_, queue):
        redis = RedisOptions(url=f"{server.url}/0", username="deaf", password="x")  # noqa: S106  of nobody
        async with Client(redis=redis) as ours:
            job_id = await ours.submit("hello")
            end = asyncio.create_task(ours.wait(job_id, PATIENCE))
            assert await queue.settle(await run(queue), answer("seen"))
            assert await end == "seen"


async def test_a_server_that_refuses_this_client_is_told(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("requirepass secret")
    async with Client(f"{server.url}/0") as ours:
        for call in (ours.submit("hello"), ours.wait("one"), ours.result("one"), ours.depth()):
            with pytest.raises(ConfigError, match="Redis refuses this client"):
                await call


@pytest.mark.usefixtures("only_told")
async def test_a_cluster_tells_ends(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("cluster-enabled yes")
    with server.client() as plain:
        plain.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await eventually(lambda: b"cluster_state:ok" in plain.execute_command("CLUSTER", "INFO"))
    async with opened(f"redis+cluster://127.0.0.1:{server.port}") as (ours, queue):
        ids = await ours.submit_many(["1", "2"])
        tasks = await waiting(ours, *ids)
        assert [job.state async for job in ours.jobs()] == ["waiting", "waiting"]
        for _ in ids:
            assert await queue.settle(await run(queue), answer("in a cluster"))
        assert await asyncio.gather(*tasks) == ["in a cluster"] * 2


async def test_a_failover_is_waited_out(start_redis: Callable[..., RedisServer]) -> None:
    master = start_redis()
    replica = start_redis(f"replicaof 127.0.0.1 {master.port}", "repl-diskless-sync-delay 0")
    watch = f"sentinel monitor main 127.0.0.1 {master.port} 1"
    sentinel = start_redis(watch, "sentinel down-after-milliseconds main 500", sentinel=True)
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"
    with sentinel.client(decode_responses=True) as watcher, master.client() as plain:
        await eventually(lambda: len(watcher.execute_command("SENTINEL", "REPLICAS", "main")) == 1)
        async with opened(url) as (ours, queue):
            job_id = await ours.submit("hello")
            (end,) = await waiting(ours, job_id)
            lease = await run(queue)
            await eventually(lambda: plain.wait(1, 100) == 1)
            master.kill()
            await eventually(lambda: is_master(replica))
            assert await queue.settle(lease, answer("from the replica"))
            assert await end == "from the replica"


async def test_the_queue_of_one_process_has_a_client_too() -> None:
    queue = MemoryQueue()
    ours = Ends(queue)
    await queue.put([("one", b'{"job_id":"one","prompt":"hello"}')])
    end = asyncio.create_task(ours.wait("one"))
    assert await queue.settle(await run(queue), answer("4"))
    assert (await end).answer == b"4"
    await ours.aclose()


async def test_a_wait_that_takes_too_long_says_how_the_job_stands(redis_url: str) -> None:
    async with opened(redis_url) as (ours, queue):
        with pytest.raises(TimeoutError, match=r"nobody has not ended within 0\.05 s; there is no record of it"):
            await ours.wait("nobody", 0.05)
        job_id = await ours.submit("hello")
        slow = Failure(code="http_503", message="loading", used=0.1, delay=60.0)
        assert await queue.retry(await run(queue), slow) == "delayed"
        with pytest.raises(TimeoutError, match=r"it is delayed, last http_503: loading"):
            await ours.wait(job_id, 0.2)


async def test_a_wait_that_takes_too_long_says_why_nothing_moves(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Client(redis_url) as ours:
        with pytest.raises(TimeoutError, match=r"no record of it; nothing moves: no worker is alive$"):
            await ours.wait("a", 0.05)
    async with opened(redis_url) as (ours, worker):
        await (await ours.queue()).pause()
        with pytest.raises(TimeoutError, match=r"it is waiting; nothing moves: paused: .*ends it$"):
            await ours.ask("x", timeout=0.05, job_id="a")
        await (await ours.queue()).resume()
        await worker.beat("the gate is shut")
        with pytest.raises(TimeoutError, match=r"it is waiting; nothing moves: no worker sends: the gate is shut$"):
            await ours.wait("a", 0.05)
        await worker.beat()
        with pytest.raises(TimeoutError, match=r"it is waiting$"):
            await ours.wait("a", 0.05)
        monkeypatch.setattr("greenscale_worker.client.asynchronous.standing", lambda _queue: 1 / 0)
        with pytest.raises(TimeoutError, match=r"it is waiting$"):
            await ours.wait("a", 0.05)


async def test_an_answer_that_is_kept_no_longer_is_told(redis_url: str, client: Redis) -> None:
    async with opened(redis_url) as (ours, queue):
        ids = await ours.submit_many(["its record goes", "its answer goes"])
        (end,) = await waiting(ours, ids[0])
        client.delete(f"job:{ids[0]}")
        ours._ends._heard(None)  # type: ignore[union-attr]  # noqa: SLF001  as when the subscription is back
        with pytest.raises(JobGone, match=ids[0]):
            await end
        await run(queue)
        assert await queue.settle(await run(queue), answer("4"))
        client.delete(f"result:{ids[1]}")
        with pytest.raises(JobGone, match=ids[1]):
            await ours.wait(ids[1])
        assert await ours.result(ids[1]) is None


async def test_nothing_can_be_waited_for_where_nothing_is_kept(redis_url: str) -> None:
    async with opened(redis_url, result_ttl=0) as (ours, _):
        with pytest.raises(ConfigError, match="results are not kept"):
            await ours.wait(await ours.submit("hello"))


async def test_who_still_waits_when_it_closes_is_told(redis_url: str) -> None:
    ours = Client(redis_url)
    (end,) = await waiting(ours, await ours.submit("hello"))
    await ours.aclose()
    with pytest.raises(QueueUnavailableError, match="closed"):
        await end


async def test_a_wait_may_be_cancelled_and_leaves_nothing_behind(redis_url: str, client: Redis) -> None:
    async with opened(redis_url) as (ours, queue):
        job_id = await ours.submit("hello")
        first, second = await waiting(ours, job_id, job_id)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await queue.settle(await run(queue), answer("4"))
        assert await second == "4"
        assert ours._ends is not None  # noqa: SLF001  what is left is the question
        assert (ours._ends._waits, ours._ends._to_look_at) == ({}, {})  # noqa: SLF001
        await eventually(lambda: client.pubsub_numsub("{jobs}:ended") == [(b"{jobs}:ended", 0)])


async def test_jobs_are_given_as_they_end(redis_url: str) -> None:
    async with opened(redis_url) as (ours, queue):
        ids = await ours.submit_many(["1", "2", "3"])
        leases = [await run(queue) for _ in ids]
        for number in (2, 0, 1):
            assert await queue.settle(leases[number], answer(str(number)))
        ended = {each.job_id: each.answer async for each in ours.as_completed([*ids, ids[0]])}
        assert ended == {ids[0]: "0", ids[1]: "1", ids[2]: "2"}


@every_kind
async def test_a_job_looks_the_same_however_it_is_asked_for(redis_url: str, kind: str) -> None:
    """One type for how it stands, text for its answer, seconds for its times."""
    async with opened(redis_url, kind) as (ours, queue):
        job_id = await ours.submit("?", metadata={"tenant": "a"})
        assert (await ours.record(job_id)).state == "waiting"
        await queue.settle(await run(queue), answer("4"))
        (listed,) = [job async for job in ours.jobs()]
        (ended,) = [each async for each in ours.as_completed([job_id])]
        assert listed == ended.record == await ours.record(job_id)
        assert ended.answer == await ours.result(job_id) == await ours.wait(job_id) == "4"
        assert (listed.total_tokens, listed.metadata, listed.attempts, listed.crashes) == (2, {"tenant": "a"}, 1, 0)
        assert 0 <= listed.finished_at - listed.submitted_at < PATIENCE
        assert abs(listed.finished_at - time.time()) < PATIENCE
        assert await ours.record("nobody") is None


async def test_what_is_submitted_is_what_the_wire_contract_says(redis_url: str, client: Redis) -> None:
    async with Client(redis_url) as ours:
        deadline = datetime.now(UTC) + timedelta(hours=1)
        messages = [{"role": "user", "content": "What is 2+2?"}]
        job_id = await ours.submit(
            messages=messages, model="llama", metadata={"tenant": "a"}, deadline=deadline, temperature=0.1
        )
        written = orjson.loads(client.lrange("jobs", 0, 0)[0])
        assert written == {
            "job_id": job_id,
            "messages": messages,
            "model": "llama",
            "metadata": {"tenant": "a"},
            "deadline": deadline.isoformat(),
            "temperature": 0.1,
        }
        assert await ours.submit("again", job_id="mine") == await ours.submit("again", job_id="mine") == "mine"
        assert client.llen("jobs") == 2, "what waits is not handed in twice"


async def test_a_job_is_submitted_with_a_class_and_a_time(redis_url: str, client: Redis) -> None:
    async with Client(redis_url) as ours:
        job_id = await ours.submit("at once", job_class="background")
        assert orjson.loads(client.lrange("{jobs}:background", 0, 0)[0]) == {"job_id": job_id, "prompt": "at once"}
        for due in (datetime.now(UTC) + timedelta(hours=1), time.time() + 3600):
            job = await ours.record(await ours.submit("later", not_before=due))
            assert job is not None
            assert job.state == "scheduled"
            assert job.due_at is not None
            assert abs(job.due_at - time.time() - 3600) < PATIENCE
        assert (await ours.depth()).scheduled == 2
        with pytest.raises(ValueError, match="job_class 'urgent'"):
            await ours.submit("never", job_class="urgent")  # type: ignore[arg-type]
        with pytest.raises(BadInputError, match=r"not_before: .* has no time zone"):
            await ours.submit("never", not_before=datetime(2030, 1, 1))  # noqa: DTZ001  what is refused
        with pytest.raises(TypeError, match="not_before 'soon': a datetime or seconds since the epoch are expected"):
            await ours.submit("never", not_before="soon")  # type: ignore[arg-type]


async def test_many_jobs_are_handed_in_in_order(redis_url: str, client: Redis) -> None:
    async with Client(redis_url) as ours:
        ids = await ours.submit_many([{"job_id": f"n-{number}", "prompt": "x"} for number in range(250)])
        assert ids == [f"n-{number}" for number in range(250)]
        assert [orjson.loads(each)["job_id"] for each in reversed(client.lrange("jobs", 0, -1))] == ids
        assert await ours.submit_many([]) == []


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, "prompt: is missing"),
        ({"prompt": "  "}, "not blank"),
        ({"prompt": "x", "messages": [{"role": "user"}]}, "one of the two"),
        ({"prompt": "x", "job_id": "a b"}, "job_id is not usable"),
        ({"prompt": "x", "metadata": {"a": object()}}, "written as JSON"),
        ({"prompt": "x" * 1024 * 1024}, "at most 1048576 are accepted"),
        ({"prompt": "x", "stream": True}, "only false is accepted"),
        ({"prompt": "x", "deadline": "tomorrow"}, "deadline"),
        ({"prompt": "x", "deadline": "2020-01-02T03:04:05Z"}, "deadline: 2020-01-02T03:04:05.00:00 has passed"),
    ],
)
async def test_a_job_that_no_worker_would_run_is_refused_before_anything_is_handed_in(
    redis_url: str, client: Redis, fields: dict[str, Any], fault: str
) -> None:
    async with Client(redis_url) as ours:
        with pytest.raises(BadInputError, match=fault):
            await ours.submit_many(["fine", fields])
        assert client.exists("jobs") == 0


@pytest.mark.parametrize(
    ("jobs", "error", "fault"),
    [
        (["a", 5], TypeError, r"jobs\[1\]: a job is a prompt \(str\) or a dict of its fields, not int"),
        ("abc", TypeError, "jobs: a list of prompts or of dicts, one for each job, is expected, not str"),
        ({"prompt": "x"}, TypeError, "jobs: a list of prompts or of dicts, one for each job, is expected, not dict"),
        (5, TypeError, "jobs: a list .* is expected, not int"),
        (["a", {"prompt": ""}], BadInputError, r"jobs\[1\]: prompt: "),
        (
            [{"job_id": "one", "prompt": "x"}, "b", {"job_id": "one", "prompt": "y"}],
            BadInputError,
            r"jobs\[2\]: job_id one is that of jobs\[0\], another job",
        ),
    ],
)
async def test_many_jobs_with_a_wrong_one_are_refused_and_it_is_named(
    redis_url: str, client: Redis, jobs: Any, error: type[Exception], fault: str
) -> None:
    async with Client(redis_url) as ours:
        with pytest.raises(error, match=f"^{fault}"):
            await ours.submit_many(jobs)
        assert client.exists("jobs") == 0
        job = {"job_id": "one", "prompt": "x"}
        assert await ours.submit_many([job, job]) == ["one", "one"]
        assert client.llen("jobs") == 1


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"metadata": "abc"}, "^metadata: a dict of strings is expected, not str"),
        ({"deadline": timedelta(hours=1)}, "^deadline: a time .* or a datetime, not timedelta"),
    ],
)
async def test_a_field_of_another_type_is_named(redis_url: str, fields: dict[str, Any], fault: str) -> None:
    async with Client(redis_url) as ours:
        with pytest.raises(BadInputError, match=fault):
            await ours.submit("x", **fields)


async def test_an_argument_that_is_none_is_refused_in_plain_words(redis_url: str, client: Redis) -> None:
    wrong: Any = "5s"
    misspelt: Any = "runing"
    async with Client(redis_url) as ours:
        with pytest.raises(TypeError, match=r"^timeout: seconds as a number, or None, are expected, not '5s'"):
            await ours.wait("a", wrong)
        with pytest.raises(TypeError, match=r"^timeout: "):
            await ours.ask("x", timeout=wrong)
        assert client.exists("jobs") == 0
        with pytest.raises(TypeError, match=r"^job_ids: a list of ids is expected, not str"):
            await anext(ours.as_completed("dup9"))
        with pytest.raises(ValueError, match=r"^state: there is no 'runing' \(did you mean 'running'\?\)"):
            await anext(aiter(ours.jobs(state=misspelt)))
        for queue in (await ours.queue(), MemoryQueue()):
            letters: Any = ["id"]
            with pytest.raises(TypeError, match=r"^a dead letter's id is a string, not list; for several: replay_many"):
                await queue.replay(letters)
            with pytest.raises(TypeError, match=r"^letter_ids: a list of dead letters' ids is expected, not str"):
                await queue.replay_many("id")


def test_the_twins_have_the_same_methods_with_the_same_parameters() -> None:
    """But for `queue`, which has an event loop's methods, and what ends a client."""
    theirs, ours = (
        {name: getattr(kind, name) for name in vars(kind) if not name.startswith("_")} for kind in (Client, SyncClient)
    )
    assert theirs.keys() - {"queue", "aclose"} == ours.keys() - {"close"}
    for name in theirs.keys() & ours.keys():
        asked = [list(inspect.signature(each[name]).parameters.values()) for each in (theirs, ours)]
        assert asked[0] == asked[1], name


async def test_another_backend_takes_other_jobs(redis_url: str) -> None:
    async with Client(redis_url, check=False) as ours:
        assert (await ours.submit_many([{"job_id": "one", "anything": 1}])) == ["one"]


async def test_jobs_can_be_seen_counted_and_cancelled(redis_url: str) -> None:
    async with opened(redis_url) as (ours, queue):
        ids = await ours.submit_many(["1", "2"])
        await run(queue)
        assert [(job.job_id, job.state) async for job in ours.jobs()] == [(ids[0], "running"), (ids[1], "waiting")]
        assert [job.job_id async for job in ours.jobs(state="waiting", limit=1)] == [ids[1]]
        several = ours.jobs(state=["running", "waiting"])
        assert [job.job_id async for job in several] == ids
        assert [job.job_id async for job in ours.jobs(state={"waiting", "failed"})] == [ids[1]]
        assert [job.job_id async for job in ours.jobs(state=("waiting", "running"), limit=1)] == [ids[0]]
        assert [job async for job in ours.jobs(state=[])] == []
        depth = await ours.depth()
        assert (depth.running, depth.waiting, len(await ours.workers())) == (1, 1, 1)
        assert await ours.cancel(ids[0]) == "cancelled"
        assert (await ours.cancel(ids[1]), await ours.uncancel(ids[1])) == ("will_be_cancelled", True)
        assert await ours.uncancel(ids[1]) is False
        beneath = await ours.queue()
        assert [job.job_id async for job in beneath.jobs(JobFilter(state="cancelled"))] == [ids[0]]


async def test_it_takes_the_settings_of_the_worker(redis_url: str, client: Redis, tmp_path: Path) -> None:
    environ = {"REDIS_URL": redis_url, "REDIS_LIST_NAME": "other", "GREENSCALE_BACKEND": "echo"}
    async with Client.from_env(environ) as ours:
        await ours.submit_many([{"anything": 1}])
        assert client.llen("other") == 1
    file = tmp_path / "settings"
    file.write_text(f"REDIS_URL={redis_url}\nREDIS_LIST_NAME=of-a-file\n")
    async with Client.from_env({}, env_file=file) as ours:
        await ours.submit("hello")
        assert client.llen("of-a-file") == 1
    with pytest.raises(ConfigError, match="REDIS_PORT"):
        Client.from_env({"REDIS_PORT": "nowhere"})


def test_the_synchronous_twin(redis_url: str) -> None:
    url, ready = redis_url, threading.Event()

    async def work_off() -> None:
        async with aclosing(await open_queue("list", RedisOptions(url=url), None, Metrics())) as queue:
            ready.set()
            for number in range(4):
                lease = await run(queue)
                outcome = Failed("bad", "it was") if number == 3 else answer(str(number))
                assert await queue.settle(lease, outcome)

    worker = threading.Thread(target=asyncio.run, args=(work_off(),))
    worker.start()
    assert ready.wait(PATIENCE)
    with SyncClient(redis_url) as ours:
        assert ours.ask("first", timeout=PATIENCE) == "0"
        ids = ours.submit_many(["second", "third"])
        assert {each.job_id: each.answer for each in ours.as_completed(ids)} == {ids[0]: "1", ids[1]: "2"}
        for _ in ours.as_completed([ids[0], "nobody"]):
            break
        assert ours._client._ends is not None  # noqa: SLF001  what is left is the question
        assert ours._client._ends._waits == {}, "whoever breaks off waits no longer"  # noqa: SLF001
        assert ours.result(ids[0]) == "1"
        with pytest.raises(JobFailed, match="bad"):
            ours.wait(ours.submit("fourth"), PATIENCE)
        with pytest.raises(TimeoutError, match="no record"):
            ours.wait("nobody", 0.05)
        assert [job.state for job in ours.jobs(limit=2)] == ["failed", "succeeded"]
        assert ours.depth().dead == 1
        assert ours.record(ids[0]).state == "succeeded"
    worker.join(PATIENCE)
    ours.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "greenscale-client"]


async def test_the_synchronous_twin_works_where_an_event_loop_runs(redis_url: str) -> None:
    with SyncClient(redis_url) as ours:
        assert ours.submit("hello", job_id="one") == "one"
        assert ours.depth().waiting == 1


PAGE: Final = Path(__file__).parents[1] / "docs/producers.md"
PROGRAMS: Final = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("printed", PROGRAMS)
async def test_the_programs_that_the_page_prints(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, printed: str
) -> None:
    program = tmp_path / "printed.py"
    program.write_text(printed.replace("redis://127.0.0.1:6379/0", redis_url))
    environment = {**os.environ, "REDIS_URL": redis_url}
    async with play(tmp_path, redis_server) as scene:
        scene.start()
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(program), cwd=tmp_path, env=environment, stdout=PIPE, stderr=PIPE
        )
        assert await process.communicate() == (b"What is 2+2? #1\n", b"")
    check = await asyncio.create_subprocess_exec(sys.executable, "-m", "mypy", "--strict", str(program), cwd=tmp_path)
    assert await check.wait() == 0


async def test_any_language_is_told_of_ends(redis_url: str, client: Redis) -> None:
    async with opened(redis_url) as (_, queue):
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe("{jobs}:ended")
            channel.get_message(timeout=PATIENCE)
            client.lpush("jobs", b'{"job_id":"one","prompt":"x"}', b'{"job_id":"two","prompt":"x"}')
            leases = [await run(queue), await run(queue)]
            await asyncio.gather(*(queue.settle(lease, answer("4")) for lease in leases))
            told: list[bytes] = []
            for _ in range(int(PATIENCE)):
                message = channel.get_message(timeout=1.0)
                told += message["data"].split(b" ") if message else []
                if len(told) == 2:
                    break
            assert sorted(told) == [b"one", b"two"]
            assert client.get("result:two") == b"4"


async def test_a_job_that_was_replayed_is_waited_for_again(redis_url: str) -> None:
    async with opened(redis_url) as (ours, queue):
        job_id = await ours.submit("hello", job_id="again")
        assert await queue.settle(await run(queue), Failed("bad", "it was"))
        with pytest.raises(JobFailed):
            await ours.wait(job_id, PATIENCE)
        beneath = await ours.queue()
        (letter,) = [letter async for letter in beneath.dead()]
        assert await beneath.replay(letter.id)
        assert (await ours.record(job_id)).state == "waiting"
        assert [job async for job in ours.jobs(state="failed")] == []
        (end,) = await waiting(ours, job_id)
        assert await queue.settle(await run(queue), answer("well"))
        assert await end == "well"


async def test_what_somebody_else_wrote_spoils_no_other_wait_and_no_listing(redis_url: str, client: Redis) -> None:
    async with opened(redis_url) as (ours, queue):
        well, evil = await ours.submit_many([{"job_id": name, "prompt": "x"} for name in ("well", "evil")])
        for _ in range(2):
            assert await queue.settle(await run(queue), answer("4"))
        client.delete(f"result:{evil}")
        client.lpush(f"result:{evil}", "a list")
        ended = await asyncio.gather(ours.wait(well, PATIENCE), ours.wait(evil, PATIENCE), return_exceptions=True)
        assert ended[0] == "4"
        assert isinstance(ended[1], JobGone)
        client.hset(f"job:{well}", mapping={b"\xff": b"\xff", "attempts": "9" * 5000, "submitted_ms": "9" * 400})
        client.lpush("{jobs}:recent", "9" * 5000 + " failed one code", b"\xff \xff", "x", "9" * 400 + " failed two ")
        client.zadd("{jobs}:delayed", {b"\xff": "inf", b"1": "inf"})
        client.hset("{jobs}:meta", mapping={b"\xff": b"\xff", b"1": b"x"})
        client.zadd("{jobs}:held", {str(number): 0 for number in range(9000)})
        assert {job.job_id async for job in ours.jobs(limit=9500)} >= {well, evil}
        assert await ours.record(well)
        await (await ours.queue()).rate()
        client.hset("{jobs}:bound", well, "1795000000000000")
        client.hset(f"job:{well}", "state", "failed")
        assert (await ours.record(well)).state == "failed", "it is bound to a job that is nowhere"
        client.delete("{jobs}:recent")
        client.set("{jobs}:recent", "a string")
        assert await (await ours.queue()).rate() == 0.0


@pytest.mark.parametrize("job_id", ["", "a b", "é", 7])
async def test_an_id_that_no_job_can_have_is_not_waited_for(redis_url: str, job_id: Any) -> None:
    async with Client(redis_url) as ours:
        with pytest.raises(BadInputError, match="no job id"):
            await ours.wait(job_id)
        with pytest.raises(BadInputError, match="no job id"):
            await anext(ours.as_completed([job_id]))


async def test_an_id_is_known_though_the_servers_answer_got_lost(redis_server: RedisServer, client: Redis) -> None:
    """The job was handed in; with the id that the error has, it is not handed in twice, and can be waited for."""
    async with TcpProxy(redis_server.port) as proxy, Client(f"redis://127.0.0.1:{proxy.port}/0") as ours:
        for jobs in (["once"], ["one", {"prompt": "two", "job_id": "named"}]):
            client.flushdb()
            proxy.set(Trap(b"once"))
            proxy.set(Trap(b"two"))
            with pytest.raises(QueueUnavailableError) as lost:
                await (ours.submit(jobs[0]) if len(jobs) == 1 else ours.submit_many(jobs))
            error = lost.value
            assert error.job_id == (error.job_ids[0] if len(jobs) == 1 else None)
            assert (error.job_id or f"{len(jobs)} jobs") in str(error)
            again = [{"prompt": job} if isinstance(job, str) else job for job in jobs]
            again = [{**job, "job_id": job_id} for job, job_id in zip(again, error.job_ids, strict=True)]
            assert await ours.submit_many(again) == list(error.job_ids)
            pushed = [orjson.loads(payload)["job_id"] for payload in reversed(client.lrange("jobs", 0, -1))]
            assert pushed == list(error.job_ids)


async def test_where_no_connection_is_made_nothing_was_handed_in() -> None:
    async with Client(f"redis://127.0.0.1:{free_port()}/0") as ours:
        with pytest.raises(QueueUnavailableError, match=r"Connection refused; nothing was handed in$") as refused:
            await ours.submit("x", job_id="a")
    assert (refused.value.undone, refused.value.job_id) == (True, "a")


async def test_of_what_was_accepted_before_nobody_says_that_nothing_was(redis_server: RedisServer) -> None:
    """The second of two groups of 100 finds no server: the first was handed in."""
    async with TcpProxy(redis_server.port) as proxy, Client(f"redis://127.0.0.1:{proxy.port}/0") as ours:
        proxy.set(Trap(b"number 150"))
        with pytest.raises(QueueUnavailableError, match="not known which of 200 jobs were handed in: submit ") as lost:
            await ours.submit_many([f"number {number}" for number in range(200)])
    assert not lost.value.undone
    assert ".;" not in str(lost.value)


async def test_no_client_takes_jobs_that_no_worker_reads(redis_url: str) -> None:
    with pytest.raises(ConfigError, match="max_bytes=8388609; expected: 8388608 at most"):
        Client(redis_url, max_bytes=8 * 1024 * 1024 + 1)
    async with Client(redis_url) as ours:
        with pytest.raises(BadInputError, match=r"at most 1048576 are accepted \(GREENSCALE_MAX_PAYLOAD_BYTES\)"):
            await ours.submit("x" * 1024 * 1024)


def test_a_client_of_another_event_loop_says_so(redis_url: str) -> None:
    ours, first = Client(redis_url), asyncio.new_event_loop()
    first.run_until_complete(ours.depth())
    with pytest.raises(ConfigError, match="event loop"):
        asyncio.run(ours.depth())
    first.run_until_complete(ours.aclose())
    first.close()


def test_whoever_calls_while_the_synchronous_twin_closes_is_told(redis_url: str) -> None:
    ours, told = SyncClient(redis_url), []

    def call() -> None:
        try:
            while True:
                ours.record("one")
        except QueueUnavailableError as error:
            told.append(str(error))

    threads = [threading.Thread(target=call, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    ours.record("two")
    ours.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert [thread for thread in threads if thread.is_alive()] == []
    assert len(told) == 8
    with pytest.raises(QueueUnavailableError, match="closed"):
        ours.record("one")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("taken", [1, 19, 20, 35, 60])
async def test_jobs_that_are_taken_while_they_are_listed_hide_none_that_wait(
    redis_url: str, client: Redis, side: Any, taken: int
) -> None:
    """Some wait under one id with the same payload, as by producers that repeat themselves."""
    options = QueueOptions(take_from=side)
    push, pop = (client.lpush, client.rpop) if side == "right" else (client.rpush, client.lpop)
    ids = [f"n-{number // 2 if number % 10 == 1 else number}" for number in range(100)]
    push("jobs", *(orjson.dumps({"job_id": job_id, "prompt": "?"}) for job_id in ids))
    listed: list[str | None] = []
    async with Client(redis_url, options=options) as ours:
        async for job in ours.jobs():
            listed.append(job.job_id)
            if len(listed) in {20, 40}:  # before the next part is read
                pop("jobs", taken // 2 if len(listed) == 20 else taken - taken // 2)
                push("jobs", b'{"job_id":"late","prompt":"?"}')
    assert listed.count("late") == 2
    wait = ids[taken:]
    assert [job_id for job_id in listed if job_id != "late"][-len(wait) :] == wait
