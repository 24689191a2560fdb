"""What holds jobs back: a limit, budgets and pauses, for all workers of a queue together."""

from greenscale_worker.job import Released
from greenscale_worker.testing.rig import ANSWER, Rig, run


async def test_flow_counts_what_the_autoscaler_needs_to_know(rig: Rig) -> None:
    empty = await rig.client.flow()
    assert (empty.waiting, empty.open, empty.in_flight, empty.held, empty.due_seconds) == (0, 0, 0, "", None)
    assert (empty.limit, empty.requests, empty.tokens, empty.room) == (None, None, None, None)
    await rig.put("runs", "later", "done", "waits")
    runs, later, done = [await run(rig.a) for _ in range(3)]
    assert await rig.a.settle(later, Released("overload", delay=60))
    assert await rig.a.settle(done, ANSWER)
    await rig.a.beat()
    flow = await rig.client.flow()
    assert (flow.waiting, flow.open, flow.in_flight, flow.work()) == (1, 2, 1, 3)
    assert flow.workers >= 1
    assert flow.due_seconds is not None
    assert 0 < flow.due_seconds <= 60
    assert flow.work(60.0) == 4
    await rig.client.pause()
    paused = await rig.client.flow()
    assert (paused.paused, paused.scaled_to_zero, paused.held, paused.room, paused.work()) == (
        True,
        False,
        "paused",
        1,
        1,
    )
    assert await rig.a.settle(runs, ANSWER)
