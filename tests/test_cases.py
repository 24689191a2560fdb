"""Cases from the field that are about blame, each of a kind, and others of their kind: with real calls and short ills.

What single answers mean is in `test_answers.py`, the grid of whole outages in `test_blame_live.py`.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from greenscale_worker.blame import Call, Evidence
from greenscale_worker.errors import TransientError
from harness.redis_server import RedisServer
from tests.blame_live import Asked, Cell, Found, IllEndpoint, Illness, all_ill, killer, play, replay, silent, some_ill
from tests.support.desk import Desk, a_desk
from tests.support.endpoint import Reply, completion

HTML: Final = b"<!DOCTYPE html><html><head><title>%b</title></head></html>"


def said(status: int, message: str, code: str | None = None, type_: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI shapes it."""
    return Reply(status=status, json={"error": {"message": message, "type": type_, "code": code}}, headers=headers)


def page(status: int, title: bytes) -> Reply:
    return Reply(status=status, pieces=(HTML % title,), headers={"Content-Type": "text/html"})


# The job's fault, taken for the endpoint's: the number is the row's; others have none.
OF_JOBS: Final = {
    "1: input flagged, 403": replay("403-input-flagged"),
    "4: more tokens than the credit is enough for, 402": replay("402-more-tokens-than-credit"),
    "5: never fits, 429": replay("429-never-fits"),
    "a legal reason, 451": said(451, "not in your country"),
    "usage policies, 403": said(403, "Your request was rejected as a result of our safety system."),
    "too long by a proxy's 500": said(500, "ContextWindowExceededError: maximum context length is 8192 tokens"),
    "a model of its own that is not there": said(404, "The model `m` does not exist", "model_not_found"),
    "too large, by bytes": said(413, "Payload Too Large"),
    "filtered": said(400, "filtered", "content_filter"),
    "flagged, within a 200": Reply(json={"error": {"message": "flagged by moderation", "code": 403}}),
    "a parameter, within a 200": Reply(json={"error": {"message": "no", "code": 422}}),
}
# The endpoint's fault, taken for the jobs'.
OF_ENDPOINTS: Final = {
    "10: a dead engine, 500": replay("500-engine-dead"),
    "13: 429 within a 200": replay("200-error-inside"),
    "15: a wrong key, 400": replay("400-wrong-key"),
    "17: a spent budget, 400": replay("400-budget-exceeded"),
    "19: a dead shard, 424": replay("424-shard-dead"),
    "20: 429 that an interactive client should not retry": Reply(
        status=429,
        json=orjson.loads(replay("429-should-not-retry").raw.partition(b"\r\n\r\n")[2]),  # type: ignore[union-attr]
        headers={"x-should-retry": "false", "Retry-After": "1"},
    ),
    "21: half an answer, finish_reason error": replay("200-finish-error"),
    "a key refused by a proxy's 500": said(500, "litellm.AuthenticationError: Incorrect API key provided"),
    "arrears, 400": said(400, "Access denied, make sure your account is in good standing.", "Arrearage"),
    "throttled, 400": Reply(status=400, json={"__type": "ThrottlingException", "message": "Too many requests"}),
    "a firewall's page, 403": page(403, b"Attention Required! | Cloudflare"),
    "a path that is unknown, 404": page(404, b"404 Not Found"),
    "a portal's page, 200": page(200, b"Sign in to the network"),
    "a conflict, 409": said(409, "the server is being updated"),
    "too early, 425": silent(425),
    "nobody there, 522": page(522, b"522: Connection timed out"),
    "a model that loads, 503": said(503, "Loading model", None, "unavailable_error"),
    "a quota, 429": said(429, "You exceeded your current quota", "insufficient_quota"),
    "an answer that stops amid its JSON": Reply(pieces=(b'{"choices": [{"message": {"content": "42',)),
    "an empty body, 200": Reply(pieces=(b"",)),
    "finish_reason abort, half a text": Reply(
        json=completion("half") | {"choices": [{"message": {"content": "half"}, "finish_reason": "abort"}]}
    ),
}
WORDS: Final = {
    "1: input flagged, 403": "flagged for violence",
    "4: more tokens than the credit is enough for, 402": "ask for fewer",
    "5: never fits, 429": "must be reduced",
}
ILL: Final = frozenset({3, 20, 21})
of_jobs = partial(Cell, jobs=40, ill=ILL, latency=0.05, patience=60.0)
of_endpoints = partial(Cell, jobs=40, latency=0.05, patience=60.0)


def taken_down() -> Illness:
    """A prompt that takes the server down for a moment; behind a gateway."""
    return killer(3, down=0.2)()


CASES: Final = {
    **{name: of_jobs(illness=some_ill(reply, ILL), kind="memory") for name, reply in OF_JOBS.items()},
    "6: takes the server down, 502": of_jobs(illness=taken_down, ill=frozenset({3}), max_tries=2, feed=True, lanes=4),
    **{name: of_endpoints(illness=all_ill(reply, 1.0, after=0.1)) for name, reply in OF_ENDPOINTS.items()},
}


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, redis_server: RedisServer) -> dict[str, Found]:
    """Play those cases of which a test was chosen, all at the same time: they mostly wait."""
    with redis_server.client() as client:
        client.flushall()
    chosen = [name for name in CASES if any(f"[{name}]" in item.nodeid for item in request.session.items)]

    async def play_all() -> list[Found]:
        return await asyncio.gather(
            *(play(f"case{number}", CASES[name], redis_server) for number, name in enumerate(chosen))
        )

    return dict(zip(chosen, asyncio.run(play_all()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_right_ones_die(name: str, found: dict[str, Found]) -> None:
    assert found[name].left == 0
    assert found[name].dead == CASES[name].ill
    if name in WORDS:
        assert all(WORDS[name] in letter.message for letter in found[name].letters)


# --- batch ---


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with a_desk(tmp_path) as desk:
        yield desk


def lines(count: int) -> bytes:
    body: dict[str, Any] = {"url": "/v1/chat/completions", "method": "POST"}
    asked = (
        {"custom_id": f"q{n}", **body, "body": {"model": "m", "messages": [{"role": "user", "content": f"q-{n}"}]}}
        for n in range(count)
    )
    return b"".join(orjson.dumps(line) + b"\n" for line in asked)


BATCHES: Final = {
    "8: the first line is flagged": ("403-input-flagged", 0),
    "9: a line never fits": ("429-never-fits", 7),
    "the last line asks for more than the credit": ("402-more-tokens-than-credit", 39),
}


@pytest.mark.parametrize("name", BATCHES)
async def test_a_batch_has_an_error_line_for_the_one_and_answers_for_the_others(desk: Desk, name: str) -> None:
    answer, ill = BATCHES[name]
    async with IllEndpoint(some_ill(replay(answer), frozenset({ill}))(), 0.02) as endpoint:
        desk.environment["NEYSA_API_URL"] = endpoint.url
        desk.source.write_bytes(lines(40))
        result = await desk.batch()
    assert result.code == 1, result.err
    errors = [line for line in desk.answers() if line["error"] is not None]
    assert [line["custom_id"] for line in errors] == [f"q{ill}"]
    assert len({line["custom_id"] for line in desk.answers()}) == 40
    assert endpoint.calls == 40


async def test_a_wrong_key_said_with_400_ends_a_batch_and_fails_no_line(desk: Desk) -> None:
    def refused(_: Asked) -> Reply:
        return replay("400-wrong-key")

    async with IllEndpoint(refused, 0.0) as endpoint:
        desk.environment["NEYSA_API_URL"] = endpoint.url
        desk.source.write_bytes(lines(40))
        result = await desk.batch()
    assert result.code == 2
    assert "key" in result.err
    assert desk.answers() == []


# --- what only showed with a real endpoint, whose refusals take no time ---


def test_the_first_answers_of_a_worker_hold_no_lane_but_that_of_their_job() -> None:
    evidence = Evidence(16)
    told = TransientError("http_429", "no", prior="job", retry_after=20.0)
    _, delay = evidence.failed(Call("1", "m", 0.0), told, 0.1)
    assert delay >= 20.0
    assert evidence.wait(0.1) == 0.0
    for number in range(7):  # half as many as there are lanes have failed then
        evidence.failed(Call("1", "m", 0.2 + number), told, 0.2 + number)
    assert evidence.wait(7.2) > 19.0


def test_lanes_come_back_by_doubling_to_where_they_were_cut_and_no_further() -> None:
    evidence = Evidence(64)
    refused = TransientError("http_429", "no", prior="endpoint", overload=True)
    cuts = []
    for second in range(6):
        now = float(second)
        for number in range(5):
            evidence.failed(Call(f"{second} {number}", "m", now), refused, now + 0.01)
        cuts.append(int(evidence.allowed))
        for _ in range(8):
            evidence.succeeded(Call("well", "m", now), now + 0.5)
    assert cuts == sorted(cuts, reverse=True)
    assert cuts[-1] <= 8


def test_after_an_outage_said_with_503_lanes_come_back_by_doubling_to_all() -> None:
    """Each call that was refused took lanes away; a probe that is refused, too, says that this was no overload."""
    evidence = Evidence(64)
    refused = TransientError("http_503", "no", prior="endpoint", overload=True)
    now = 0.0
    for number in range(20):
        evidence.failed(Call(str(number), "m", now), refused, now := now + 0.1)
    assert evidence.is_open
    assert evidence.allowed == 1
    evidence.failed(Call("probe", "m", now, probe=True), refused, now := now + 1.0)
    for number in range(7):
        evidence.succeeded(Call(f"well {number}", "m", now), now := now + 30.0)
    assert evidence.allowed == 64
