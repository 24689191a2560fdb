"""The random walk (tests/model.py): nothing is lost, doubled or unfenced, whatever goes wrong."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from greenscale_worker.queues import SUSPECT_CRASHES
from greenscale_worker.queues.memory.store import BURIAL_MARGIN
from greenscale_worker.queues.redis.script_loader import read_script
from harness.redis_server import RedisServer
from tests.model import STEPS, Walk, search
from tests.support.actors import sources
from tests.support.entries import BEAT, LEASE, Kind, Setup

KINDS: list[Kind] = ["list", "stream"]

# What a search has to have met, or it proves little.
ANSWERS = [
    *("bind: RUN", "bind: STALE", "bind: DUPLICATE", "bind: CONFLICT", "bind: CANCELLED", "bind: BADTYPE"),
    *(
        "settle: OK",
        "settle: STALE",
        "settle: GONE",
        "settle: BADTYPE",
        "release: OK",
        "release: STALE",
        "release: GONE",
    ),
    *("retry: DELAYED", "retry: HELD", "retry: DEAD", "retry: STALE", "retry: GONE"),
    *("blame answered", "held, and claimed", "held, and brought back", "proven", "alone", "upgraded"),
    *("heir", "unseated", "shared"),
    *("the turn of standard", "the turn of background", "replayed in its class"),
    *("put into a line", "a tenant with as many in flight as it may have", "replayed for its tenant"),
    *("scheduled", "promoted", "cancelled before it was due"),
    *(
        "cancel: CANCELLED",
        "cancel: FINISHED",
        "cancel: LATER",
        "cancel: UNKNOWN",
        "put: appended",
        "put: left out",
        "put in line",
        "late answer",
        "answer too late",
        "buried by Lua",
        "too large",
    ),
    *(
        f"{script}: {fate}"
        for script in ("claim", "bind", "settle", "release", "retry", "heartbeat")
        for fate in ("lost", "sent twice")
    ),
]


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client() as client:
        yield client


@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_is_kept(redis: Redis, kind: Kind) -> None:
    happened = search(redis, kind, sources(kind), range(24), steps=300)
    wanted = [*STEPS, *ANSWERS, *(["adopted"] if kind == "stream" else [])]
    assert not [what for what in wanted if not happened[what]]


def test_jobs_of_which_somebody_deleted_a_part_stop_nobody(redis: Redis) -> None:
    actors = Walk(redis, "list", sources("list"), seed=0)
    actors.setup = Setup()
    keys, names = actors.keys, itertools.count()

    def run(script: str, *args: Any) -> Any:
        actors.ledger.now += 1
        owner = keys.claim(str(args[3])) if script == "claim" else keys.record("")
        return actors.execute(script, [owner], list(args))

    def claim() -> list[list[Any]]:
        jobs: list[list[Any]] = run("claim", 99, LEASE, BEAT, "w", f"nonce-{next(names)}", 9, 9999, 1, 0, 99)[3]
        return jobs

    redis.lpush(keys.name, *(str(number) for number in range(8)))
    jobs = claim()
    for id_, token, *_ in jobs[:4]:
        run("release", 0, "", id_, token, 2000 * (int(id_) % 2), "", "")
    for id_, *_ in jobs[::2]:
        redis.hdel(keys.of("open"), id_)
    for id_, *_ in jobs[1::4]:
        redis.hdel(keys.of("meta"), id_)
    came: set[bytes] = set()
    for _ in range(8):
        actors.ledger.now += BEAT
        run("heartbeat", LEASE, BEAT, 9, "w", 1)
        came |= {job[5] for job in claim()}
    assert came == {b"1", b"3", b"5", b"7"}
    assert redis.zcard(keys.of("lease")) == redis.hlen(keys.of("meta")) == redis.hlen(keys.of("open")) == 4


def test_what_lua_and_python_count_by_is_the_same() -> None:
    (line,) = re.findall(r"^local (SUSPECT_CRASHES, .*) = (.*)$", read_script("prelude").decode(), re.MULTILINE)
    names, values = (side.split(", ") for side in line)
    in_lua = dict(zip(names, map(int, values), strict=True))
    assert in_lua["SUSPECT_CRASHES"] == SUSPECT_CRASHES
    assert in_lua["BURIAL_MARGIN"] == BURIAL_MARGIN


def test_the_scripts_are_fitted_to_a_walk() -> None:
    heartbeat = sources("stream")["heartbeat"]
    assert b"8 * 1024 * 1024" not in heartbeat
    assert b"store.strays(lease_ms))" not in heartbeat


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_is_kept_for_long(redis: Redis, kind: Kind) -> None:
    search(redis, kind, sources(kind), range(1000, 1300), steps=500)
