"""Right blame with real workers, a real Redis and a real endpoint (tests/blame_live.py): who dies, and who is called.

The short form counts, and says nothing about speed; the long form is the promise itself, with times.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from harness.redis_server import RedisServer
from tests.blame_live import (
    CUT,
    HANG,
    REPLIES,
    Cell,
    Found,
    all_ill,
    at_most,
    matrix,
    model_ill,
    play,
    silent,
    some_ill,
)

SECONDS: Final = 4.0
START_SECONDS: Final = 3.0  # of the last worker after the first call
ILL: Final = frozenset({20, 90, 91})
short = partial(Cell, jobs=200, latency=0.1, patience=60.0)
well_again = partial(all_ill, seconds=SECONDS, after=0.5)

CELLS: Final = {
    "all, 500, five workers": short(illness=well_again(silent(500)), workers=5),
    "all, cut, stream": short(illness=well_again(CUT), workers=2, kind="stream"),
    "all, a key refused with 400, five workers": short(illness=well_again(REPLIES["400 (wrong key)"]), workers=5),
    "all, 400 that says nothing, five workers": short(illness=well_again(silent(400)), workers=5, kind="stream"),
    "all, 200 with an error inside, memory": short(
        illness=well_again(REPLIES["200 with an error 429 inside"]), kind="memory"
    ),
    "all, no answer within the time limit": short(illness=well_again(HANG), timeout=0.5),
    "all, 500, three jobs that may fail twice": short(
        illness=all_ill(silent(500), SECONDS, after=0.0), jobs=3, max_tries=2
    ),
    "one model of two, 500": short(illness=model_ill(silent(500), SECONDS), models=("a", "b"), workers=2),
    "some, flagged": short(illness=some_ill(REPLIES["403 (flagged, all of them)"], ILL), ill=ILL, workers=2),
    "some, 403 that says nothing": short(illness=some_ill(silent(403), ILL), ill=ILL, max_tries=2, feed=True),
    "takes 8 at a time of 64 lanes": short(illness=at_most(8, silent(429)), lanes=64, latency=0.25),
}


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, redis_server: RedisServer) -> dict[str, Found]:
    """Play those cells of which a test was chosen, all at the same time: they mostly wait."""
    with redis_server.client() as client:
        client.flushall()
    chosen = [name for name in CELLS if any(f"[{name}]" in item.nodeid for item in request.session.items)]

    async def play_all() -> list[Found]:
        cells = (play(f"cell{number}", CELLS[name], redis_server) for number, name in enumerate(chosen))
        return await asyncio.gather(*cells)

    return dict(zip(chosen, asyncio.run(play_all()), strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_who_is_ill_dies_and_nobody_else(name: str, found: dict[str, Found]) -> None:
    cell, came = CELLS[name], found[name]
    assert came.left == 0
    assert came.dead & cell.ill == cell.ill
    assert len(came.dead - cell.ill) <= (2 if "400 that says nothing" in name else 0)
    assert came.refused <= 2.5 * max(cell.jobs, 16), "it was stormed"


# The long form: what is promised, with its times

LONG: Final = matrix()
DEAD_WITHIN: Final = {"403 (flagged)": 120.0, "403": 120.0, "takes the server down": 900.0}
OTHERWISE: Final = 600.0  # seconds, for all others that can never be answered


def chosen(*words: str) -> list[str]:
    """Names of cells of the matrix."""
    return [name for name in LONG if name.startswith(words)]


@pytest.mark.long
@pytest.mark.parametrize("name", chosen("all ill", "hangs", "model a"))
async def test_an_illness_of_all_buries_two_at_most(name: str, redis_server: RedisServer, tmp_path: Path) -> None:
    with redis_server.client() as client:
        client.flushall()
    came = await play("jobs", LONG[name], redis_server, tmp_path)
    assert came.left == 0
    assert len(came.dead) <= (4 if "in turn" in name else 2)
    assert came.answered == LONG[name].jobs - len(came.dead)


@pytest.mark.long
@pytest.mark.parametrize("name", chosen("3 of 1,003", "one of 300"))
async def test_who_can_never_be_answered_dies_and_holds_nobody_back(
    name: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with redis_server.client() as client:
        client.flushall()
    cell = LONG[name]
    came = await play("jobs", cell, redis_server, tmp_path)
    assert came.left == 0
    assert came.dead == cell.ill
    assert came.dead_by <= next((most for word, most in DEAD_WITHIN.items() if f"{word} |" in name), OTHERWISE)
    if name.startswith("3 of"):
        assert cell.ideal is not None
        assert came.answered_by <= 1.3 * cell.ideal + START_SECONDS


@pytest.mark.long
@pytest.mark.parametrize("name", chosen("takes 8"))
async def test_an_endpoint_that_takes_few_calls_is_not_stormed(
    name: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with redis_server.client() as client:
        client.flushall()
    cell = LONG[name]
    came = await play("jobs", cell, redis_server, tmp_path)
    assert came.left == 0
    assert came.dead == set()
    assert came.refused <= 2.5 * cell.jobs
    assert cell.ideal is not None
    assert came.answered_by <= 2 * cell.ideal
