"""The queue `packed` keeps every promise of a queue, and packs."""

from contextlib import aclosing

import pytest

from greenscale_plugin_example import packed
from greenscale_worker import QueueOptions, RedisOptions, open_client, open_queue
from greenscale_worker.testing import QueueUnderTest
from greenscale_worker.testing.queue_contract import *  # noqa: F403  the tests, and the fixtures they ask for

LONG = b'{"job_id": "1", "prompt": "' + 1000 * b"again and " + b'"}'


@pytest.fixture
def queue_under_test(redis_url: str) -> QueueUnderTest:
    return QueueUnderTest(kind=packed, redis=RedisOptions(url=redis_url))


async def test_what_is_put_is_small_in_redis(redis_url: str) -> None:
    redis, options = RedisOptions(url=redis_url), QueueOptions(name="small")
    async with (
        aclosing(await open_client("packed", redis, options)) as admin,
        aclosing(await open_queue("list", redis, options)) as as_it_is,
    ):
        await admin.put([("1", LONG)])
        assert len((await as_it_is.lease()).payload) < len(LONG) / 10


@pytest.mark.parametrize("raw", [b"", b'{"job_id": "1"}', b"x\x9c", b"\xff\x00", packed.pack(b"x") + b"x"])
def test_what_was_never_packed_stays_as_it_is(raw: bytes) -> None:
    assert packed.unpack(raw) == raw


def test_a_bomb_stays_packed() -> None:
    bomb = packed.pack(bytes(packed.LARGEST + 1))
    assert packed.unpack(bomb) == bomb
