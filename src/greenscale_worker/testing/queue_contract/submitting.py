"""Jobs that are put once, what a record keeps of them, and the API keys of those who put them."""

import pytest

from greenscale_worker.job import Failed, Released, Succeeded
from greenscale_worker.testing.rig import ANSWER, Rig, run, soon

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.mark.parametrize("end", [ANSWER, Failed("refused", "")])
async def test_a_job_is_put_once_as_long_as_there_is_a_record(rig: Rig, end: Succeeded | Failed) -> None:
    job = rig.job("1")
    assert await rig.client.put([job, job], once=True, digest=DIGEST) == [True, False]
    lease = await run(rig.a)
    assert await rig.client.put([job], once=True) == [False]
    assert await rig.a.settle(lease, end)
    assert await rig.client.put([job], once=True, digest="another") == [False]
    assert (await rig.client.record(job[0]))["digest"] == DIGEST
    assert (await rig.client.depth()).waiting == 0


async def test_a_job_that_was_cancelled_is_not_put_once_more(rig: Rig) -> None:
    job = rig.job("1")
    await rig.client.put([job])
    await run(rig.a)
    assert await rig.client.cancel(job[0]) == "cancelled"
    assert await rig.client.put([job], once=True) == [False]
    assert await rig.client.put([job], fold=True) == [True]


async def test_a_cancellation_that_came_first_is_no_record(rig: Rig) -> None:
    job = rig.job("1")
    assert await rig.client.cancel(job[0]) == "unknown"
    assert await rig.client.put([job], once=True) == [True]
    assert await rig.client.put([job], once=True) == [False]
    assert await rig.state(job[0]) == "cancelling"


async def test_tenant_and_digest_stay_in_the_record_whatever_becomes_of_the_job(rig: Rig) -> None:
    job_id, payload = rig.job("1")

    async def kept(state: str) -> bool:
        record = await rig.client.record(job_id)
        assert record["state"] == state
        return (record["tenant"], record["digest"], "submitted_ms" in record) == ("a", DIGEST, True)

    await rig.client.put([(job_id, payload)], not_before=soon(), tenant="a", digest=DIGEST)
    assert await kept("scheduled")
    await rig.promoted(1)
    assert await kept("waiting")
    lease = await run(rig.a)
    assert await kept("running")
    assert await rig.a.settle(lease, Released("drain"))
    assert await kept("delayed")
    assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    assert await kept("failed")
    (letter,) = await rig.letters()
    assert await rig.client.replay(letter.id)
    assert await kept("waiting")
    lease = await run(rig.a)
    assert await kept("running")
    assert await rig.a.settle(lease, ANSWER)
    assert await kept("succeeded")
    await rig.client.put([(job_id, payload)])
    assert not {"tenant", "digest"} & (await rig.client.record(job_id)).keys(), "that is another job"


async def test_tenant_and_digest_of_a_job_that_is_cancelled_stay(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    await rig.client.put([(job_id, payload)], tenant="a", digest=DIGEST)
    await run(rig.a)
    assert await rig.client.cancel(job_id) == "cancelled"
    record = await rig.client.record(job_id)
    assert (record["tenant"], record["digest"]) == ("a", DIGEST)


async def test_a_document_is_kept_for_each_key_until_it_is_deleted(rig: Rig) -> None:
    assert await rig.client.keys() == {}
    await rig.client.set_key("a", b"\xff\0 of a")
    await rig.client.set_key("b", b"of b")
    await rig.client.set_key("b", b"of b, changed")
    assert await rig.client.keys() == {"a": b"\xff\0 of a", "b": b"of b, changed"}
    await rig.client.set_key("a", None)
    await rig.client.set_key("nobody", None)
    assert await rig.client.keys() == {"b": b"of b, changed"}
