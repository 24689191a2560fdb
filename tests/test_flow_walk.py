"""Limit, budgets, pauses and probes of a fleet: walks over the scripts, and defects that these have to notice."""

from collections.abc import Iterator
from typing import Final

import pytest
from redis import Redis

from harness.redis_server import RedisServer
from tests.flow_walk import search
from tests.mutants import Mutant
from tests.support.actors import sources
from tests.support.entries import Kind
from tests.support.jobs import KINDS

MUTANTS: Final = [
    Mutant("there is no limit", "flow", "if limit then bound(limit - in_flight, 'limit', beat_ms) end"),
    Mutant("one more than the limit is given", "flow", "bound(limit - in_flight,", "bound(limit - in_flight + 1,"),
    Mutant("the background takes all", "flow", "flow.background = ", "local _ = "),
    Mutant("requests are not counted", "flow", "flow.requests_charged = (flow.requests_charged or 0) + 1"),
    Mutant(
        "tokens are not charged", "flow", "flow.tokens = flow.tokens - math", "flow.tokens = flow.tokens - 0 * math"
    ),
    Mutant("the debts of a budget are any", "claim", "and not (flows and flow.out_of_tokens())"),
    Mutant("many jobs are taken before one is charged", "claim", "if flow.tokens then AT_ONCE = 1 end"),
    Mutant("a budget gathers a minute's worth", "flow", "per_minute / 120,", "per_minute,"),
    Mutant("a budget is not refilled", "flow", "+ passed * per_minute / A_MINUTE", "+ 0"),
    Mutant("what came back may be more than it holds", "flow", "most_t or tokens + back_t,", "math.huge,"),
    Mutant("nothing is given back", "flow", "local back_r, back_t", "flow.back_tokens = 0\n  local back_r, back_t"),
    Mutant("who makes no call gets no request back", "release", "backs[2 * i - 1], backs[2 * i])", "0, 0)"),
    Mutant("a repeated claim charges otherwise", "claim", "(charged ~= '' and '|' .. charged or '')", "''"),
    Mutant("a pause holds nobody", "flow", "if hold then bound(0, 'pause', hold - queue_now) end"),
    Mutant("a shorter pause ends a longer one", "flow", "if hold > (flow.held_until() or 0) then", "if true then"),
    Mutant("after a pause all begin at once", "flow", "begin_ramp(call('ZCARD', LEASE))"),
    Mutant("a slow start never ends", "flow", "set('ramp', allowed + 1 < goal and", "set('ramp', allowed < 1 and"),
    Mutant("a slow start goes on during the pause", "flow", "succeeded and not flow.held_until()", "succeeded"),
    Mutant("every worker makes a probe", "flow", "if is_probe and probe then bound", "if false then bound"),
    Mutant("a long probe is forgotten", "heartbeat", "if flows then flow.prolong_probe(token, lease_ms) end"),
    Mutant("the end of a probe is not noticed", "flow", "    set('probe', nil)\n"),
    Mutant("held back, a worker claims again at once", "claim", "return {flow.wait, NOW", "return {0, NOW"),
    Mutant(
        "nobody is told what holds jobs back", "claim", "and flow.held_back(#given, n, may_suspect) or ''", "and ''"
    ),
    Mutant("new settings are not taken over", "flow", "      set(field, text ~= '' and text or nil)\n"),
    Mutant("KEDA is not told", "flow", "redis.pcall('LPUSH', key, unpack(words))"),
    Mutant("KEDA is told too much", "flow", "redis.pcall('LTRIM', key, 0, wanted - 1)"),
    Mutant("a hold from a foreign hand lasts for years", "flow", " and hold <= queue_now + LONGEST_HOLD"),
]


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client() as client:
        yield client


@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_is_kept(redis: Redis, kind: Kind) -> None:
    search(redis, kind, sources(kind), range(24), steps=250)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_seeded_defect_is_noticed(redis: Redis, mutant: Mutant) -> None:
    with pytest.raises(AssertionError) as noticed:
        search(redis, mutant.kind, mutant.scripts(), range(64), steps=250)
    assert "ompiling script" not in str(noticed.value), "what is no Lua shows nothing"


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_is_kept_for_long(redis: Redis, kind: Kind) -> None:
    search(redis, kind, sources(kind), range(1000, 1300), steps=400)
