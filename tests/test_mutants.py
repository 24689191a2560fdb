"""The mutation check: a model that misses one of these defects would miss its like in the real scripts."""

import pytest
from redis.exceptions import ResponseError

from harness.redis_server import RedisServer
from tests.model import search
from tests.mutants import LATE, MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.kind}, {mutant.file}: {mutant.name}")
def test_a_seeded_defect_is_noticed(redis_server: RedisServer, mutant: Mutant) -> None:
    with redis_server.client() as redis, pytest.raises((AssertionError, ResponseError)) as noticed:
        search(redis, mutant.kind, mutant.scripts(), [LATE.get(mutant.name, 0), *range(64)], steps=250)
    assert "compiling script" not in str(noticed.value), "what is no Lua shows nothing"
