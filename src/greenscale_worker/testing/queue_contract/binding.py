"""How a job's id is bound to its payload, and what its record says before it runs."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import orjson
import pytest

from greenscale_worker.job import Failed, Released, Succeeded
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, claim, decoded, run


async def test_a_bound_job_has_a_record_that_says_running(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(backend="echo")
    created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    job_id, payload = rig.job("1", metadata={"team": "é|1"}, created_at=created.isoformat())
    await rig.client.put([(job_id, payload)])
    lease = await run(rig.a)
    record = await rig.client.record(job_id)
    assert (lease.job_id, lease.attempts) == (job_id, 1)
    assert {name: record[name] for name in ("state", "attempts", "crashes", "backend")} == {
        "state": "running",
        "attempts": "1",
        "crashes": "0",
        "backend": "echo",
    }
    assert orjson.loads(record["metadata"]) == {"team": "é|1"}
    assert datetime.fromisoformat(record["created_at"]) == created
    assert int(record["submitted_ms"]) <= int(record["claimed_ms"])
    assert int(record["first_claimed_ms"]) == int(lease.first_claimed_at * 1000)
    assert record["worker"]
    assert not {"due_ms", "finished_ms", "error_code", "error_message", "model"} & set(record)


async def test_a_put_job_has_a_record_that_says_waiting(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    record = await rig.client.record(job_id)
    assert abs(int(record.pop("submitted_ms")) / 1000 - time.time()) < PATIENCE
    assert record == {"state": "waiting"}


async def test_an_unknown_job_has_neither_record_nor_result(rig: Rig) -> None:
    assert await rig.client.record("nobody") == {}
    assert await rig.client.result("nobody") is None


async def test_the_same_job_twice_in_flight_is_folded_into_one(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "1")
    first, second = await run(rig.a), await claim(rig.b)
    record = await rig.client.record(job_id)
    assert await rig.b.bind(second, decoded(second)) == "duplicate"
    assert (await rig.client.depth()).running == 1
    assert await rig.client.record(job_id) == record
    assert not await rig.b.settle(second, Failed("late", ""))
    assert await rig.a.settle(first, ANSWER)
    assert await rig.state(job_id) == "succeeded"
    assert await rig.letters() == []


async def test_the_same_job_while_the_first_waits_for_a_retry_is_folded_too(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "1")
    first = await run(rig.a)
    assert await rig.a.settle(first, Released("overload", delay=60))
    second = await claim(rig.a)
    assert await rig.a.bind(second, decoded(second)) == "duplicate"
    assert await rig.state(job_id) == "delayed"
    depth = await rig.client.depth()
    assert (depth.waiting, depth.running, depth.delayed) == (0, 0, 1)


async def test_an_id_in_flight_with_another_payload_is_a_conflict(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    _, other = rig.job("1", temperature=0)
    await rig.client.put([(job_id, payload), (job_id, other)])
    first, second = await run(rig.a), await claim(rig.b)
    record = await rig.client.record(job_id)
    assert await rig.b.bind(second, decoded(second)) == "conflict"
    assert second.job_id is None
    assert await rig.b.settle(second, Failed("conflict", "in flight with another payload"))
    assert await rig.client.record(job_id) == record
    (letter,) = await rig.letters()
    assert (letter.code, letter.job_id, letter.payload) == ("conflict", None, other)
    assert await rig.a.settle(first, ANSWER)


@pytest.mark.parametrize("end", [ANSWER, Failed("refused", "no")])
async def test_a_binding_ends_when_its_job_does(rig: Rig, end: Succeeded | Failed) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), end)
    await rig.client.put([rig.job("1", temperature=0)])
    assert await rig.state(job_id) == "waiting"
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.state(job_id) == "succeeded"


async def test_a_lease_taken_by_another_cannot_bind(short: Rig) -> None:
    await short.put("1")
    old = await claim(short.a)
    async with short.beating(short.b):
        await run(short.b)
        assert await short.a.bind(old, decoded(old)) == "stale"
        assert old.job_id is None
