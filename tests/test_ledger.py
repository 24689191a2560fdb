"""The ledger in Redis: it says what the endpoint and the records say, and what lies under its name stops nobody."""

import asyncio
import math
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from redis import Redis

from greenscale_worker.job import Output, Succeeded, Usage, decode
from greenscale_worker.queues import Lease, Queue, QueueClient, QueueOptions, RedisOptions
from greenscale_worker.queues.redis import queue as redis_queue
from greenscale_worker.queues.registry import open_client, open_queue
from greenscale_worker.simulator import CHAT_PATH, Faults, SimulatorOptions, running
from greenscale_worker.testing.rig import until
from harness.eventually import eventually
from harness.redis_server import RedisServer
from harness.worker_process import Fleet
from tests.support.actors import STORES, sources
from tests.support.entries import BEAT, LEASE, Setup
from tests.support.jobs import KINDS

LEDGER: Final = "{jobs}:ledger"
LANES: Final = 4
JOBS: Final = 24
LATENCY: Final = 0.2
MINUTE_MS: Final = 60_000
DAY: Final = 1440
ANSWER: Final = Succeeded(Output("4", usage=Usage(10, 3, 13)))
FOREIGN: Final = ("string", "list", "set", "zset", "stream")


@pytest.fixture
async def sides(redis_url: str) -> AsyncIterator[tuple[Queue, QueueClient]]:
    """A worker's side and a client's, of one list."""
    redis, options = RedisOptions(url=redis_url), QueueOptions()
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(aclosing(await open_queue("list", redis, options)))
        yield queue, await stack.enter_async_context(aclosing(await open_client("list", redis, options)))


async def run(queue: Queue, client: QueueClient, *names: str) -> list[Lease]:
    """Put jobs, and claim and bind them."""
    await client.put([(name, b'{"job_id": "%s", "prompt": "?"}' % name.encode()) for name in names])
    leases = []
    for _ in names:
        lease = await queue.lease()
        assert await queue.bind(lease, decode(lease.payload, max_bytes=1000)) == "run"
        leases.append(lease)
    return leases


async def all_lanes_are_busy(seen: Callable[[], Awaitable[dict[str, Any]]]) -> bool:
    return int((await seen())["in_flight"]) == LANES


def now_minute() -> int:
    return int(time.time() // 60)


@pytest.mark.parametrize("kind", KINDS)
async def test_it_says_what_the_endpoint_saw_with_a_worker_killed_and_calls_that_fail(
    kind: str, redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    faults = Faults(rate_5xx=0.2, status_5xx=503)
    began = time.time()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(SimulatorOptions(latency=LATENCY, faults=faults)))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        plain = stack.enter_context(redis_server.client())
        settings = {"REDIS_URL": redis_url, "NEYSA_API_URL": url + CHAT_PATH, "GREENSCALE_QUEUE": kind}
        settings |= {"GREENSCALE_LEASE_SECONDS": "1", "GREENSCALE_CONCURRENCY": str(LANES)}
        fleet = stack.enter_context(Fleet(tmp_path / "fleet", **settings))
        client = await open_client(kind, RedisOptions(url=redis_url))
        await stack.enter_async_context(aclosing(client))

        async def seen() -> dict[str, Any]:
            async with session.get(url + "/stats") as response:
                found: dict[str, Any] = await response.json()
                return found

        jobs = KINDS[kind](plain)
        jobs.push(*range(JOBS))
        doomed = fleet.start()
        await until(lambda: all_lanes_are_busy(seen))
        doomed.kill()
        heir = fleet.start()
        await eventually(jobs.all_ended)
        await heir.stop()
        lived = time.time() - began
        stats = await seen()
        minutes = await client.ledger(began - 60)
        records = [await client.record(job_id) for job_id in jobs.pushed]

    def total(name: str) -> Any:
        return sum(getattr(minute, name) for minute in minutes)

    crashes = sum(int(record["crashes"]) for record in records)
    assert crashes == LANES  # each had sent a request, of which nobody heard the end
    assert (total("ended"), total("failed"), total("cancelled")) == (JOBS, 0, 0)
    assert total("retried") > 0
    assert total("retried") + total("ended") + crashes == stats["requests"]
    assert total("prompt_tokens") == sum(int(record["prompt_tokens"]) for record in records)
    assert total("completion_tokens") == sum(int(record["completion_tokens"]) for record in records)
    assert (stats["requests"] - crashes) * LATENCY <= total("call_seconds") < LANES * lived
    assert 0 < total("replica_seconds") < 2 * lived
    assert 0 < total("busy_lane_seconds") <= LANES * total("replica_seconds")
    assert 1 <= max(minute.replicas_peak for minute in minutes) <= 2


@pytest.mark.parametrize("kind", FOREIGN)
async def test_a_foreign_type_under_its_name_means_that_there_is_none(
    kind: str, sides: tuple[Queue, QueueClient], client: Redis
) -> None:
    queue, reader = sides
    client.delete(LEDGER)
    write: dict[str, Any] = {
        "string": lambda: client.set(LEDGER, "x"),
        "list": lambda: client.lpush(LEDGER, "x"),
        "set": lambda: client.sadd(LEDGER, "x"),
        "zset": lambda: client.zadd(LEDGER, {"x": 1}),
        "stream": lambda: client.xadd(LEDGER, {"x": "1"}),
    }
    write[kind]()
    first, second = await run(queue, reader, "1", "2")
    assert await queue.settle(first, ANSWER)
    assert await reader.cancel("2") == "cancelled"
    await queue.beat()
    assert second.lost == "gone"
    assert await reader.record("1") != {}
    assert await reader.ledger(0) == []
    assert client.type(LEDGER) == kind.encode()
    client.delete(LEDGER)


@pytest.mark.parametrize(
    "damage",
    [b"", b"12", b"x" * 88, b"\xff" * 88, struct.pack(">11d", *[math.nan, math.inf, -1.0, 0.5, 1e300] * 2, -5.0)],
)
async def test_what_another_program_wrote_there_counts_as_nothing(
    damage: bytes, sides: tuple[Queue, QueueClient], client: Redis
) -> None:
    queue, reader = sides
    fields = [f"{minute}{tenant}" for minute in (now_minute(), now_minute() + 1) for tenant in ("", "|a")]
    client.delete(LEDGER)
    client.hset(LEDGER, mapping=dict.fromkeys([*fields, "x", "|", "9" * 400, "-5", "cursor"], damage))
    found = await reader.ledger(time.time() - 60)
    assert all(minute.ended == minute.replica_seconds == 0 for minute in found)
    (lease,) = await run(queue, reader, "1")
    lease.tenant, lease.call_seconds = "a", 2.0
    assert await queue.settle(lease, ANSWER)
    await queue.beat()
    minutes = await reader.ledger(time.time() - 60)
    assert [sum(getattr(each, name) for each in minutes) for name in ("ended", "prompt_tokens")] == [1, 10]
    assert sum(minute.call_seconds for minute in minutes) == 2
    assert sum(minute.ended for minute in await reader.ledger(time.time() - 60, tenant="a")) == 1


async def test_counts_no_endpoint_can_mean_are_left_out(sides: tuple[Queue, QueueClient]) -> None:
    queue, reader = sides
    first, second = await run(queue, reader, "1", "2")
    assert await queue.settle(first, Succeeded(Output("4", usage=Usage(10**30, 10**9 + 1, None))))
    assert await queue.settle(second, Succeeded(Output("4", usage=Usage(None, 5, None))))
    minutes = await reader.ledger(0)
    assert sum(minute.prompt_tokens for minute in minutes) == 0
    assert sum(minute.completion_tokens for minute in minutes) == 5


async def test_any_window_may_be_asked_for(sides: tuple[Queue, QueueClient]) -> None:
    queue, reader = sides
    (lease,) = await run(queue, reader, "1")
    assert await queue.settle(lease, ANSWER)
    assert await reader.ledger(-math.inf, math.inf) == await reader.ledger(0, 1e300) != []
    assert await reader.ledger(math.inf) == await reader.ledger(0, -math.inf) == []
    assert await reader.ledger(0, tenant="") == await reader.ledger(0)
    assert await reader.ledger(0, tenant="*") == []


async def test_a_call_that_ends_many_jobs_reads_and_writes_it_once(
    sides: tuple[Queue, QueueClient], client: Redis
) -> None:
    queue, reader = sides
    leases = await run(queue, reader, *map(str, range(16)))
    for number, lease in enumerate(leases):
        lease.tenant = f"tenant-{number % 3}"
    with client.monitor() as monitor:
        await asyncio.gather(*(queue.settle(lease, ANSWER) for lease in leases))
        client.echo("the end")
        commands = []
        while "the end" not in (command := monitor.next_command()["command"]):
            commands.append(command)
    scripts = sum(command.startswith("EVAL") for command in commands)
    words = [command.split()[0] for command in commands if f" {LEDGER} " in command and not command.startswith("EVAL")]
    assert words == ["HMGET", "HSET"] * scripts
    assert scripts <= 2  # the first goes alone, the others gather meanwhile


async def test_leases_that_take_several_calls_of_a_heartbeat_count_once(
    sides: tuple[Queue, QueueClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, reader = sides
    monkeypatch.setattr(redis_queue, "BEAT_GROUP", 2)
    await run(queue, reader, *map(str, range(5)))
    await queue.beat()
    before = await reader.ledger(0)
    await asyncio.sleep(0.3)
    await queue.beat()
    after = await reader.ledger(0)
    seconds, busy = (
        sum(getattr(each, name) for each in after) - sum(getattr(each, name) for each in before)
        for name in ("replica_seconds", "busy_lane_seconds")
    )
    assert seconds >= 0.25
    assert busy == pytest.approx(5 * seconds)


class Aged:
    """A queue whose time a test sets: only heartbeats of one worker are sent."""

    def __init__(self, client: Redis) -> None:
        client.flushdb()
        self.client, self.keys = client, [*map(str, QUEUE_KEYS)]
        self.heartbeat = client.register_script(sources("list")["heartbeat"])

    def beat(self, minute: float, *, days: int) -> None:
        args = [int(minute * MINUTE_MS), Setup().word, LEASE, BEAT, 4, "w:2-0", 1, 0, 0, days]
        self.heartbeat(keys=self.keys, args=args)

    def minutes(self) -> set[int]:
        return {int(field.split(b"|")[0]) for field in self.client.hkeys(LEDGER) if field[:1].isdigit()}


QUEUE_KEYS: Final = redis_queue.Keys("jobs", STORES["list"].own).base


def filled(client: Redis, minutes: range) -> Aged:
    aged = Aged(client)
    value = struct.pack(">11d", *[1.0] * 11)
    fields = [f"{minute}{tenant}" for minute in minutes for tenant in ("", "|a", "|b")]
    client.hset(LEDGER, mapping=dict.fromkeys(fields, value))
    return aged


def test_old_minutes_are_deleted_by_heartbeats_a_portion_at_a_time(client: Redis) -> None:
    now = 30_000_000
    aged = filled(client, range(now - 2 * DAY, now))
    client.hset(LEDGER, "not ours", "x")
    many, most, beats = client.hlen(LEDGER), 0, 0
    while min(aged.minutes()) < now - DAY:
        aged.beat(now + beats, days=1)
        left = client.hlen(LEDGER)
        most, many, beats = max(most, many - left), left, beats + 1
        assert beats < 1000
    assert 0 < most <= 1000
    assert aged.minutes() >= set(range(now - DAY + beats, now + beats))
    assert client.hget(LEDGER, "not ours") == b"x"


def test_it_is_deleted_where_none_is_wanted_and_begins_again_where_one_is(client: Redis) -> None:
    now = 30_000_000
    aged = filled(client, range(now - DAY, now + 5))
    for step in range(200):
        aged.beat(now + step / 60, days=0)
    assert aged.minutes() == set()
    aged.beat(now + 5, days=0)
    assert aged.minutes() == set()
    aged.beat(now + 6, days=8)
    assert aged.minutes() == {now + 6}


def test_one_heartbeat_deletes_little_even_where_redis_shows_all_at_once(client: Redis) -> None:
    names = ("hash-max-listpack-entries", "hash-max-listpack-value")
    before = {name: client.config_get(name)[name] for name in names}
    try:
        for name in names:
            client.config_set(name, 100_000)
        aged = filled(client, range(1000, 6000))
        aged.beat(30_000_000, days=8)
        assert client.hlen(LEDGER) >= 15_000 - 1000
    finally:
        for name in names:
            client.config_set(name, before[name])


def test_a_worker_that_died_is_soon_not_among_those_alive(client: Redis) -> None:
    aged, now = Aged(client), 30_000_000
    client.zadd("{jobs}:workers", {"alive": now * MINUTE_MS - BEAT, "dead": now * MINUTE_MS - 3 * BEAT})
    aged.beat(now, days=8)
    assert struct.unpack(">11d", client.hget(LEDGER, str(now)) or b"")[9] == 2


def test_eight_days_take_less_than_two_megabytes(client: Redis) -> None:
    value = struct.pack(">11d", *[123_456.0] * 11)
    client.delete(LEDGER)
    for first in range(0, 8 * DAY, DAY):
        client.hset(LEDGER, mapping=dict.fromkeys(map(str, range(30_000_000 + first, 30_000_000 + first + DAY)), value))
    assert client.memory_usage(LEDGER, samples=0) < 2 * 1024 * 1024
