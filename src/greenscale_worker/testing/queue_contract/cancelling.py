"""How jobs are cancelled, wherever they are."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import Failed, Released, Succeeded
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, claim, decoded, name_of, run

NO_IDS = ["", "a b", "a|b", "a\n", "\0", "é", "\ud800", "x" * 129, "a/b"]


async def test_a_waiting_job_is_cancelled_when_it_comes_up(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "2")
    assert await rig.client.cancel(job_id) == "will_be_cancelled"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    record = await rig.client.record(job_id)
    assert record["state"] == "cancelled"
    assert int(record["finished_ms"]) >= int(lease.claimed_at * 1000)
    assert not await rig.a.settle(lease, ANSWER)
    assert (await rig.client.depth()).running == 0
    assert name_of(await run(rig.a)) == "2"


async def test_a_job_that_is_cancelled_while_it_is_delayed_is_neither_due_nor_faulty(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    await rig.a.settle(await run(rig.a), Released("overload", delay=600))
    assert (await rig.client.record(job_id))["error_code"] == "overload"
    assert await rig.client.cancel(job_id) == "cancelled"
    assert not {"due_ms", "error_code", "error_message"} & (await rig.client.record(job_id)).keys()


async def test_a_cancellation_is_used_up(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "1")
    assert await rig.client.cancel(job_id) == "will_be_cancelled"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    await run(rig.a)


async def test_a_waiting_job_that_will_be_cancelled_says_so(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    waiting = await rig.client.record(job_id)
    for _ in range(2):
        assert await rig.client.cancel(job_id) == "will_be_cancelled"
        assert await rig.client.record(job_id) == {**waiting, "state": "cancelling"}
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    assert await rig.state(job_id) == "cancelled"
    assert await rig.client.cancel(job_id) == "finished"


async def test_a_job_that_nobody_has_seen_is_cancelled_when_it_comes_up(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    for _ in range(2):
        assert await rig.client.cancel(job_id) == "unknown"
        assert await rig.client.record(job_id) == {}
    await rig.client.put([(job_id, payload), (job_id, payload)])
    assert await rig.state(job_id) == "cancelling"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    assert (await run(rig.a)).payload == payload, "a cancellation ends one job, not two"


async def test_a_cancellation_is_taken_back_before_the_job_is_handed_in(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    assert await rig.client.cancel(job_id) == "unknown"
    assert await rig.client.uncancel(job_id)
    assert not await rig.client.uncancel(job_id)
    await rig.client.put([(job_id, payload)])
    assert await rig.state(job_id) == "waiting"
    assert (await run(rig.a)).payload == payload


async def test_a_cancellation_is_taken_back_of_a_job_that_waits(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    before = await rig.client.record(job_id)
    assert await rig.client.cancel(job_id) == "will_be_cancelled"
    assert await rig.client.uncancel(job_id)
    assert await rig.client.record(job_id) == before
    assert name_of(await run(rig.a)) == "1"


async def test_a_cancellation_that_was_carried_out_is_not_taken_back(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await claim(rig.a)
    await rig.a.bind(lease, decoded(lease))
    assert not await rig.client.uncancel(job_id), "nobody has asked for it"
    assert await rig.client.cancel(job_id) == "cancelled"
    assert not await rig.client.uncancel(job_id)
    assert await rig.state(job_id) == "cancelled"
    with pytest.raises(BadInputError):
        await rig.client.uncancel("a b")


async def test_without_records_a_cancellation_holds_all_the_same(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(result_ttl=0)
    (job_id,) = await rig.put("1")
    assert await rig.client.cancel(job_id) == "unknown"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    assert await rig.client.record(job_id) == {}


@pytest.mark.parametrize("job_id", NO_IDS)
async def test_what_no_job_can_be_called_is_refused(rig: Rig, job_id: str) -> None:
    with pytest.raises(BadInputError) as refused:
        await rig.client.cancel(job_id)
    assert refused.value.code == "bad_job_id"
    with pytest.raises(BadInputError):
        await rig.client.put([rig.job("1"), (job_id, b"{}")])
    assert (await rig.client.depth()).waiting == 0, "nothing is put where an id is wrong"
    assert (await rig.client.record(job_id), await rig.client.result(job_id)) == ({}, None)


async def test_a_job_that_is_known_may_be_folded(rig: Rig) -> None:
    jobs = [rig.job(str(number)) for number in range(5)]
    assert await rig.client.put(jobs[:4], fold=True) == [True] * 4
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    assert await rig.a.settle(await run(rig.a), Released("overload", delay=60))
    assert await rig.client.put(jobs, fold=True) == [False, True, False, False, True]
    assert (await rig.client.depth()).waiting == 3
    assert await rig.client.put(jobs[3:4]) == [True], "only where it is asked for"


async def test_a_replayed_job_is_cancelled_at_once(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    (letter,) = await rig.letters()
    assert await rig.client.replay(letter.id)
    assert await rig.client.cancel(job_id) == "cancelled"
    assert (await rig.client.depth()).waiting == 0


@pytest.mark.parametrize("delay", [0.0, 60.0])
async def test_a_job_that_went_back_is_cancelled_at_once(rig: Rig, delay: float) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), Released("overload", delay=delay))
    assert await rig.client.cancel(job_id) == "cancelled"
    assert await rig.state(job_id) == "cancelled"
    depth = await rig.client.depth()
    assert (depth.waiting, depth.running, depth.delayed, depth.dead) == (0, 0, 0, 0)


async def test_a_running_job_is_cancelled_at_once_and_its_worker_told(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease, told = await run(rig.a), asyncio.Event()
    lease.on_lost = told.set
    assert await rig.client.cancel(job_id) == "cancelled"
    assert await rig.state(job_id) == "cancelled"
    assert (await rig.client.depth()).running == 0
    async with rig.beating(rig.a), asyncio.timeout(PATIENCE):
        await told.wait()
    assert lease.lost == "gone"
    assert not await rig.a.settle(lease, ANSWER)
    assert await rig.client.result(job_id) is None
    assert await rig.state(job_id) == "cancelled"


@pytest.mark.parametrize("end", [ANSWER, Failed("refused", "")])
async def test_a_finished_job_cannot_be_cancelled(rig: Rig, end: Succeeded | Failed) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), end)
    record = await rig.client.record(job_id)
    assert await rig.client.cancel(job_id) == "finished"
    assert await rig.client.record(job_id) == record


async def test_a_cancelled_job_cannot_be_cancelled_again_but_put_again(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    await run(rig.a)
    assert await rig.client.cancel(job_id) == "cancelled"
    assert await rig.client.cancel(job_id) == "finished"
    await rig.put("1")
    await run(rig.a)
