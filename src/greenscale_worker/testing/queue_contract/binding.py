"""How a job's id is bound to its payload, and what its record says before it runs."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import orjson
import pytest

from greenscale_worker.job import Failed, Released, Succeeded
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, claim, decoded, run, soon


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
    assert record == {"state": "waiting", "class": "standard"}


async def test_a_record_has_class_and_metadata_from_when_the_job_was_put(rig: Rig) -> None:
    made = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    said = {"metadata": {"team": "é|1", "note": "x" * 200}, "created_at": made.isoformat()}
    first, second, plain = rig.job("1", **said), rig.job("2", **said), rig.job("3")
    await rig.client.put([first, plain], job_class="background")
    await rig.client.put([second], job_class="interactive", not_before=soon())

    async def told(job_id: str) -> tuple[object, ...]:
        record = await rig.client.record(job_id)
        (job,) = [each async for each in rig.client.jobs() if each.job_id == job_id]
        assert (job.job_class, job.metadata) == (record["class"], orjson.loads(record.get("metadata", "null")))
        assert job.created_at == (made.timestamp() if "created_at" in record else None)
        return record["state"], job.job_class, job.metadata

    assert await told(plain[0]) == ("waiting", "background", None)
    assert await told(first[0]) == ("waiting", "background", said["metadata"])
    assert await told(second[0]) == ("scheduled", "interactive", said["metadata"])
    await rig.promoted(1)
    assert await told(second[0]) == ("waiting", "interactive", said["metadata"])
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await told(second[0]) == ("succeeded", "interactive", said["metadata"])
    assert await rig.client.cancel(first[0]) == "will_be_cancelled"
    assert await told(first[0]) == ("cancelling", "background", said["metadata"])
    assert await rig.a.bind(lease := await claim(rig.a), decoded(lease)) == "cancelled"
    assert await told(first[0]) == ("cancelled", "background", said["metadata"])


async def test_the_record_of_a_job_with_the_id_of_an_ended_one_says_nothing_of_that(rig: Rig) -> None:
    job_id, payload = rig.job("1", metadata={"team": "a"})
    await rig.client.put([(job_id, payload)])
    assert await rig.a.settle(await run(rig.a), ANSWER)
    await rig.client.put([rig.job("1")])
    assert "metadata" not in await rig.client.record(job_id), "that is another job"


async def test_a_payload_that_nobody_can_read_is_put_all_the_same(rig: Rig) -> None:
    job_id, _ = rig.job("1")
    assert await rig.client.put([(job_id, b'{"metadata": "created_at"'), (job_id, b'["metadata"]')]) == [True, True]
    assert "metadata" not in await rig.client.record(job_id)


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
