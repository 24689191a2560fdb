"""However much has gathered, no script takes long: it runs as many commands over 20,000 jobs as over a thousand."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from redis import Redis

from greenscale_worker.queues.redis.keys import Keys
from harness.redis_server import RedisServer
from tests.support.actors import STORES, sources
from tests.support.entries import BEAT, LEASE, Kind, Setup

FEW: Final = 1_000
MANY: Final = 20_000
NOW: Final = 1_800_000_000_000
LANES: Final = 32
PORTION: Final = 64
NOT_OF_SCRIPTS: Final = ("cmdstat_info", "cmdstat_evalsha", "cmdstat_script")

# Claimed jobs, all in one place.
GATHER: Final = """
local meta = cmsgpack.pack({'token', 'w', 0, 0, '1700000000000', '', 0, tonumber(ARGV[4])})
for i = 1, ARGV[1] do
  local id = ARGV[2] == 'list' and tostring(i) or redis.call('XADD', KEYS[1], i .. '-0', 'job', 'payload')
  if ARGV[2] == 'list' then redis.call('HSET', KEYS[2], id, 'payload') end
  redis.call('HSET', KEYS[3], id, meta)
  redis.call('ZADD', KEYS[4], ARGV[3] + i, id)
end
if ARGV[2] == 'stream' then redis.call('XGROUP', 'CREATE', KEYS[1], 'greenscale', '$') end
"""


class Large:
    """A queue in format 2 in which so many jobs wait in one place."""

    def __init__(self, redis: Redis, kind: Kind, jobs: int, part: str, *, score: int) -> None:
        redis.flushdb()
        self.redis, self.keys, self.word = redis, Keys("jobs", STORES[kind].own), Setup(kind=kind).word
        self.scripts = {name: redis.register_script(source) for name, source in sources(kind).items()}
        self.run("check_format", NOW, "2")
        of = self.keys.of
        gather = redis.register_script(GATHER)
        gather(
            keys=["jobs", of("open"), of("meta"), of(part)], args=[jobs, kind, score, NOW - 1 if part == "held" else 0]
        )
        if part == "held":
            redis.hset(of("control"), mapping={"held": 1, "blamed": NOW - 1})

    def run(self, script: str, now: int, *args: Any) -> Any:
        keys = [*self.keys.base, self.keys.claim("w"), self.keys.record("-")]
        return self.scripts[script](keys=keys, args=[now, self.word, *args])

    def claim(self, now: int, nonce: str) -> Any:
        return self.run("claim", now, LANES, LEASE, BEAT, "w:2-0", nonce, 4, 9999, 1, 0, LANES)

    def beat(self, now: int) -> Any:
        return self.run("heartbeat", now, LEASE, BEAT, 4, "w:2-0", 1)

    def commands(self, call: Callable[[], Any]) -> int:
        """Count the commands that a call makes Redis run."""
        before = self._total()
        call()
        return self._total() - before

    def _total(self) -> int:
        stats: dict[str, Any] = self.redis.info("commandstats")
        return sum(each["calls"] for name, each in stats.items() if not name.startswith(NOT_OF_SCRIPTS))


def clock_that_steps_back(redis: Redis, kind: Kind, jobs: int) -> list[int]:
    large = Large(redis, kind, jobs, "delayed", score=NOW + 60_000)
    large.claim(NOW, "one")
    back = NOW - 3_600_000
    counts = [large.commands(lambda: large.claim(back, "two")), large.commands(lambda: large.beat(back + 1))]
    assert redis.hget(large.keys.of("control"), "offset") == b"3600000"
    return counts


def success(redis: Redis, kind: Kind, jobs: int) -> list[int]:
    large = Large(redis, kind, jobs, "held", score=0)
    redis.lpush("jobs", "payload") if kind == "list" else redis.xadd("jobs", {"job": "payload"})
    ((id_, token, *_), *_) = large.claim(NOW, "one")[3]
    settle = ["3600", "", "", id_, token, "succeeded", "", "4", "", f"{NOW} 0 0 0 ", 0]
    counts = [large.commands(lambda: large.run("settle", NOW + 1, *settle))]
    assert not redis.hexists(large.keys.of("control"), "blamed")
    return [*counts, *(large.commands(lambda n=n: large.claim(NOW + 2, f"two-{n}")) for n in range(3))]


def all_due(redis: Redis, kind: Kind, jobs: int) -> list[int]:
    large = Large(redis, kind, jobs, "delayed", score=0)
    return [large.commands(lambda n=n: large.claim(NOW, f"one-{n}")) for n in range(3)]


def all_expired(redis: Redis, kind: Kind, jobs: int) -> list[int]:
    large = Large(redis, kind, jobs, "lease", score=0)
    counts = [large.commands(lambda: large.beat(NOW)), large.commands(lambda: large.claim(NOW, "one"))]
    assert redis.zcard(large.keys.of("lease")) == jobs - 2 * PORTION + LANES
    return counts


def nothing_but_places(redis: Redis, kind: Kind, jobs: int) -> list[int]:
    """Somebody has deleted the jobs."""
    large = Large(redis, kind, jobs, "ready", score=0)
    redis.delete("jobs", large.keys.of("open"))
    if kind == "stream":
        redis.xgroup_create("jobs", "greenscale", mkstream=True)
    counts = [large.commands(lambda: large.claim(NOW, "one"))]
    assert redis.zcard(large.keys.of("ready")) == jobs - PORTION
    return counts


SCENES: Final[list[Callable[[Redis, Kind, int], list[int]]]] = [
    clock_that_steps_back,
    success,
    all_due,
    all_expired,
    nothing_but_places,
]


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client() as client:
        yield client
        client.flushdb()


@pytest.mark.parametrize("kind", ["list", "stream"])
@pytest.mark.parametrize("scene", SCENES)
def test_a_script_does_no_more_for_many_jobs_than_for_few(
    redis: Redis, kind: Kind, scene: Callable[[Redis, Kind, int], list[int]]
) -> None:
    few, many = scene(redis, kind, FEW), scene(redis, kind, MANY)
    assert many == few
    assert max(many) < 20 * PORTION
