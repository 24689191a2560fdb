"""Calls by HTTP: a door of these tests, real models, a real Redis."""

import asyncio
import gc
import io
import os
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import POLL, eventually
from harness.redis_server import RedisServer
from structlog.testing import capture_logs

from doors import PATIENCE, Platform
from kubeserve.domain import DeploymentState
from kubeserve.door import hot, leases
from kubeserve.door.leases import Leases
from kubeserve.door.replica import Rows
from kubeserve.gateway import Gateway, LocalDoors
from kubeserve.places.workload import Workload
from kubeserve.predictions import Answer
from kubeserve.queueing import hot_key
from models import IRIS, of_python
from test_gateway import DEPLOYMENT

SETOSA = [5.1, 3.5, 1.4, 0.2]
READY, ASLEEP = DeploymentState.READY, DeploymentState.ASLEEP
ROOT = of_python(
    "return [__import__('time').sleep(0.2 * (row[0] == 40)) or __import__('math').sqrt(row[0]) for row in rows]"
)
SLOW = of_python("return [__import__('time').sleep(1) or 1 for row in rows]")


class Caller:
    """Asks the door of a platform, as `kubeserve serve` does, and bare."""

    def __init__(self, platform: Platform, http: aiohttp.ClientSession) -> None:
        self.gateway = Gateway(LocalDoors(platform.layout))
        self.http = http

    async def ask(self, workload: Workload, *rows: Any, seconds: float = PATIENCE) -> Answer | None:
        return await self.gateway.ask(replace(DEPLOYMENT, id=workload.id), list(rows), seconds)

    async def post(self, workload_id: str, body: bytes | io.BytesIO = b"[[1]]") -> tuple[int, Any]:
        async with self.http.post(f"http://door/predict/{workload_id}", data=body) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def caller(platform: Platform) -> AsyncIterator[Caller]:
    connector = aiohttp.UnixConnector(str(platform.layout.socket), limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        caller = Caller(platform, http)
        yield caller
        await caller.gateway.aclose()


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def awake(platform: Platform, model: str, **changes: Any) -> Workload:
    workload = await platform.deploy(model, **changes)
    await platform.until(workload, lambda seen: seen.replicas > 0)
    return workload


async def test_an_answer_by_http_is_no_job_and_is_counted_alike(
    platform: Platform, caller: Caller, db: redis.Redis
) -> None:
    workload = await awake(platform, IRIS)
    answer = await caller.ask(workload, SETOSA, dict(zip(("x0", "x1", "x2", "x3"), SETOSA, strict=True)))
    assert answer == Answer(None, "succeeded", {"predictions": [0, 0], "revision": 1, "version": "v1"})
    assert db.keys(f"ks:{workload.id}*") == []
    counted = f'predictions_total{{deployment="{workload.id}",outcome="success"}}'
    assert f"{counted} 1.0" in (await platform.place.metrics()).decode()
    assert (await platform.ask(workload, SETOSA, SETOSA)).answer == answer.answer
    assert f"{counted} 2.0" in (await platform.place.metrics()).decode()


async def test_who_sleeps_is_not_woken_and_costs_little(platform: Platform, caller: Caller) -> None:
    workload = await platform.deploy(IRIS, idle=0.6)
    await platform.until(workload, lambda seen: seen.state is ASLEEP)
    assert await caller.ask(workload, SETOSA) is None
    status, told = await caller.post(workload.id)
    assert (status, told["error"]["code"]) == (503, "asleep")
    seen = await platform.place.observe(workload.id)
    assert seen is not None
    assert seen.state is ASLEEP
    assert (await platform.ask(workload, SETOSA)).answer is not None
    assert await caller.ask(workload, SETOSA) is not None
    for unknown in (str(uuid.uuid4()), "x", "%00"):
        status, told = await caller.post(unknown)
        assert (status, told["error"]["code"]) == (503, "not_ready")


async def test_calls_by_http_keep_a_replica_awake(platform: Platform, caller: Caller) -> None:
    workload = await awake(platform, IRIS, idle=3.0)
    loop = asyncio.get_running_loop()
    ends = loop.time() + 7
    while loop.time() < ends:
        assert await caller.ask(workload, SETOSA) is not None
        await asyncio.sleep(POLL)
    await platform.until(workload, lambda seen: seen.state is ASLEEP)


REFUSED = (
    [["a", 1, 1, 1]],
    [SETOSA, [1]],
    [SETOSA, "x"],
    [{"x0": 1}],
    [[None, 1, 1, 1]],
    [[[1], 1, 1, 1]],
    [5],
    [[]],
    [[2**63, 1, 1, 1]],
    [["\u00e4\U0001f600", 1, 1, 1]],
    [dict.fromkeys(("x0", "x1", "x2", "x3", "y"), 1)],
)
FAILING = (
    "raise ValueError('no')",
    "return [float('nan') for row in rows]",
    "return 'x'",
    "__import__('os')._exit(3)",
    "__import__('time').sleep(60)",
    "return ['x' * 40_000_000]",
)


async def test_what_a_model_refuses_is_told_as_a_job_would_tell_it(platform: Platform, caller: Caller) -> None:
    workload = await awake(platform, IRIS)
    for rows in REFUSED:
        told, queued = await caller.ask(workload, *rows), await platform.ask(workload, *rows)
        assert told is not None
        assert told.error == queued.error is not None, rows
    for model in FAILING:
        workload = await awake(platform, of_python(model), timeout=0.5 if "sleep" in model else 30.0)
        told, queued = await caller.ask(workload, [1]), await platform.ask(workload, [1])
        assert told is not None
        assert told.error == queued.error is not None, model


async def test_what_is_no_request_of_a_gateway_is_refused_and_stops_nothing(platform: Platform, caller: Caller) -> None:
    workload = await awake(platform, IRIS)
    for body in (b"", b"{", b"[]", b"{}", b"[1]]", b"[[NaN]]", b"\xff", b"[" * 100_000):
        status, told = await caller.post(workload.id, body)
        assert (status, told["error"]["code"]) == (400, "bad_request"), body[:20]
    for size in (4 << 20, (4 << 20) + 1, 20 << 20):
        status, told = await caller.post(workload.id, io.BytesIO(b"x" * size))
        assert (status, told["error"]["code"]) == (400, "bad_request"), size
    assert (await caller.ask(workload, SETOSA)) is not None


async def test_a_flood_is_answered_or_sent_to_the_queue(
    platform: Platform, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "MOST_CALLS", 10)
    workload = await awake(platform, SLOW, maximum=1)
    other = await awake(platform, IRIS)
    asked = [asyncio.create_task(caller.post(workload.id)) for _ in range(40)]
    assert (await caller.ask(other, SETOSA)) is not None
    told = Counter((status, told.get("error", {}).get("code")) for status, told in await asyncio.gather(*asked))
    assert told == {(200, None): 10, (503, "busy"): 30}
    monkeypatch.setattr(hot, "MOST_BYTES", 100)
    asked = [asyncio.create_task(caller.post(workload.id, b"[[%d]]" % 10**30)) for _ in range(9)]
    told = Counter(status for status, _ in await asyncio.gather(*asked))
    assert told[503] >= 1
    assert (await caller.post(workload.id, b"[[1]]" + b" " * 200))[0] == 200  # one alone is taken, whatever its size


async def test_who_goes_away_costs_nobody_else_an_answer(platform: Platform, caller: Caller) -> None:
    workload = await awake(platform, ROOT, maximum=1)
    held = asyncio.create_task(caller.ask(workload, [40]))
    await asyncio.sleep(POLL)
    impatient = [asyncio.create_task(caller.ask(workload, [16], seconds=0.05)) for _ in range(10)]
    gone = [asyncio.create_task(caller.post(workload.id, b"[[9]]")) for _ in range(10)]
    patient = [asyncio.create_task(caller.ask(workload, [number])) for number in range(10)]
    await asyncio.sleep(POLL)
    for task in gone:
        task.cancel()
    answers = await asyncio.gather(*patient)
    assert [round(answer.answer["predictions"][0] ** 2) for answer in answers] == list(range(10))  # type: ignore[index,union-attr]
    assert (await held) is not None
    await asyncio.gather(*impatient, *gone, return_exceptions=True)


async def test_replicas_and_zygotes_that_are_killed_cost_no_call(platform: Platform, caller: Caller) -> None:
    workload = await awake(
        platform, of_python("return [__import__('time').sleep(0.002) or row[0] * 2 for row in rows]")
    )
    asked, jobs, over = Counter[int](), Counter[int](), asyncio.Event()

    async def keep_asking(number: int) -> None:
        while not over.is_set():
            answer = await caller.ask(workload, [number])
            if answer is None:  # asleep for a moment, or the zygote was lost: the API makes it a job
                jobs[number] += 1
                answer = await platform.ask(workload, [number])
            assert answer.answer is not None, answer
            assert answer.answer["predictions"] == [number * 2]
            asked[number] += 1

    callers = [asyncio.create_task(keep_asking(number)) for number in range(16)]
    for kind in (platform.replicas, platform.replicas, platform.zygotes, platform.replicas, platform.zygotes):
        before = asked.copy()  # rows that lose two replicas have failed: none of them waits for its second one
        await eventually(lambda before=before: all(asked[n] >= before[n] + 2 for n in range(16)), PATIENCE)
        await eventually(kind, PATIENCE)
        for pid in kind():
            os.kill(pid, signal.SIGKILL)
    over.set()
    await asyncio.gather(*callers)
    assert jobs.total() < asked.total()


async def test_a_door_that_ends_lets_calls_end_and_gives_back_the_rest(
    platform: Platform, caller: Caller, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, slow = (
        await awake(platform, ROOT),
        await awake(platform, of_python("return __import__('time').sleep(60)"), timeout=60),
    )
    monkeypatch.setattr("kubeserve.door.served.Served.aclose.__kwdefaults__", {"drain": 1.0})
    ends, stays = asyncio.create_task(caller.ask(quick, [40])), asyncio.create_task(caller.post(slow.id))
    await eventually(lambda: db.zcard(hot_key(quick.id)) and db.zcard(hot_key(slow.id)))
    closing = asyncio.create_task(platform.close())
    assert (await ends) is not None
    status, told = await stays
    assert (status, told["error"]["code"]) == (503, "draining")
    await closing
    assert db.exists(hot_key(quick.id), hot_key(slow.id)) == 0  # it takes back its leases
    assert await caller.ask(quick, [4]) is None
    platform.open()
    await platform.until(slow, lambda seen: bool(seen.generation))


async def test_calls_by_http_are_leased_as_many_as_there_were_at_once(
    platform: Platform, caller: Caller, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(leases, "LASTING_SECONDS", 1.0)
    workload = await awake(
        platform, of_python("return [__import__('time').sleep(0.3) or 1 for row in rows]"), maximum=1
    )
    key = hot_key(workload.id)
    db.zadd(key, {"dead/0": 1, "alive/0": 1 << 53})
    asked = [asyncio.create_task(caller.ask(workload, [1])) for _ in range(7)]
    await eventually(lambda: db.zcard(key) == 8)
    assert db.zscore(key, "dead/0") is None
    seconds, micros = db.time()
    members = dict(db.zrange(key, 0, -1, withscores=True))
    assert members.pop("alive/0") == 1 << 53
    assert {name.partition("/")[2] for name in members} == set(map(str, range(7)))
    assert len({name.partition("/")[0] for name in members}) == 1
    now = seconds * 1000 + micros // 1000
    assert all(now < score <= now + 1000 for score in members.values())
    assert 0 < db.pttl(key) <= 1100
    await asyncio.gather(*asked)
    await eventually(lambda: db.zcard(key) == 2)  # one call lately
    db.zrem(key, "alive/0")
    await eventually(lambda: db.exists(key) == 0, 10)


async def test_the_leases_of_a_dead_door_go_by_themselves(
    redis_server: RedisServer, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LASTING_SECONDS", 0.5)
    monkeypatch.setattr(leases, "EVERY_SECONDS", 0.2)
    options = RedisOptions(url=f"{redis_server.url}/0")
    dead, other = Leases(options), Leases(options)
    for _ in range(3):
        dead.begin("x")
    running = asyncio.create_task(dead.run())
    await eventually(lambda: db.zcard(hot_key("x")) == 3)
    await end(running)
    other.begin("x")
    running = asyncio.create_task(other.run())
    await eventually(lambda: db.zcard(hot_key("x")) == 1)
    assert "x" in dead._used  # noqa: SLF001  nobody has ended it
    await end(running)
    await eventually(lambda: db.exists(hot_key("x")) == 0, 10)


async def test_a_model_is_not_asked_for_a_caller_who_has_given_up(
    platform: Platform, caller: Caller, db: redis.Redis
) -> None:
    seen = "globals().setdefault('seen', [])"
    slow = of_python(f"return [{seen}.append(row) or __import__('time').sleep(row[0]) or len({seen}) for row in rows]")
    workload = await awake(platform, slow, maximum=1)
    held = asyncio.create_task(caller.ask(workload, [3]))
    await eventually(lambda: db.zcard(hot_key(workload.id)) == 1)
    assert await caller.ask(workload, [0], seconds=0.5) is None
    assert not held.done()
    assert (await held) is not None
    last = await caller.ask(workload, [0])
    assert last is not None
    assert last.answer is not None
    assert last.answer["predictions"] == [2]


async def test_a_redis_that_is_away_stops_no_call(
    platform: Platform, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EVERY_SECONDS", 0.05)
    workload = await awake(platform, IRIS)
    away = Leases(RedisOptions(url="redis://127.0.0.1:1"))
    away.begin(workload.id)
    running = asyncio.create_task(away.run())
    assert await caller.ask(workload, SETOSA) is not None
    await asyncio.sleep(0.3)
    assert not running.done()
    await end(running)


async def test_the_most_calls_while_redis_is_away_are_told_when_it_is_back(
    redis_server: RedisServer, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EVERY_SECONDS", 0.05)
    door = Leases(RedisOptions(url="redis://127.0.0.1:1"))
    for _ in range(3):
        door.begin("x")
    for _ in range(3):
        door.end("x")
    with capture_logs() as logs:
        running = asyncio.create_task(door.run())
        await eventually(lambda: len(logs) >= 2)  # tried, and tried again
    monkeypatch.setattr(door, "_redis", RedisOptions(url=f"{redis_server.url}/0"))
    await eventually(lambda: db.zcard(hot_key("x")) == 3)
    await end(running)


async def test_what_lies_under_the_key_of_one_deployment_stops_no_lease_of_others(
    redis_server: RedisServer, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EVERY_SECONDS", 0.2)
    db.set(hot_key("foreign"), "x")
    mine = Leases(RedisOptions(url=f"{redis_server.url}/0"))
    mine.begin("foreign")
    mine.begin("y")
    running = asyncio.create_task(mine.run())
    await eventually(lambda: db.zcard(hot_key("y")) == 1)
    mine.end("foreign")
    await mine.release("foreign")
    assert db.get(hot_key("foreign")) == "x"
    assert not running.done()
    await end(running)


async def test_rows_of_jobs_that_were_cancelled_are_neither_kept_nor_asked(platform: Platform) -> None:
    slow = of_python("return __import__('time').sleep(12 * (rows[0][0] == 1)) or [1 for row in rows]")
    workload = await awake(platform, slow, maximum=1, concurrency=4, timeout=60)
    held = asyncio.create_task(platform.ask(workload, [1]))
    await asyncio.sleep(0.5)
    for _ in range(3):
        asked = [await platform.predictions.submit(workload.id, [[0] * 100_000]) for _ in range(3)]
        await asyncio.gather(*(_cancel(platform, each) for each in asked))
    await eventually(lambda: not _kept(100_000), 5)
    assert not held.done()  # it has the replica still
    assert (await held).state == "succeeded"
    assert (await platform.ask(workload, [2])).answer["predictions"] == [1]  # type: ignore[index]


async def _cancel(platform: Platform, prediction_id: str) -> None:
    """Cancel it once it has been taken up."""
    async with asyncio.timeout(PATIENCE):
        while (await platform.predictions.look(prediction_id)).state == "queued":  # noqa: ASYNC110  as callers do
            await asyncio.sleep(POLL)
    await platform.predictions.cancel(prediction_id)
    assert (await platform.predictions.wait(prediction_id, PATIENCE)).state == "cancelled"


def _kept(size: int) -> list[Rows]:
    gc.collect()
    return [rows for rows in gc.get_objects() if type(rows) is Rows and len(rows.encoded) > size]
