"""What others may do to a queue's keys, or write into a stream, without stopping a worker or losing a job."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from itertools import product
from typing import Final

import orjson
import pytest
from redis import Redis

from greenscale_worker.errors import BadInputError, ConfigError
from greenscale_worker.job import Failure, Output, Released, Succeeded, decode
from greenscale_worker.queues import JobClass, Lease, Queue, QueueClient, QueueOptions, RedisOptions, TenantLimits
from greenscale_worker.queues.redis.stream import open_client
from greenscale_worker.telemetry import Metrics
from harness.eventually import eventually
from harness.redis_server import RedisServer

PATIENCE: Final = 8.0
LEASE: Final = 0.5
ANSWER: Final = Succeeded(Output("4"))
STREAM_RIGHTS: Final = ["xreadgroup", "xgroup", "xinfo"]  # those without which nothing can be claimed

Open = Callable[..., Awaitable[Queue]]


@pytest.fixture(params=["list", "stream"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def open_queue(kind: str, redis_url: str) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_one(*, url: str = redis_url, lease: float = LEASE) -> Queue:
            module = importlib.import_module(f"greenscale_worker.queues.redis.{kind}")
            queue: Queue = await module.open_queue(RedisOptions(url=url), QueueOptions(lease=lease), Metrics())
            stack.push_async_callback(queue.aclose)
            return queue

        yield open_one


def push(client: Redis, kind: str, *job_ids: str) -> None:
    for job_id in job_ids:
        payload = orjson.dumps({"job_id": job_id})
        if kind == "list":
            client.lpush("jobs", payload)
        else:
            client.xadd("jobs", {"job": payload})


async def claim(queue: Queue) -> Lease:
    return await asyncio.wait_for(queue.lease(), PATIENCE)


@pytest.mark.parametrize("part", ["ready", "suspect", "delayed", "lease"])
async def test_a_job_whose_place_somebody_deleted_comes_back(
    client: Redis, kind: str, open_queue: Open, part: str
) -> None:
    queue = await open_queue(lease=15.0)
    push(client, kind, "one", "two")
    first, second = await claim(queue), await claim(queue)
    if part in {"ready", "suspect"}:
        await queue.settle(first, Released("drain"))
        await queue.settle(second, Released("drain"))
        if part == "suspect":
            for id_, score in client.zrange("{jobs}:ready", 0, -1, withscores=True):
                client.zadd("{jobs}:suspect", {id_: score})
            client.delete("{jobs}:ready")
    elif part == "delayed":
        await queue.settle(first, Released("busy", delay=60.0))
        await queue.settle(second, Released("busy", delay=60.0))
    assert client.delete(f"{{jobs}}:{part}") == 1
    await queue.beat()
    again = [await claim(queue), await claim(queue)]
    assert [decode(lease.payload, max_bytes=99).job_id for lease in again] == ["one", "two"]
    assert [await queue.settle(lease, ANSWER) for lease in again] == [True, True]
    assert not client.hlen("{jobs}:meta")


async def test_a_notice_is_found_among_what_others_wrote(
    client: Redis, kind: str, redis_url: str, open_queue: Open
) -> None:
    queue = await open_queue()
    spoilt = {b"": 1, b"\xff\x00": 2, b"1 2 running j x": 3, b"1 2 failed": 4, "9" * 20 + " 2 failed j ": 5}
    client.zadd("{jobs}:notices", spoilt)
    client.hset("{jobs}:control", "noticed", "not a number")
    module = importlib.import_module(f"greenscale_worker.queues.redis.{kind}")
    async with aclosing(await module.open_client(RedisOptions(url=redis_url), QueueOptions())) as reader:
        await reader.put([("j", b'{"job_id":"j","prompt":"x"}')], notify=True)
        lease = await claim(queue)
        assert await queue.bind(lease, decode(lease.payload, max_bytes=99)) == "run"
        assert await queue.settle(lease, ANSWER)
        assert [notice.job_id for notice in await reader.notices(2)] == ["j"]
        (notice,) = await reader.notices()
        await reader.acknowledge_notices([notice.id])
        assert await reader.notices() == []
    assert not client.exists("{jobs}:notices", "{jobs}:notify")


@pytest.mark.parametrize("part", ["notify", "notices"])
async def test_an_end_whose_notice_cannot_be_written_waits_for_it(
    client: Redis, kind: str, open_queue: Open, part: str
) -> None:
    queue = await open_queue(lease=15.0)
    payload = b'{"job_id":"one","prompt":"x","notify":true}'
    client.lpush("jobs", payload) if kind == "list" else client.xadd("jobs", {"job": payload})
    lease = await claim(queue)
    assert await queue.bind(lease, decode(lease.payload, max_bytes=99)) == "run"
    kept = client.hgetall("{jobs}:notify")
    client.delete(f"{{jobs}}:{part}")
    client.set(f"{{jobs}}:{part}", "foreign")
    settling = asyncio.create_task(queue.settle(lease, ANSWER))
    await eventually(lambda: not queue.up)
    assert client.hget("job:one", "state") == b"running"
    client.delete(f"{{jobs}}:{part}")
    client.hset("{jobs}:notify", mapping=kept)
    assert await asyncio.wait_for(settling, PATIENCE)
    assert client.hget("job:one", "state") == b"succeeded"
    assert client.zcard("{jobs}:notices") == 1


async def test_jobs_that_are_held_outlive_what_the_queue_knew_of_itself(
    client: Redis, kind: str, open_queue: Open
) -> None:
    queue = await open_queue(lease=15.0)
    push(client, kind, "one", "two")
    failed, other = await claim(queue), await claim(queue)
    assert await queue.retry(failed, Failure(code="http_500", message="", used=0.0)) == "delayed"
    push(client, kind, "fresh")
    assert decode((await claim(queue)).payload, max_bytes=99).job_id == "fresh"
    assert client.zcard("{jobs}:held") == 1
    assert client.delete("{jobs}:control") == 1
    await queue.beat()
    assert (await claim(queue)).id == failed.id
    assert await queue.settle(other, ANSWER)


async def test_a_job_of_which_only_its_place_is_left_is_run_once(client: Redis, kind: str, open_queue: Open) -> None:
    queue = await open_queue()
    push(client, kind, "one")
    lease = await claim(queue)
    client.zadd("{jobs}:suspect", {lease.id: 1})
    client.delete("{jobs}:lease", "{jobs}:meta")
    if kind == "stream":  # as if it had been idle for long
        client.xclaim("jobs", "greenscale", "-", 0, [lease.id], idle=60_000, justid=True)
    await queue.beat()
    assert not client.exists("{jobs}:ready")
    assert (await claim(queue)).id == lease.id


async def test_what_a_worker_of_the_previous_version_leaves_of_a_class_is_removed(
    client: Redis, open_queue: Open
) -> None:
    queue = await open_queue(lease=15.0)
    client.lpush("{jobs}:background", b'{"job_id":"one"}')
    await claim(queue)
    client.hset("{jobs}:class", mapping={str(number): "background" for number in range(200)})
    for _ in range(30):
        await queue.beat()
    assert client.hlen("{jobs}:class") == 1, "that of the job in flight"


async def test_a_job_that_such_a_worker_has_put_back_is_served_as_any_other(
    client: Redis, kind: str, open_queue: Open
) -> None:
    queue = await open_queue(lease=15.0)
    client.lpush("{jobs}:background", b'{"job_id":"one"}')
    lease = await claim(queue)
    await queue.settle(lease, Released("drain"))
    ms, _, number = lease.id.partition("-")
    client.zadd("{jobs}:ready", {lease.id: 1024 * int(ms) + int(number) if number else int(ms)})
    push(client, kind, "two")
    assert (await claim(queue)).id == lease.id
    assert await queue.settle(await claim(queue), ANSWER)


@pytest.mark.parametrize("job_class", [b"", b"standard", b"\xff", b"interactive"])
async def test_a_class_that_somebody_has_overwritten_stops_nobody(
    client: Redis, open_queue: Open, job_class: bytes
) -> None:
    queue = await open_queue(lease=15.0)
    client.lpush("{jobs}:background", b'{"job_id":"one"}')
    lease = await claim(queue)
    client.hset("{jobs}:class", lease.id, job_class)
    assert await queue.settle(lease, Released("drain"))
    lease = await claim(queue)
    assert await queue.settle(lease, ANSWER)
    assert not client.exists("{jobs}:class")


async def test_of_a_scheduled_job_what_is_left_decides(client: Redis, open_queue: Open) -> None:
    queue, never = await open_queue(lease=15.0), 4e12
    whole = [b'interactive {"job_id":"timeless"}', b'{"job_id":"classless"}', b'urgent {"job_id":"of no class"}']
    client.hset("{jobs}:later:payload", mapping=dict(zip([b"timeless", b"classless", b"\xff"], whole, strict=True)))
    client.hset("{jobs}:later:payload", "kept", b"standard {}")
    client.zadd("{jobs}:later", {"classless": 1, b"\xff": 1, "lost": 1, "kept": never})
    for _ in range(3):
        await queue.beat()
    found = {(await claim(queue)).payload for _ in whole}
    assert found == {b'{"job_id":"timeless"}', *whole[1:]}
    assert client.zrange("{jobs}:later", 0, -1) == client.hkeys("{jobs}:later:payload") == [b"kept"]
    assert not client.exists("job:lost")


@pytest.mark.parametrize("kind", ["stream"], indirect=True)
@pytest.mark.parametrize("job_id", [b"\xff\xfe", b"a|b", b"", b"x" * 129])
async def test_an_unusable_id_in_a_field_spoils_its_own_entry_only(
    client: Redis, open_queue: Open, job_id: bytes
) -> None:
    queue = await open_queue()
    client.xadd("jobs", {"job": b"{}", "job_id": job_id})
    lease = await claim(queue)
    if job_id:
        with pytest.raises(BadInputError) as refused:
            decode(lease.payload, max_bytes=99, default_job_id=lease.default_job_id)
        assert refused.value.code == "bad_job_id"
    push(client, "stream", "next")
    assert b"next" in (await claim(queue)).payload


@pytest.mark.parametrize("kind", ["stream"], indirect=True)
@pytest.mark.parametrize("right", STREAM_RIGHTS)
async def test_a_worker_that_loses_a_right_says_so_and_waits_for_it(
    client: Redis, redis_server: RedisServer, open_queue: Open, capsys: pytest.CaptureFixture[str], right: str
) -> None:
    client.execute_command("ACL", "SETUSER", "limited", "on", ">p", "~*", "&*", "+@all")
    try:
        queue = await open_queue(url=f"{redis_server.url.replace('//', '//limited:p@')}/0", lease=15.0)
        client.execute_command("ACL", "SETUSER", "limited", f"-{right}")
        push(client, "stream", "one")
        waiting = asyncio.create_task(claim(queue))
        await eventually(lambda: "Redis refuses this client" in capsys.readouterr().out)
        client.execute_command("ACL", "SETUSER", "limited", "+@all")
        lease = await waiting
        assert lease.crashes == 0
        assert await queue.settle(lease, ANSWER)
        assert client.xlen("jobs") == 0
    finally:
        client.execute_command("ACL", "DELUSER", "limited")


@pytest.mark.parametrize("kind", ["stream"], indirect=True)
async def test_many_replayed_jobs_are_passed_over_a_part_at_a_time(
    client: Redis, redis_url: str, open_queue: Open
) -> None:
    many = 200  # more than three times what one claim passes
    queue = await open_queue(lease=15.0)
    header = {
        "code": "x",
        "message": "",
        "token": "",
        "tries": 0,
        "crashes": 0,
        "first_claimed_ms": "1",
        "died_ms": "1",
    }
    for n in range(many):
        named = {"job_id": f"dead-{n}"}
        client.hset("{jobs}:dead", str(n), orjson.dumps(header | named) + b"\n" + orjson.dumps(named))
    admin = await open_client(RedisOptions(url=redis_url), QueueOptions())
    for n in range(many):
        assert await admin.replay(str(n))
    await admin.aclose()
    push(client, "stream", "fresh")
    leases = [await claim(queue) for _ in range(many + 1)]
    assert b"fresh" in leases[-1].payload
    assert len({lease.id for lease in leases}) == many + 1
    assert client.xpending("jobs", "greenscale")["pending"] == client.xlen("jobs") == many + 1


@pytest.fixture
async def admin(kind: str, redis_url: str) -> AsyncIterator[QueueClient]:
    module = importlib.import_module(f"greenscale_worker.queues.redis.{kind}")
    async with aclosing(await module.open_client(RedisOptions(url=redis_url), QueueOptions())) as opened:
        yield opened


async def put_for(admin: QueueClient, tenant: str, *job_ids: str) -> None:
    await admin.put([(job_id, orjson.dumps({"job_id": job_id})) for job_id in job_ids], tenant=tenant)


def job_id_of(lease: Lease) -> str:
    return decode(lease.payload, max_bytes=99, default_job_id="none").job_id


async def test_a_job_whose_place_in_a_line_somebody_deleted_comes_back(
    client: Redis, open_queue: Open, admin: QueueClient
) -> None:
    queue = await open_queue(lease=15.0)
    await admin.set_tenant("a", TenantLimits(in_flight=3))
    await put_for(admin, "a", "one", "two", "three")
    client.delete("{jobs}:turns")
    await queue.beat()
    assert [job_id_of(await claim(queue)) for _ in range(3)] == ["one", "two", "three"]
    (found,) = await admin.tenants()
    assert (found.waiting, found.in_flight) == (0, 3)


async def test_a_place_in_a_line_whose_payload_somebody_deleted_stops_nobody(
    client: Redis, open_queue: Open, admin: QueueClient
) -> None:
    queue = await open_queue(lease=15.0)
    await admin.set_tenant("a", TenantLimits())
    await put_for(admin, "a", "one", "two", "three")
    first, second, _ = client.zrange("{jobs}:turns", 0, -1)
    client.hdel("{jobs}:turns:payload", first, second)
    assert job_id_of(await claim(queue)) == "three"
    assert client.zlexcount("{jobs}:turns", "[w|", "(w}") == 0


async def test_what_others_write_into_lines_stops_nobody_and_is_run_if_it_is_a_job(
    client: Redis, open_queue: Open, admin: QueueClient
) -> None:
    queue = await open_queue(lease=15.0)
    await admin.set_tenant("a", TenantLimits(in_flight=5))
    await put_for(admin, "a", "one")
    names = [
        "w|standard|A b|1",
        "w|standard|a",
        "w|standard||",
        "w|nonsense|a|" + "0" * 16,
        "x",
        "\xff",
        "w|standard|zz|x",
    ]
    client.zadd("{jobs}:turns", {**dict.fromkeys(names, 0), "l|a|1": 0, "l||": 0, "l|a": 0, "w|standard|a|9": 7})
    client.hset("{jobs}:turns:payload", names[0], '{"job_id":"two"}')
    client.hset("{jobs}:turns:payload", "\xfe", '{"job_id":"three"}')
    client.hset("{jobs}:flow", mapping={"tenant|b": "nonsense", "turn|standard": "nan", "turn|standard|a": "inf"})
    client.hset("{jobs}:control", mapping={"turn": "x", "checked": "x", "placeless": "x"})
    came = {job_id_of(await claim(queue))}
    for _ in range(3):
        await queue.beat()
    came |= {job_id_of(await claim(queue)) for _ in range(2)}
    assert came == {"one", "two", "three"}
    assert {each.name: each.in_flight for each in await admin.tenants()} | {"a": 1} == {"a": 1, "b": 0}
    assert (await admin.tenants("b"))[0].limits == TenantLimits(), "what cannot be read limits nothing"


@pytest.mark.parametrize("key", ["delayed", "later"])
async def test_a_job_that_is_due_at_no_time_hides_nothing_of_the_others(
    client: Redis, admin: QueueClient, key: str
) -> None:
    await admin.put([("one", b"{}")])
    client.zadd("{jobs}:" + key, {"foreign": "inf"})
    assert (await admin.flow()).waiting == 1


async def test_tenants_at_their_limits_are_looked_at_once_in_a_claim(
    client: Redis, open_queue: Open, admin: QueueClient
) -> None:
    queue, tenants = await open_queue(lease=15.0), [f"t{number}" for number in range(20)]
    classes: list[JobClass] = ["interactive", "standard", "background"]
    for name, job_class in product(tenants, classes):
        await admin.set_tenant(name, TenantLimits(in_flight=1))
        jobs = [(f"{name}:{job_class}{number}", b"{}") for number in range(2)]
        await admin.put(jobs, tenant=name, job_class=job_class)
    for _ in tenants:
        await claim(queue)
    await admin.put([("other", b'{"job_id":"other"}')], job_class="background")
    client.config_resetstat()
    assert job_id_of(await claim(queue)) == "other"
    stats = client.info("commandstats")
    assert stats["cmdstat_zlexcount"]["calls"] <= len(tenants) * stats["cmdstat_evalsha"]["calls"]


async def test_jobs_that_ended_without_a_word_leave_their_places(
    client: Redis, open_queue: Open, admin: QueueClient
) -> None:
    queue = await open_queue(lease=15.0)
    await admin.set_tenant("a", TenantLimits(in_flight=1))
    client.zadd("{jobs}:turns", {f"l|a|{number:016}": 0 for number in range(1, 10)})
    await put_for(admin, "a", "one")
    assert job_id_of(await claim(queue)) == "one"
    assert (await admin.tenants())[0].in_flight == 1


async def test_lines_are_found_though_somebody_deleted_what_says_that_there_are_any(
    client: Redis, open_queue: Open, admin: QueueClient
) -> None:
    queue = await open_queue(lease=15.0)
    await admin.set_tenant("a", TenantLimits())
    await put_for(admin, "a", "one")
    client.hdel("{jobs}:control", "tenants")
    await queue.beat()
    assert job_id_of(await claim(queue)) == "one"


@pytest.mark.parametrize("part", ["turns", "turns:payload", "flow"])
async def test_a_foreign_type_under_the_keys_of_tenants_loses_no_job(
    client: Redis, open_queue: Open, admin: QueueClient, part: str
) -> None:
    queue = await open_queue(lease=15.0)
    await admin.set_tenant("a", TenantLimits())
    await put_for(admin, "a", "one")
    key = f"{{jobs}}:{part}"
    client.rename(key, "elsewhere")
    client.set(key, "foreign")
    if part != "flow":
        with pytest.raises(ConfigError, match="is expected"):
            await put_for(admin, "a", "two")
        client.rename("elsewhere", key)
        await put_for(admin, "a", "two")
    else:
        await put_for(admin, "a", "two")
    assert {job_id_of(await claim(queue)) for _ in range(2)} == {"one", "two"}


async def test_ten_thousand_jobs_and_many_names_keep_nobody_waiting(open_queue: Open, admin: QueueClient) -> None:
    queue = await open_queue(lease=15.0)
    for name in ("a", "b"):
        await admin.set_tenant(name, TenantLimits())
    await put_for(admin, "a", *(f"a-{number}" for number in range(10_000)))
    for number in range(200):
        await put_for(admin, f"name-{number}", f"n-{number}")
    for _ in range(3):
        await claim(queue)
    await put_for(admin, "b", "wanted")
    came = [job_id_of(await claim(queue)) for _ in range(3)]
    assert "wanted" in came, "names without an entry are one tenant together"


@pytest.mark.parametrize("what", ["r 0 at", "t -10 at"])
async def test_a_budget_whose_time_is_far_ahead_holds_the_fleet_for_ever_by_no_means(
    client: Redis, kind: str, redis_url: str, what: str
) -> None:
    module = importlib.import_module(f"greenscale_worker.queues.redis.{kind}")
    options = QueueOptions(lease=LEASE, requests_per_minute=600, tokens_per_minute=60_000)
    async with aclosing(await module.open_queue(RedisOptions(url=redis_url), options, Metrics())) as queue:
        await queue.beat()
        level, amount, at = what.split()
        client.hset("{jobs}:flow", mapping={level: amount, at: 8 * 10**15})
        push(client, kind, "one")
        assert job_id_of(await claim(queue)) == "one"


@pytest.mark.parametrize("bucket", [f"-5 -5 {8 * 10**15} 0", f"nan inf {8 * 10**15} {8 * 10**15}", "x"])
async def test_what_others_write_as_a_tenants_budget_holds_it_for_ever_by_no_means(
    client: Redis, open_queue: Open, admin: QueueClient, bucket: str
) -> None:
    queue = await open_queue()
    await admin.set_tenant("a", TenantLimits(requests_per_minute=600, tokens_per_minute=60_000))
    client.hset("{jobs}:flow", "bucket|a", bucket)
    await put_for(admin, "a", "one", "two")
    assert [job_id_of(await claim(queue)), job_id_of(await claim(queue))] == ["one", "two"]


async def test_a_job_that_is_never_due_can_be_counted(client: Redis, open_queue: Open, admin: QueueClient) -> None:
    await open_queue()
    for part in ("delayed", "later"):
        client.zadd(f"{{jobs}}:{part}", {"nobodys": "+inf"})
    due = (await admin.flow()).due_seconds
    assert due is not None
    assert due > 10**9


async def test_a_foreign_type_where_tenants_jobs_would_be_concerns_nobody_without_tenants(
    client: Redis, kind: str, open_queue: Open
) -> None:
    queue = await open_queue()
    client.set("{jobs}:turns:payload", "foreign")
    await queue.beat()
    push(client, kind, "one")
    assert job_id_of(await claim(queue)) == "one"


async def test_nothing_is_left_of_a_limit_and_tenants_once_there_are_none(
    client: Redis, kind: str, redis_url: str, open_queue: Open, admin: QueueClient
) -> None:
    module = importlib.import_module(f"greenscale_worker.queues.redis.{kind}")
    limited = QueueOptions(lease=LEASE, limit=2, requests_per_minute=600)
    await admin.set_tenant("a", TenantLimits(requests_per_minute=600))
    await put_for(admin, "a", "one")
    async with aclosing(await module.open_queue(RedisOptions(url=redis_url), limited, Metrics())) as queue:
        lease = await claim(queue)
        assert await queue.bind(lease, decode(lease.payload, max_bytes=99)) == "run"
        assert await queue.settle(lease, ANSWER)
    await admin.set_tenant("a", None)
    queue = await open_queue()
    for _ in range(2):
        await queue.beat()
    assert not client.exists("{jobs}:flow", "{jobs}:turns", "{jobs}:turns:payload", "{jobs}:room")
    assert client.hmget("{jobs}:control", "flow", "tenants") == [None, None]
