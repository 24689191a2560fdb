"""What the user of a deployment may do in Redis: all that its door needs, nothing of others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import eventually
from harness.redis_server import RedisServer, binary

from clusters import SECRET
from doors import Platform
from kubeserve.door.app import Door
from kubeserve.errors import UnavailableError
from kubeserve.manifests import redis_user_of
from kubeserve.places.cluster import RedisUsers
from kubeserve.queueing import answers_key
from models import of_python

OURS = "33333333-3333-3333-3333-333333333333"
OTHER = "11111111-1111-1111-1111-111111111111"
TENANT = "44444444-4444-4444-4444-444444444444"


@pytest.fixture
async def users(redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[RedisUsers]:
    before = set(db.acl_users())
    yield RedisUsers(RedisOptions(url=f"{redis_server.url}/0"), SECRET, OURS)
    for user in set(db.acl_users()) - before:
        db.acl_deluser(user)


async def test_a_door_answers_with_these_rights_alone(
    platform: Platform, users: RedisUsers, redis_server: RedisServer, db: redis.Redis
) -> None:
    await platform.close()
    workload = await platform.deploy(of_python("return [1 for row in rows]"))
    await users.keep(workload.id, workload.tenant)
    db.acl_log_reset()
    name, password = redis_user_of(workload.id), users.password(workload.id)
    door = Door(platform.layout, RedisOptions(url=f"{redis_server.url}/0", username=name, password=password))
    stopping = asyncio.Event()
    running = asyncio.create_task(door.run(stopping))
    answer = await platform.ask(workload, [1])
    assert answer.answer is not None, answer
    assert answer.answer["predictions"] == [1]
    await eventually(lambda: db.exists(answers_key(workload.tenant)))
    stopping.set()
    await running
    refused = {each["object"] for each in db.acl_log() if each["username"] == name}
    assert {each for each in refused if not each.startswith("client")} <= {"config|get"}  # a worker can do without


async def test_a_deployment_has_the_keys_of_its_own_and_no_others(
    users: RedisUsers, redis_server: RedisServer, db: redis.Redis
) -> None:
    await users.keep(OTHER, TENANT)
    name, password = redis_user_of(OTHER), users.password(OTHER)
    url = redis_server.url.replace("://", f"://{name}:{password}@")
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.lpush(f"ks:{OTHER}", "job")
        client.zadd(f"{{ks:{OTHER}}}:hot", {"door/0": 1})
        client.hincrby(answers_key(TENANT), "1", 1)
        for command in (
            ("LLEN", "ks:22222222-2222-2222-2222-222222222222"),
            ("HINCRBY", answers_key(OURS), "1", "1"),
            ("GET", "session"),
            ("KEYS", "*"),
            ("ACL", "LIST"),
            ("CONFIG", "GET", "requirepass"),
            ("FLUSHALL",),
            ("SUBSCRIBE", "{ks:22222222-2222-2222-2222-222222222222}:ended"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
        await users.keep(OTHER, TENANT)  # as at each resync: who is connected stays so
        assert client.llen(f"ks:{OTHER}") == 1
    await users.remove(OTHER)
    assert name not in db.acl_users()


async def test_who_may_make_no_users_is_told_so(redis_server: RedisServer, db: redis.Redis, users: RedisUsers) -> None:
    db.execute_command("ACL", "SETUSER", "ks-platform", "on", ">secret", "~*", "&*", "+@all", "-acl")
    options = RedisOptions(url=f"{redis_server.url}/0", username="ks-platform", password="secret")  # noqa: S106
    poor = RedisUsers(options, SECRET, OURS)
    with pytest.raises(UnavailableError, match="ACL SETUSER"):
        await poor.keep(OTHER, TENANT)
    del users


async def test_who_may_have_been_replaced_changes_no_user(
    redis_server: RedisServer, db: redis.Redis, users: RedisUsers
) -> None:
    await users.keep(OTHER, TENANT)
    stalled = RedisUsers(RedisOptions(url=f"{redis_server.url}/0"), SECRET, OURS, lambda: True)
    for write in (stalled.remove(OTHER), stalled.keep(OTHER, TENANT), stalled.wake(OTHER)):
        with pytest.raises(UnavailableError, match="another one may have taken over"):
            await write
    assert await stalled.ours() == {OTHER}
    assert redis_user_of(OTHER) in db.acl_users()


@pytest.mark.skipif(binary() is None, reason="one in Docker does not see the file; redis-server on PATH is needed")
async def test_users_outlive_a_redis_with_a_file_of_them_while_the_platform_is_away(tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    file.touch()
    server = RedisServer(tmp_path, f"aclfile {file}", docker=False)
    server.start()
    try:
        users = RedisUsers(RedisOptions(url=f"{server.url}/0"), SECRET, OURS)
        gone = "22222222-2222-2222-2222-222222222222"
        for deployment_id in (OTHER, gone):
            await users.keep(deployment_id, TENANT)
        await users.remove(gone)
        server.kill()
        server.start()
        with server.client(decode_responses=True) as client:
            assert set(client.acl_users()) == {"default", redis_user_of(OTHER)}
    finally:
        server.close()
