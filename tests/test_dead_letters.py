"""Dead letters in Redis: both formats, what somebody else writes there, and a server that is full."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from redis import Redis

from greenscale_worker.errors import ConfigError, QueueFullError
from greenscale_worker.job import Failed
from greenscale_worker.queues import DeadFilter, DeadLetter, Queue, QueueClient, QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client, open_queue
from greenscale_worker.testing.rig import ANSWER, claim, run, until
from harness.redis_server import RedisServer

DEAD, PAYLOAD, INDEX = "{jobs}:dead", "{jobs}:dead:payload", "{jobs}:dead:index"
HEADER: dict[str, Any] = {
    "code": "http_400",
    "message": "no | \n no",
    "job_id": "old",
    "token": "t:1",
    "tries": 2,
    "crashes": 1,
    "first_claimed_ms": "1700000000000",
    "died_ms": "1700000001000",
}
# What somebody may have written there, by the name of the field.
HOSTILE: dict[bytes, bytes] = {
    b"1": b"",
    b"2": b"\n",
    b"3": b"not JSON",
    b"4": b"[" * 5000,
    b"5": b"null\npayload",
    b"6": b'{"code":1,"message":"","job_id":"","token":"","tries":0,"crashes":0}\n{}',
    b"7": orjson.dumps(HEADER | {"died_ms": "soon"}) + b"\n{}",
    b"8": orjson.dumps(HEADER | {"died_ms": -1}) + b"\n{}",
    b"9": orjson.dumps(HEADER).replace(b'"2"', b"NaN").replace(b":2,", b":1e999,") + b"\n{}",
    b"99999999999999999999": orjson.dumps(HEADER | {"job_id": "a|b"}) + b"\n{}",
    b"a|b": orjson.dumps(HEADER | {"job_id": "\x00"}) + b"\n\xff\xfe\x00",
    b"\xff\x00\n": b"\xff\x00\n",
    b"": orjson.dumps(HEADER | {"code": "\x00c\x00"}) + b"\nempty name",
    b"1-1": orjson.dumps(HEADER) + b"\n{}",
    b"x" * 300: b"a long name",
}

kinds = pytest.mark.parametrize("kind", ["list", "stream"])
formats = pytest.mark.parametrize("written", ["1", "2"])


@pytest.fixture
def client(redis_url: str) -> Any:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def admin(redis_url: str, kind: str) -> AsyncIterator[QueueClient]:
    admin = await open_client(kind, RedisOptions(url=redis_url))
    yield admin
    await admin.aclose()


Open = Callable[..., Awaitable[Queue]]


@pytest.fixture
async def open_worker(redis_url: str, kind: str) -> AsyncIterator[Open]:
    opened: list[Queue] = []

    async def open_one(**options: Any) -> Queue:
        opened.append(await open_queue(kind, RedisOptions(url=redis_url), QueueOptions(**options)))
        return opened[-1]

    yield open_one
    for queue in opened:
        await queue.aclose()


async def letters(admin: QueueClient, **options: Any) -> list[DeadLetter]:
    return [letter async for letter in admin.dead(**options)]


async def bury(admin: QueueClient, queue: Queue, *job_ids: str) -> None:
    for job_id in job_ids:
        await admin.put([(job_id, orjson.dumps({"job_id": job_id, "prompt": job_id}))])
        assert await queue.settle(await run(queue), Failed("http_400", "no"))


@kinds
@formats
async def test_letters_are_written_as_the_format_says(
    client: Redis, admin: QueueClient, open_worker: Open, written: str
) -> None:
    client.hset("{jobs}:control", "format", written)
    client.zadd("{jobs}:workers", {"host:1:0123": 9e12})  # of the version before, as long as it lives
    queue = await open_worker()
    await bury(admin, queue, "a")
    ((id_, letter),) = client.hgetall(DEAD).items()  # type: ignore[union-attr]
    header, feed, payload = letter.partition(b"\n")
    assert orjson.loads(header)["job_id"] == "a"
    apart = client.hget(PAYLOAD, id_)
    assert (feed, payload, apart) == (
        (b"\n", b'{"job_id":"a","prompt":"a"}', None) if written == "1" else (b"", b"", apart)
    )
    (found,) = await letters(admin)
    assert found.payload == b'{"job_id":"a","prompt":"a"}'
    assert await letters(admin, payloads=False) == [
        DeadLetter(found.id, "a", "http_400", "no", found.attempts, 0, found.died_at, b"")
    ]
    assert await admin.replay(found.id)
    assert client.exists(DEAD, PAYLOAD, INDEX) == 0
    assert (await run(queue)).payload == found.payload


@kinds
async def test_letters_of_format_1_are_taken_over(client: Redis, admin: QueueClient, open_worker: Open) -> None:
    """As an upgrade finds them: without an index, payloads behind headers; then with an index of the new version."""
    queue = await open_worker()
    client.hset("{jobs}:control", "format", "1")
    for number in range(300):
        header = HEADER | {"job_id": f"j-{number}", "died_ms": str(1_700_000_000_000 + number)}
        client.hset(DEAD, str(number), orjson.dumps(header) + b"\n\xff|%d" % number)
    assert await admin.dead_codes() == {"http_400": 300}
    assert client.zcard(INDEX) == 900
    assert client.exists(PAYLOAD) == 0, "the version before reads them as they were"
    client.hset("{jobs}:control", "format", "2")
    found = await letters(admin)
    assert [letter.payload for letter in found] == [b"\xff|%d" % number for number in range(299, -1, -1)]
    assert (client.hlen(PAYLOAD), client.hlen(DEAD)) == (300, 300)
    assert all(b"\n" not in letter for letter in client.hvals(DEAD))  # type: ignore[union-attr]
    letter = await admin.dead_letter("j-17")
    assert letter
    assert (letter.id, letter.attempts, letter.crashes) == ("17", 2, 1)
    client.hdel(DEAD, "17")  # as the version before purges
    assert await admin.dead_count() == 299
    assert (client.zcard(INDEX), client.hlen(PAYLOAD)) == (897, 299)
    assert await admin.replay_many([letter.id for letter in found[:3]]) == ["replayed"] * 3
    assert [(await claim(queue)).payload for _ in range(3)] in (
        [b"\xff|297", b"\xff|298", b"\xff|299"],
        [b"\xff|299", b"\xff|298", b"\xff|297"],  # in a stream, the order in which they were replayed
    )


@kinds
@formats
async def test_a_late_answer_wins_over_a_letter_of_either_format(
    client: Redis, admin: QueueClient, open_worker: Open, written: str
) -> None:
    queue = await open_worker()
    client.hset("{jobs}:control", "format", written)
    client.zadd("{jobs}:workers", {"host:1:0123": 9e12})
    await admin.put([("a", b'{"job_id":"a","prompt":"a"}')])
    lease = await run(queue)
    assert await queue.settle(lease, Failed("crashed", "by another"))
    assert await queue.settle(lease, ANSWER)
    assert client.exists(DEAD, PAYLOAD, INDEX) == 0
    assert (await admin.record("a"))["state"] == "succeeded"


@kinds
@formats
async def test_whatever_somebody_writes_among_dead_letters_stops_nobody(
    client: Redis, admin: QueueClient, open_worker: Open, written: str
) -> None:
    queue = await open_worker()
    client.hset("{jobs}:control", "format", written)
    client.hset(DEAD, mapping=HOSTILE)  # type: ignore[arg-type]
    await bury(admin, queue, "mine")
    found = await letters(admin)
    assert len(found) == len(HOSTILE) + 1
    unreadable = [letter for letter in found if letter.code == "unreadable"]
    assert {letter.payload for letter in unreadable} == {
        HOSTILE[name] for name in (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"\xff\x00\n", b"x" * 300)
    }, "with all their bytes"
    assert await admin.dead_count(DeadFilter(code="unreadable")) == len(unreadable)
    for letter in found:
        assert await admin.dead_letter(letter.id) == letter
    assert await admin.replay_many([letter.id for letter in found]) == ["replayed"] * len(found)
    assert await letters(admin) == []
    again = [await claim(queue) for _ in found]
    assert sorted(lease.payload for lease in again) == sorted(letter.payload for letter in found)
    for lease in again:
        assert await queue.settle(lease, Failed("not_json", ""))
    assert await admin.purge(older_than=0) == len(found)
    assert client.exists(DEAD, PAYLOAD, INDEX, "{jobs}:open", "{jobs}:meta", "{jobs}:lease") == 0


@kinds
async def test_a_letter_under_the_id_of_a_job_that_runs_does_not_harm_it(
    client: Redis, admin: QueueClient, open_worker: Open
) -> None:
    queue = await open_worker()
    await admin.put([("a", b'{"job_id":"a","prompt":"a"}')])
    lease = await run(queue)
    client.hset(DEAD, lease.id, orjson.dumps(HEADER | {"token": "x"}) + b"\nanother")
    assert await admin.replay(lease.id)
    other = await claim(queue)
    assert (other.payload, other.id != lease.id) == (b"another", True)
    assert await queue.settle(lease, ANSWER)
    assert (await admin.record("a"))["state"] == "succeeded"


@kinds
async def test_a_letter_that_is_overwritten_keeps_its_payload(
    client: Redis, admin: QueueClient, open_worker: Open
) -> None:
    queue = await open_worker()
    client.hset("{jobs}:control", "format", "2")
    await bury(admin, queue, "a", "b")
    ids = [letter.id for letter in await letters(admin)]
    client.hset(DEAD, mapping=dict.fromkeys(ids, b"overwritten"))
    (b, a) = await letters(admin)
    assert (a.code, b.code, a.payload) == ("unreadable", "unreadable", b'{"job_id":"a","prompt":"a"}')
    assert await admin.replay(a.id)
    assert (await run(queue)).payload == a.payload
    assert await admin.purge(older_than=0) == 1
    assert await admin.dead_codes() == {}


@kinds
async def test_a_letter_whose_payload_somebody_deleted_is_not_replayed_and_stays(
    client: Redis, admin: QueueClient, open_worker: Open
) -> None:
    queue = await open_worker()
    client.hset("{jobs}:control", "format", "2")
    await bury(admin, queue, "a")
    client.delete(PAYLOAD)
    (letter,) = await letters(admin)
    assert (letter.code, letter.payload) == ("http_400", b"")
    assert await admin.replay_many([letter.id]) == ["payload_lost"]
    assert not await admin.replay(letter.id)
    assert await letters(admin) == [letter]
    assert await admin.purge(older_than=0) == 1


@kinds
@pytest.mark.parametrize("key", [PAYLOAD, INDEX])
async def test_a_foreign_type_beside_the_letters_keeps_no_job_from_dying(
    client: Redis, admin: QueueClient, open_worker: Open, key: str
) -> None:
    queue = await open_worker(dead_max_count=1)
    client.hset("{jobs}:control", "format", "2")
    client.set(key, "foreign")
    await bury(admin, queue, "a", "b")
    await queue.beat()
    assert queue.up
    with pytest.raises(ConfigError, match=f"in Redis {key} is a string"):
        await letters(admin)
    client.delete(key)
    assert {letter.job_id: letter.payload for letter in await letters(admin)} == {
        name: orjson.dumps({"job_id": name, "prompt": name}) for name in ("a", "b")
    }


@kinds
async def test_a_replay_that_a_full_redis_refuses_loses_nothing(
    kind: str, start_redis: Callable[..., RedisServer], open_worker: Open
) -> None:
    assert open_worker
    server = start_redis("maxmemory-policy noeviction")
    admin = await open_client(kind, RedisOptions(url=server.url))
    queue = await open_queue(kind, RedisOptions(url=server.url))
    with server.client() as client:
        await bury(admin, queue, "a", "b")
        (letter, _) = await letters(admin)
        client.config_set("maxmemory", 1)
        with pytest.raises(QueueFullError):
            await admin.replay(letter.id)
        with pytest.raises(QueueFullError, match="maxmemory"):
            await admin.put([("c", b"{}")])
        assert len(await letters(admin)) == 2
        assert await admin.purge(older_than=0) == 2, "who deletes needs no room"
        client.config_set("maxmemory", 0)
    await queue.aclose()
    await admin.aclose()


@kinds
async def test_a_replay_that_fails_half_way_has_the_job_in_one_place(
    client: Redis, redis_url: str, admin: QueueClient, open_worker: Open, kind: str
) -> None:
    """Something that fails behind the first write, as no check can foresee: the order of writes decides."""
    queue = await open_worker()
    await bury(admin, queue, "a")
    (letter,) = await letters(admin)
    client.acl_setuser("replayer", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-zadd"])
    limited = await open_client(kind, RedisOptions(url=redis_url, username="replayer", password="any"))  # noqa: S106  none
    try:
        with pytest.raises(Exception, match=r"(?i)permission|refuses"):
            await limited.replay(letter.id)
    finally:
        await limited.aclose()
        client.acl_deluser("replayer")
    assert await letters(admin) == [letter], "its letter is still there"


@kinds
async def test_trimming_goes_by_the_count_and_counts(client: Redis, admin: QueueClient, open_worker: Open) -> None:
    queue = await open_worker(dead_max_count=250)
    header = orjson.dumps(HEADER)
    client.hset(DEAD, mapping={str(number): header + b"\npayload" for number in range(1000)})

    async def is_trimmed() -> bool:
        await queue.beat()
        return bool(client.hlen(DEAD) == 250)

    await until(is_trimmed)
    assert int(client.hget("{jobs}:control", "n_trimmed")) == 750  # type: ignore[arg-type]
    assert len(await letters(admin)) == 250


@kinds
async def test_two_queues_with_a_prefix_share_no_result(client: Redis, redis_url: str, kind: str) -> None:
    for name in ("one", "two"):
        options = QueueOptions(name=name, result_prefix=f"{name}:")
        queue = await open_queue(kind, RedisOptions(url=redis_url), options)
        admin = await open_client(kind, RedisOptions(url=redis_url), options)
        await admin.put([("same", b'{"job_id":"same","prompt":"%s"}' % name.encode())])
        assert await queue.settle(await run(queue), ANSWER)
        assert await admin.result("same") == b"4"
        await queue.aclose()
        await admin.aclose()
        assert client.exists(f"{name}:result:same", f"{name}:job:same") == 2
    assert client.exists("result:same", "job:same") == 0


@kinds
async def test_a_hostile_id_in_an_entry_and_a_replay_of_all_stop_no_worker(
    client: Redis, admin: QueueClient, open_worker: Open, kind: str
) -> None:
    queue = await open_worker()
    if kind == "stream":
        client.xadd("jobs", {"job": "not JSON", "job_id": "a|b"})
    else:
        client.lpush("jobs", b'{"job_id": "a|b"')
    for _ in range(2):
        lease = await claim(queue)
        assert await queue.settle(lease, Failed("not_json", "not JSON"))
        (letter,) = await letters(admin)
        assert await admin.replay_many([letter.id]) == ["replayed"]
    await asyncio.gather(*(queue.beat() for _ in range(3)))
    assert (await claim(queue)).payload == (b"not JSON" if kind == "stream" else b'{"job_id": "a|b"')
