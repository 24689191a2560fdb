"""How jobs are cancelled, wherever they are."""

import asyncio

import pytest

from greenscale_worker.job import Failed, Released, Succeeded
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, claim, decoded, name_of, run


async def test_a_waiting_job_is_cancelled_when_it_comes_up(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "2")
    assert await rig.admin.cancel(job_id) == "will_be_cancelled"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    record = await rig.admin.record(job_id)
    assert record["state"] == "cancelled"
    assert int(record["finished_ms"]) >= int(lease.claimed_at * 1000)
    assert not await rig.a.settle(lease, ANSWER)
    assert (await rig.admin.depth()).running == 0
    assert name_of(await run(rig.a)) == "2"


async def test_a_cancellation_is_used_up(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "1")
    assert await rig.admin.cancel(job_id) == "will_be_cancelled"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    await run(rig.a)


async def test_a_job_can_be_cancelled_before_it_is_put(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    assert await rig.admin.cancel(job_id) == "will_be_cancelled"
    await rig.admin.put([(job_id, payload)])
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"


@pytest.mark.parametrize("delay", [0.0, 60.0])
async def test_a_job_that_went_back_is_cancelled_at_once(rig: Rig, delay: float) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), Released("overload", delay=delay))
    assert await rig.admin.cancel(job_id) == "cancelled"
    assert await rig.state(job_id) == "cancelled"
    depth = await rig.admin.depth()
    assert (depth.waiting, depth.running, depth.delayed, depth.dead) == (0, 0, 0, 0)


async def test_a_running_job_is_cancelled_at_once_and_its_worker_told(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease, told = await run(rig.a), asyncio.Event()
    lease.on_lost = told.set
    assert await rig.admin.cancel(job_id) == "cancelled"
    assert await rig.state(job_id) == "cancelled"
    assert (await rig.admin.depth()).running == 0
    async with rig.beating(rig.a), asyncio.timeout(PATIENCE):
        await told.wait()
    assert lease.lost == "gone"
    assert not await rig.a.settle(lease, ANSWER)
    assert await rig.admin.result(job_id) is None
    assert await rig.state(job_id) == "cancelled"


@pytest.mark.parametrize("end", [ANSWER, Failed("refused", "")])
async def test_a_finished_job_cannot_be_cancelled(rig: Rig, end: Succeeded | Failed) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), end)
    record = await rig.admin.record(job_id)
    assert await rig.admin.cancel(job_id) == "finished"
    assert await rig.admin.record(job_id) == record


async def test_a_cancelled_job_cannot_be_cancelled_again_but_put_again(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    await run(rig.a)
    assert await rig.admin.cancel(job_id) == "cancelled"
    assert await rig.admin.cancel(job_id) == "finished"
    await rig.put("1")
    await run(rig.a)
