"""Which workers are alive, whose leases go on, and what happens to the jobs of dead workers."""

import asyncio
from collections.abc import Awaitable, Callable

from greenscale_worker.job import Failed, Output, Released, Succeeded
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, claim, gets_nothing, lanes, name_of, run, until


async def test_a_heartbeat_keeps_all_leases(short: Rig) -> None:
    await short.put("1", "2", "3")
    leases = [await run(short.a) for _ in range(3)]
    async with short.beating(short.a, short.b), lanes(short.b) as (lane,):
        await asyncio.wait({lane}, timeout=2 * 5 * short.heartbeat)
        assert not lane.done()
        assert [lease.lost for lease in leases] == [None, None, None]
        for lease in leases:
            assert await short.a.settle(lease, ANSWER)


async def test_the_jobs_of_a_dead_worker_go_to_the_head_and_count_as_crashes(short: Rig) -> None:
    job_ids = await short.put("1", "2", "3")
    dead = [await run(short.a) for _ in range(2)]
    async with short.beating(short.b):
        assert name_of(await claim(short.b)) == "3"
        again = [await run(short.b) for _ in range(2)]
        assert [lease.id for lease in again] == [lease.id for lease in dead]
        assert {(lease.tries, lease.crashes, lease.attempts) for lease in again} == {(0, 1, 1)}
        assert [lease.first_claimed_at for lease in again] == [lease.first_claimed_at for lease in dead]
        assert (await short.client.record(job_ids[0]))["crashes"] == "1"


async def test_a_live_worker_does_not_shelter_the_leases_of_a_dead_one(short: Rig) -> None:
    await short.put("1", "2")
    live = await run(short.a)
    await run(await short.opener())
    async with short.beating(short.a, short.b):
        assert name_of(await claim(short.b)) == "2"
        assert live.lost is None


async def test_a_zombie_cannot_answer_what_failed_with_another(short: Rig) -> None:
    (job_id,) = await short.put("1")
    old = await run(short.a)
    async with short.beating(short.b):
        assert await short.b.settle(await run(short.b), Failed("refused", ""))
    assert not await short.a.settle(old, ANSWER)
    assert await short.state(job_id) == "failed"
    assert len(await short.letters()) == 1


async def test_the_outcome_of_a_zombie_is_refused(short: Rig) -> None:
    (job_id,) = await short.put("1")
    old = await run(short.a)
    async with short.beating(short.b):
        new = await run(short.b)
        assert not await short.a.settle(old, Released("drain"))
        assert not await short.a.settle(old, Failed("timeout", ""))
        assert await short.b.settle(new, ANSWER)
    assert not await short.a.settle(old, Succeeded(Output("5")))
    assert await short.client.result(job_id) == b"4"
    assert await short.letters() == []


async def test_a_worker_is_told_of_each_lease_that_another_took(short: Rig) -> None:
    await short.put("1", "2")
    old, told = [await run(short.a) for _ in range(2)], []
    for lease in old:
        lease.on_lost = lambda lease=lease: told.append((name_of(lease), lease.lost))
    async with short.beating(short.b):
        for _ in range(2):
            await run(short.b)
    await short.a.beat()
    await short.a.beat()
    assert sorted(told) == [("1", "taken"), ("2", "taken")]


async def test_a_finished_answer_wins_as_long_as_nobody_took_the_job(short: Rig) -> None:
    (job_id,) = await short.put("1")
    lease = await run(short.a)

    async def reaped() -> bool:
        return (await short.client.depth()).running == 0

    async with short.beating(short.b):
        await until(reaped)
        assert not await short.a.settle(lease, Released("drain"))
        assert await short.a.settle(lease, ANSWER)
        assert await short.client.result(job_id) == b"4"
        assert (await short.client.depth()).waiting == 0


async def test_a_worker_runs_one_suspect_at_a_time_and_others_beside_it(short: Rig) -> None:
    await short.put("1", "2", "3")
    await short.crash(2, jobs=3)
    await short.put("4")
    for lease in [await claim(short.b), await claim(short.b)]:
        assert await short.b.settle(lease, Released("drain"))
    worker = await short.opener()
    async with short.beating(worker, short.b):
        first, second = await claim(worker), await claim(worker)
        assert [(name_of(lease), lease.crashes) for lease in (first, second)] == [("1", 2), ("4", 0)]
        async with lanes(worker) as (lane,):
            await gets_nothing(lane)
            assert name_of(await claim(short.b)) == "2"
            assert await worker.settle(first, Failed("crashed", ""))
            async with asyncio.timeout(PATIENCE):
                assert name_of(await lane) == "3"


async def test_a_job_that_kills_is_handed_out_to_be_buried_by_a_worker(
    open_rig: Callable[..., Awaitable[Rig]],
) -> None:
    rig = await open_rig(short=True, max_crashes=1)
    (job_id,) = await rig.put("1")
    await rig.crash(2, jobs=1)
    assert await rig.letters() == []
    async with rig.beating(rig.b):
        lease = await claim(rig.b)
        assert lease.crashes == 2
        lease.job_id = job_id
        assert await rig.b.settle(lease, Failed("crashed", "its lease expired 2 times"))
    (letter,) = await rig.letters()
    assert (letter.code, letter.job_id, letter.crashes) == ("crashed", job_id, 2)
    assert await rig.state(job_id) == "failed"


async def test_a_job_that_kills_even_its_undertakers_is_buried_by_the_queue(
    open_rig: Callable[..., Awaitable[Rig]],
) -> None:
    rig = await open_rig(short=True, max_crashes=1)
    _, payload = rig.job("1")
    await rig.put("1")
    await rig.crash(3, jobs=1)
    (letter,) = await rig.letters()
    assert (letter.code, letter.crashes, letter.payload) == ("crashed", 3, payload)
    depth = await rig.client.depth()
    assert (depth.waiting, depth.running, depth.delayed, depth.dead) == (0, 0, 0, 1)


async def test_live_workers_are_listed(rig: Rig) -> None:
    await rig.a.beat()
    await rig.b.beat()
    workers = await rig.client.workers()
    assert len({worker.name for worker in workers}) == 2
    assert all(0 <= worker.beat_seconds < PATIENCE for worker in workers)
    await rig.a.aclose()
    assert len(await rig.client.workers()) == 1


async def test_dead_workers_are_not_listed_for_long(short: Rig) -> None:
    await short.a.beat()

    async def alone() -> bool:
        await short.b.beat()
        return len(await short.client.workers()) == 1

    assert not await alone()
    await until(alone)


async def test_a_worker_says_how_many_lanes_it_has_until_it_says_so_no_more(short: Rig) -> None:
    async def lanes() -> list[int | None]:
        return sorted((worker.lanes for worker in await short.client.workers()), key=str)

    await short.a.beat(lanes=16)
    await short.b.beat("the endpoint is away")
    assert await lanes() == [16, None], "of the version before, or a queue that is not told"
    await short.a.beat("the endpoint is away", lanes=4)
    assert await lanes() == [4, None]

    async def forgotten() -> bool:
        await short.a.beat()
        return await lanes() == [None, None]

    async with short.beating(short.b):
        await until(forgotten)


async def test_a_worker_that_has_left_has_no_lanes(rig: Rig) -> None:
    await rig.a.beat(lanes=16)
    await rig.b.beat(lanes=2)
    await rig.a.aclose()
    assert [worker.lanes for worker in await rig.client.workers()] == [2]


async def test_a_worker_says_why_it_sends_nothing_until_it_sends_again_or_is_gone(rig: Rig) -> None:
    async def whys() -> list[str | None]:
        return sorted((worker.why for worker in await rig.client.workers()), key=str)

    await rig.b.beat()
    await rig.a.beat("the endpoint asked for 9 s more: é")
    assert await whys() == [None, "the endpoint asked for 9 s more: é"]
    await rig.a.beat("it is gone")
    assert await whys() == [None, "it is gone"]
    await rig.a.beat()
    assert await whys() == [None, None]
    await rig.a.beat("it is ill")
    await rig.a.aclose()
    assert await whys() == [None]
