"""How jobs go back to the queue, and when they come again."""

import asyncio
import random
import time

from greenscale_worker.job import DRAIN, SNOOZED, Failed, Failure, Released
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, claim, failure, gets_nothing, lanes, name_of, run


async def test_a_released_job_goes_to_the_head_uncounted(rig: Rig) -> None:
    await rig.put("1", "2")
    first = await run(rig.a)
    assert await rig.a.settle(first, Released("drain"))
    again = await run(rig.b)
    assert (again.id, again.tries, again.crashes, again.attempts) == (first.id, 0, 0, 1)
    assert again.token != first.token
    assert again.first_claimed_at == first.first_claimed_at
    assert again.claimed_at >= first.claimed_at


async def test_a_snooze_forgives_crashes(short: Rig) -> None:
    await short.put("1")
    await short.crash(1, jobs=1)
    lease = await run(short.a)
    assert lease.crashes == 1
    assert await short.a.settle(lease, Released("drain"))
    lease = await run(short.a)
    assert lease.crashes == 1
    assert await short.a.settle(lease, Released(SNOOZED))
    assert (await run(short.b)).crashes == 0


async def test_drains_that_cut_a_job_off_are_counted_in_its_record(rig: Rig) -> None:
    """And no other release is."""
    (job_id,) = await rig.put("1")
    for drains in (1, 2):
        lease = await run(rig.a)
        assert await rig.a.settle(lease, Released(DRAIN))
        assert lease.drains == drains
        assert await rig.a.settle(await run(rig.a), Released("overload"))
    lease = await run(rig.b)
    assert await rig.b.settle(lease, ANSWER)
    record = await rig.client.record(job_id)
    assert (record["state"], record["attempts"], record["drains"]) == ("succeeded", "1", "2")


async def test_released_jobs_keep_their_old_order_before_fresh_ones(rig: Rig) -> None:
    await rig.put(*(str(number) for number in range(8)))
    leases = [await run(rig.a) for _ in range(6)]
    random.Random(3).shuffle(leases)
    for lease in leases:
        assert await rig.a.settle(lease, Released("drain"))
    assert [name_of(await claim(rig.b)) for _ in range(8)] == [str(number) for number in range(8)]


async def test_a_release_wakes_a_lane_of_another_worker(rig: Rig) -> None:
    await rig.put("1")
    lease = await run(rig.a)
    async with lanes(rig.b) as (lane,):
        await gets_nothing(lane)
        assert await rig.a.settle(lease, Released("drain"))
        async with asyncio.timeout(PATIENCE):
            assert (await lane).id == lease.id


async def test_a_delayed_job_comes_back_when_it_is_due_and_others_pass(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "2")
    lease = await run(rig.a)
    before = time.time()
    assert await rig.a.retry(lease, Failure(code="overload", message="too much", delay=0.4)) == "delayed"
    record = await rig.client.record(job_id)
    assert (record["state"], record["error_code"], record["error_message"]) == ("delayed", "overload", "too much")
    due = int(record["due_ms"]) / 1000
    assert before + 0.35 < due < time.time() + 0.45
    assert (await rig.client.depth()).delayed == 1
    assert name_of(await claim(rig.a)) == "2"
    again = await claim(rig.b)
    assert again.claimed_at >= due - 0.002
    assert (again.id, again.tries, again.crashes) == (lease.id, 1, 0)
    assert again.first_claimed_at == lease.first_claimed_at
    assert (await rig.client.depth()).delayed == 0


async def test_delayed_jobs_come_back_in_the_order_in_which_they_are_due(rig: Rig) -> None:
    await rig.put("1", "2")
    first, second = await run(rig.a), await run(rig.a)
    async with lanes(rig.b, 2) as waiting:
        await gets_nothing(*waiting)
        assert await rig.a.settle(first, Released("overload", delay=0.5))
        assert await rig.a.settle(second, Released("overload", delay=0.1))
        async with asyncio.timeout(PATIENCE):
            leases = await asyncio.gather(*waiting)
    assert [name_of(lease) for lease in sorted(leases, key=lambda lease: lease.claimed_at)] == ["2", "1"]


async def test_tries_are_counted_in_parts_and_runs_are_shown_as_attempts(rig: Rig) -> None:
    job_id = await rig.put_in_company("1")
    for runs in range(3):
        lease = await run(rig.a)
        record = await rig.client.record(job_id)
        assert (lease.tries, lease.runs, lease.attempts) == (runs * 0.25, runs, runs + 1)
        assert record["attempts"] == str(runs + 1)
        assert await rig.a.retry(lease, failure(used=0.25)) == "delayed"
    lease = await run(rig.a)
    assert await rig.a.settle(lease, Failed("refusal", ""))
    assert (await rig.client.record(job_id))["attempts"] == "4"
    (letter,) = await rig.letters()
    assert (letter.attempts, letter.crashes) == (4, 0)


async def test_a_record_tells_of_the_present_run_only(rig: Rig) -> None:
    job_id = await rig.put_in_company("1")
    submitted = (await rig.client.record(job_id))["submitted_ms"]
    assert await rig.a.retry(await run(rig.a), failure()) == "delayed"
    lease = await run(rig.a)
    record = await rig.client.record(job_id)
    assert not {"due_ms", "error_code", "error_message"} & set(record)
    assert await rig.a.settle(lease, ANSWER)
    record = await rig.client.record(job_id)
    assert not {"due_ms", "error_code", "error_message"} & set(record)
    assert record["submitted_ms"] == submitted


async def test_an_answer_after_a_release_withdraws_the_redelivery(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await rig.a.settle(lease, Released("drain"))
    assert await rig.a.settle(lease, ANSWER)
    assert await rig.state(job_id) == "succeeded"
    assert (await rig.client.depth()).waiting == 0


async def test_a_failure_counts_once(rig: Rig) -> None:
    await rig.put_in_company("1")
    lease = await run(rig.a)
    assert await rig.a.retry(lease, failure()) == "delayed"
    assert await rig.a.retry(lease, failure()) == "stale"
    assert (await claim(rig.a)).tries == 1
