"""Every row of the table of bad input, as a running worker treats it; and the table in docs/wire-contract.md."""

import asyncio
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from harness.eventually import eventually
from harness.redis_server import RedisServer
from tests.bad_input import CASES, CONFLICT, DOCUMENT, Case, document
from tests.support.jobs import KINDS
from tests.support.scene import play

LANES: Final = 2  # fewer than there are bad payloads in a row: a lane that stopped would be missed


# An entry of a stream has an id already: a payload without one is run under that (test_stream.py).
NAMED_BY_THE_STREAM: Final = {"no id", "an id that is null"}
# Nor is one needed that can be read; but Redis itself puts away what is far too large, and asks for no name.
UNREADABLE: Final = {"too_large", "not_json", "not_an_object"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker made of all cases, each of them followed by a good job. `named`: the prompts of those it ran."""

    named: list[str]
    letters: dict[bytes, dict[str, Any]]
    records: dict[str, dict[str, str]]
    results: dict[str, str | None]
    good: list[str]
    arrived: list[str]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def seen(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, kind: str) -> Seen:
    """Run a worker over the whole table, once for each kind of queue."""
    with redis_server.client() as client:
        client.flushall()
    return asyncio.run(_run(redis_server, tmp_path_factory.mktemp("bad-input"), kind))


async def _run(server: RedisServer, directory: Path, kind: str) -> Seen:
    named = [case for case in CASES if kind == "stream" and case.name in NAMED_BY_THE_STREAM]
    async with play(directory, server, kind=kind, GREENSCALE_CONCURRENCY=LANES) as scene:
        jobs = scene.jobs
        worker = scene.start()
        await worker.says("ready")
        for number, case in enumerate(CASES):
            jobs.add(case.payload)
            jobs.push(number)
        await eventually(lambda: jobs.ended() >= 2 * len(CASES))
        assert jobs.left() == 0
        letters = {payload: header for header, payload in jobs.letters()}
        ids = [*jobs.pushed, *(header["job_id"] for header in letters.values() if header["job_id"])]
        await worker.stop()
        return Seen(
            named=[orjson.loads(case.payload)["prompt"] for case in named],
            letters=letters,
            records={job_id: jobs.record(job_id) for job_id in ids},
            results={job_id: jobs.result(job_id) for job_id in ids},
            good=jobs.pushed,
            arrived=scene.endpoint.arrived,
        )


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_it_is_a_dead_letter_with_a_reason_and_its_bytes(case: Case, seen: Seen, kind: str) -> None:
    if kind == "stream" and case.name in NAMED_BY_THE_STREAM:
        assert case.payload not in seen.letters
        return
    letter = seen.letters[case.payload]
    assert letter["code"] == case.code
    assert letter["message"]
    job_id = letter["job_id"]
    if kind == "stream" and case.job_id is None and case.code in UNREADABLE:
        assert re.fullmatch(r"\d+-\d+", job_id), "it is known by its entry"
    else:
        assert job_id == (case.job_id or "")
    if job_id:
        record = seen.records[job_id]
        assert (record["state"], record["error_code"]) == ("failed", case.code)
        assert seen.results[job_id] is None


def test_it_costs_no_call_and_stops_no_lane(seen: Seen) -> None:
    assert len(seen.letters) == len(CASES) - len(seen.named)
    assert Counter(seen.arrived) == Counter([*seen.good, *seen.named])
    assert all(seen.results[job_id] == f"{job_id} #1" for job_id in seen.good)


PRODUCERS: Final = Path(__file__).parent / "data" / "jobs"


@pytest.mark.usefixtures("redis_url")
async def test_what_producers_in_the_field_write_is_run(redis_server: RedisServer, tmp_path: Path, kind: str) -> None:
    """Half an emoji, and fields that are only echoed, cost no job."""
    payloads = {path.stem: path.read_bytes().strip() for path in PRODUCERS.iterdir()}
    async with play(tmp_path, redis_server, kind=kind, GREENSCALE_CONCURRENCY=LANES) as scene:
        worker = scene.start()
        for payload in payloads.values():
            scene.jobs.add(payload)
        await eventually(lambda: scene.jobs.ended() == len(payloads))
        assert scene.jobs.result("cut") == "cut at 20 characters \ufffd #1"
        assert scene.jobs.result("naive") == "Hi #1"
        assert scene.jobs.record("naive")["created_at"] == "2026-11-27T10:00:00.123456+00:00"
        assert scene.jobs.result("echoed") == "Hello #1"
        assert orjson.loads(scene.jobs.record("echoed")["metadata"]) == {"tenant": "7", "tags": '["a"]'}
        assert "created_at" not in scene.jobs.record("echoed")
        await worker.stop()


@pytest.mark.usefixtures("redis_url")
async def test_an_id_that_is_in_flight(redis_server: RedisServer, tmp_path: Path, kind: str) -> None:
    """With the same payload it is folded into the first; with another it is a dead letter without a record."""
    async with play(tmp_path, redis_server, kind=kind, GREENSCALE_CONCURRENCY=LANES) as scene:
        first = b'{"job_id":"twice","prompt":"What is 2+2?"}'
        scene.endpoint.hold()
        worker = scene.start()
        scene.jobs.add(first)
        await scene.in_flight(1)
        scene.jobs.add(first)
        await eventually(lambda: scene.jobs.ended() == 1)
        scene.jobs.add(CONFLICT.payload)
        await eventually(lambda: scene.jobs.ended() == 2)
        ((letter, payload),) = scene.jobs.letters()
        assert (letter["code"], payload) == (CONFLICT.code, CONFLICT.payload)
        assert scene.jobs.record("twice")["state"] == "running"
        scene.endpoint.let_go()
        await eventually(lambda: scene.jobs.result("twice") == "What is 2+2? #1")
        await worker.stop()
        assert scene.endpoint.arrived == ["What is 2+2?"]
        assert scene.jobs.record("twice")["state"] == "succeeded"


def test_the_document_has_this_table() -> None:
    text = DOCUMENT.read_text()
    assert document(text) == text, "run: python -m tests.bad_input --write"
