"""What a pause holds back, and what is counted."""

import asyncio

from greenscale_worker.job import Failed, Released
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, gets_nothing, lanes, name_of, run


async def test_a_paused_queue_hands_out_nothing_and_lets_what_runs_go_on(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    await rig.client.pause()
    assert (await rig.client.depth()).paused
    async with lanes(rig.a) as ours, lanes(rig.b) as theirs:
        await rig.put("2", "3")
        await gets_nothing(*ours, *theirs)
        await rig.a.beat()
        assert lease.lost is None
        assert await rig.a.settle(lease, ANSWER)
        assert await rig.state(job_id) == "succeeded"
        await rig.client.resume()
        async with asyncio.timeout(PATIENCE):
            assert {name_of(await lane) for lane in (*ours, *theirs)} == {"2", "3"}
    assert not (await rig.client.depth()).paused


async def test_the_depth_counts_every_job_in_one_place(rig: Rig) -> None:
    empty = await rig.client.depth()
    assert (empty.waiting, empty.running, empty.delayed, empty.dead) == (0, 0, 0, 0)
    assert (empty.oldest_seconds, empty.paused) == (None, False)
    await rig.put("run", "later", "fail", "back", "wait", "wait-too")
    leases = [await run(rig.a) for _ in range(4)]
    assert await rig.a.settle(leases[1], Released("overload", delay=60))
    assert await rig.a.settle(leases[2], Failed("refused", ""))
    assert await rig.a.settle(leases[3], Released("drain"))
    depth = await rig.client.depth()
    assert (depth.waiting, depth.running, depth.delayed, depth.dead) == (3, 1, 1, 1)
    assert depth.oldest_seconds is not None
    assert 0 <= depth.oldest_seconds < PATIENCE
