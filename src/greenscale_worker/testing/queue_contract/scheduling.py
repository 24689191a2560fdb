"""Jobs that are due later."""

import time

import pytest

from greenscale_worker.queues import JobFilter
from greenscale_worker.testing.rig import ANSWER, Rig, claim, decoded, gets_nothing, lanes, name_of, run, soon, until


async def test_a_job_that_is_not_due_is_scheduled_and_nobody_gets_it(rig: Rig) -> None:
    job, due = rig.job("1"), time.time() + 60
    assert await rig.client.put([job], not_before=due) == [True]
    record = await rig.client.record(job[0])
    assert record["state"] == "scheduled"
    assert abs(int(record["due_ms"]) / 1000 - due) <= 0.001
    depth = await rig.client.depth()
    assert (depth.scheduled, depth.waiting) == (1, 0)
    (found,) = [each async for each in rig.client.jobs(JobFilter(state="scheduled"))]
    assert (found.job_id, found.state) == (job[0], "scheduled")
    assert abs((found.due_at or 0) - due) <= 0.001
    assert found.submitted_at is not None
    assert await rig.client.promote() == 0
    async with lanes(rig.a) as (lane,):
        await rig.a.beat()
        await gets_nothing(lane)


async def test_a_job_that_was_due_before_it_is_put_waits_at_once(rig: Rig) -> None:
    assert await rig.client.put([rig.job("1")], not_before=time.time() - 60) == [True]
    assert name_of(await run(rig.a)) == "1"


async def test_jobs_that_have_become_due_are_put_into_their_class(rig: Rig) -> None:
    due, jobs = soon(), [rig.job(f"interactive-{number}") for number in range(150)]
    await rig.client.put([rig.job("background")], not_before=due, job_class="background")
    await rig.client.put(jobs, not_before=due, job_class="interactive")
    await rig.promoted(151)
    depth = await rig.client.depth()
    assert (depth.scheduled, depth.interactive, depth.background) == (0, 150, 1)
    record = await rig.client.record(jobs[0][0])
    assert record["state"] == "waiting"
    assert record.keys() == {"state", "submitted_ms", "class"}
    assert name_of(await run(rig.a)).startswith("interactive")


async def test_a_heartbeat_promotes_what_is_due(rig: Rig) -> None:
    jobs = [rig.job(str(number)) for number in range(150)]
    await rig.client.put(jobs, not_before=soon())
    assert (await rig.client.depth()).scheduled == 150

    async def all_are() -> bool:
        await rig.a.beat()
        return (await rig.client.depth()).scheduled == 0

    await until(all_are)
    assert (await rig.client.depth()).waiting == 150
    assert {await rig.state(job_id) for job_id, _ in jobs} == {"waiting"}


@pytest.mark.parametrize("job_class", ["standard", "background"])
async def test_a_waiting_lane_gets_a_job_when_it_is_due(short: Rig, job_class: str) -> None:
    async with lanes(short.a) as (lane,), short.beating(short.a):
        await short.client.put([short.job("1")], not_before=soon(), job_class=job_class)  # type: ignore[arg-type]
        assert name_of(await lane) == "1"


async def test_a_scheduled_job_is_cancelled_at_once(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    await rig.client.put([(job_id, payload)], not_before=time.time() + 60)
    assert await rig.client.cancel(job_id) == "cancelled"
    record = await rig.client.record(job_id)
    assert (record["state"], "due_ms" in record) == ("cancelled", False)
    assert (await rig.client.depth()).scheduled == 0
    assert await rig.client.cancel(job_id) == "finished"
    assert not await rig.client.uncancel(job_id)
    assert [job.state async for job in rig.client.jobs()] == ["cancelled"]


async def test_a_scheduled_job_that_was_cancelled_before_it_was_put_is_cancelled_when_it_comes_up(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    assert await rig.client.cancel(job_id) == "unknown"
    await rig.client.put([(job_id, payload)], not_before=soon())
    await rig.promoted(1)
    assert await rig.state(job_id) == "cancelling"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"


async def test_an_id_is_scheduled_once(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    later = time.time() + 60
    assert await rig.client.put([(job_id, payload), (job_id, b"{}")], not_before=later) == [True, False]
    assert await rig.client.put([(job_id, payload)], not_before=later) == [False]
    assert await rig.client.put([(job_id, payload)], fold=True) == [False]
    assert await rig.client.put([(job_id, payload)], once=True) == [False]
    assert (await rig.client.depth()).scheduled == 1
    assert await rig.client.put([(job_id, payload)]) == [True], "only where it is asked for"


async def test_a_scheduled_job_leaves_the_record_of_one_that_runs_alone(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await rig.client.put([rig.job("1")], not_before=soon()) == [True]
    assert await rig.state(job_id) == "running"
    await rig.promoted(1)
    assert await rig.state(job_id) == "running"
    assert await rig.a.settle(lease, ANSWER)
    assert name_of(await run(rig.a)) == "1"


async def test_one_who_cancels_a_job_that_runs_and_is_scheduled_cancels_both(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    await rig.client.put([rig.job("1")], not_before=time.time() + 60)
    assert await rig.client.cancel(job_id) == "cancelled"
    assert not await rig.a.settle(lease, ANSWER)
    depth = await rig.client.depth()
    assert (depth.running, depth.scheduled) == (0, 0)


@pytest.mark.parametrize("never", [float("inf"), float("nan")])
async def test_a_time_that_never_comes_is_refused(rig: Rig, never: float) -> None:
    with pytest.raises(ValueError, match="not_before"):
        await rig.client.put([rig.job("1")], not_before=never)
