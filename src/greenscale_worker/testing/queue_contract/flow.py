"""What holds jobs back: a limit, budgets and pauses, for all workers of a queue together."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

import pytest

from greenscale_worker.job import Output, Rates, Released, Succeeded, Usage
from greenscale_worker.queues import Lease, Observed
from greenscale_worker.testing.rig import (
    ANSWER,
    PATIENCE,
    Rig,
    claim,
    decoded,
    failure,
    gets_nothing,
    lanes,
    name_of,
    run,
)

OpenRig = Callable[..., Awaitable[Rig]]
SLOW: Final = 600.0  # a lease of which a heartbeat comes after any test


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


async def test_all_workers_together_run_no_more_than_the_limit(open_rig: OpenRig) -> None:
    rig = await open_rig(limit=3, lease=SLOW)
    await rig.put(*"123456")
    async with lanes(rig.a, 2) as ours, lanes(rig.b, 2) as theirs:
        ran = await first(3, *ours, *theirs)
        waiting = [lane for lane in (*ours, *theirs) if not lane.done()]
        await gets_nothing(*waiting)
        flow = await rig.client.flow()
        assert (flow.limit, flow.in_flight, flow.held, flow.room, flow.work()) == (3, 3, "limit", 3, 3)
        assert sorted(map(name_of, ran)) == ["1", "2", "3"]


@pytest.mark.parametrize("how", ["settled", "released", "retried", "cancelled"])
async def test_room_that_a_worker_makes_it_uses_at_once(open_rig: OpenRig, how: str) -> None:
    """Heartbeats are so far apart that none helps."""
    rig = await open_rig(limit=1, lease=SLOW)
    first_id, _ = await rig.put("1", "2")
    lease = await run(rig.a)
    async with lanes(rig.a) as ours:
        await gets_nothing(*ours)
        if how == "settled":
            assert await rig.a.settle(lease, ANSWER)
        elif how == "released":
            assert await rig.a.settle(lease, Released("overload", delay=60))
        elif how == "retried":
            assert await rig.a.retry(lease, failure(delay=60.0)) == "delayed"
        else:
            assert await rig.client.cancel(first_id) == "cancelled"
        async with asyncio.timeout(PATIENCE):
            assert name_of(await ours[0]) == "2"


async def test_room_that_a_worker_makes_as_it_leaves_is_used_by_another_at_once(open_rig: OpenRig) -> None:
    rig = await open_rig(limit=1, lease=SLOW)
    await rig.put("1", "2")
    lease = await run(rig.a)
    async with lanes(rig.b) as theirs:
        await gets_nothing(*theirs)
        assert await rig.a.settle(lease, Released("drain"))
        await rig.a.aclose()
        async with asyncio.timeout(PATIENCE):
            assert name_of(await theirs[0]) == "1"


async def test_room_that_a_dead_worker_leaves_is_used(open_rig: OpenRig) -> None:
    rig = await open_rig(limit=2, short=True)
    await rig.put("1", "2", "3")
    await rig.crash(1, jobs=2)
    async with rig.beating(rig.a), lanes(rig.a, 3) as ours:
        assert {name_of(lease) for lease in await first(2, *ours)} == {"1", "2"}


async def test_jobs_in_the_background_leave_three_tenths_of_the_limit_to_others(open_rig: OpenRig) -> None:
    rig = await open_rig(limit=10, lease=SLOW)
    await rig.client.put([rig.job(str(n)) for n in range(12)], job_class="background")
    async with lanes(rig.a, 12) as ours:
        await first(7, *ours)
        await gets_nothing(*(lane for lane in ours if not lane.done()))
        await rig.put("others", "too", "all", "last")
        ran = await first(10, *ours)
        assert len({"others", "too", "all"} & {name_of(lease) for lease in ran}) == 3


async def test_a_limit_of_one_runs_jobs_in_the_background(open_rig: OpenRig) -> None:
    rig = await open_rig(limit=1)
    await rig.client.put([rig.job("1")], job_class="background")
    assert name_of(await run(rig.a)) == "1"


async def test_requests_are_spread_over_the_minute(open_rig: OpenRig) -> None:
    rig = await open_rig(requests_per_minute=120)
    await rig.put("1", "2")
    async with lanes(rig.a) as ours, lanes(rig.b) as theirs:
        await first(1, *ours, *theirs)
        flow = await rig.client.flow()
        assert (flow.requests, flow.held) == (120, "requests")
        assert 0 < flow.held_seconds <= 0.51
        assert {name_of(lease) for lease in await first(2, *ours, *theirs)} == {"1", "2"}


@pytest.mark.parametrize("sent", [False, True])
async def test_only_a_job_that_made_no_call_gives_its_request_back(open_rig: OpenRig, *, sent: bool) -> None:
    rig = await open_rig(requests_per_minute=2, tokens_per_minute=60)
    await rig.put("1", "2")
    lease = await run(rig.a)
    assert lease.charged is not None
    assert 0 < lease.charged - lease.estimated <= len(lease.payload), "for its bytes, as they are stored"
    if sent:
        lease.began = monotonic()
    assert await rig.a.settle(lease, Released("drain"))
    async with lanes(rig.b) as theirs:
        if sent:
            await gets_nothing(*theirs)
        else:
            async with asyncio.timeout(PATIENCE):
                assert name_of(await theirs[0]) == "1"


async def test_tokens_are_charged_before_the_call_and_put_right_after_it(open_rig: OpenRig) -> None:
    """A job may take the budget into debt; what it did not cost comes back with its answer."""
    rig = await open_rig(tokens_per_minute=60)
    await rig.put("1", "2")
    lease = await run(rig.a)
    assert lease.charged is not None
    assert lease.charged > 100
    async with lanes(rig.a) as ours:
        await gets_nothing(*ours)
        flow = await rig.client.flow()
        assert (flow.tokens, flow.held) == (60, "tokens")
        assert flow.held_seconds > PATIENCE
        lease.began = monotonic()
        lease.call_seconds = 0.5
        assert await rig.a.settle(lease, Succeeded(Output("4", usage=Usage(1, 1, 2))))
        async with asyncio.timeout(PATIENCE):
            assert name_of(await ours[0]) == "2"
    assert (await rig.client.flow()).call_seconds == pytest.approx(0.5)


async def test_a_job_that_limits_its_answer_is_charged_no_more_than_that(open_rig: OpenRig) -> None:
    rig = await open_rig(tokens_per_minute=60)
    await rig.client.put([rig.job("1", max_tokens=5)])
    lease = await claim(rig.a)
    assert lease.estimated > 5
    assert lease.charged is not None
    of_prompt = lease.charged - lease.estimated
    assert await rig.a.bind(lease, decoded(lease)) == "run"
    assert (lease.estimated, lease.charged) == (5, of_prompt + 5)
    flow = await rig.client.flow()
    await rig.put("2")
    assert flow.held_seconds < PATIENCE * 4


async def test_headers_lower_the_budget(open_rig: OpenRig) -> None:
    rig = await open_rig(requests_per_minute=6_000_000)
    await rig.put("1", "2", "3")
    lease = await run(rig.a)
    rates = Rates(limit_requests=1, remaining_requests=1)
    assert await rig.a.settle(lease, Succeeded(Output("4", rates=rates)))
    await run(rig.a)
    async with lanes(rig.b) as theirs:
        await gets_nothing(*theirs)
        assert (await rig.client.flow()).held == "requests"


async def test_what_the_endpoint_asks_of_one_worker_holds_all(open_rig: OpenRig) -> None:
    rig = await open_rig()
    await rig.put("1", "2", "3")
    lease = await run(rig.a)
    assert await rig.a.retry(lease, failure("endpoint", hold=60.0, delay=60.0)) == "delayed"
    async with lanes(rig.a) as ours, lanes(rig.b) as theirs:
        await gets_nothing(*ours, *theirs)
        flow = await rig.client.flow()
        assert flow.held == "pause"
        assert 0 < flow.held_seconds <= 60


async def test_after_a_pause_the_fleet_begins_with_one_call_and_doubles(open_rig: OpenRig) -> None:
    rig = await open_rig(lease=SLOW)
    await rig.put(*"123456789")
    ran = [await run(rig.a) for _ in range(4)]
    assert await rig.a.retry(ran[0], failure("endpoint", hold=0.3, delay=60.0)) == "delayed"
    for lease in ran[1:]:
        assert await rig.a.settle(lease, ANSWER)
    async with lanes(rig.a, 5) as ours:
        (probe,) = await first(1, *ours)
        await gets_nothing(*(lane for lane in ours if not lane.done()))
        assert await rig.a.settle(probe, ANSWER)
        two = await first(3, *ours)
        await gets_nothing(*(lane for lane in ours if not lane.done()))
        for lease in two:
            await rig.a.settle(lease, ANSWER)
        await first(5, *ours)


async def test_one_probe_is_out_for_the_whole_fleet(open_rig: OpenRig) -> None:
    rig = await open_rig(lease=SLOW)
    await rig.put("1", "2", "3")
    lease = await rig.a.lease(probe=True)
    waiting = asyncio.create_task(rig.b.lease(probe=True))
    await gets_nothing(waiting)
    assert await rig.a.retry(lease, failure("endpoint", delay=60.0)) == "delayed"
    async with asyncio.timeout(PATIENCE):
        assert name_of(await waiting) == "2"


async def test_a_dead_prober_delays_nobody_for_more_than_a_lease(open_rig: OpenRig) -> None:
    rig = await open_rig(short=True)
    await rig.put("1", "2")
    victim = await rig.opener()
    await victim.lease(probe=True)
    async with rig.beating(rig.b), asyncio.timeout(PATIENCE):
        await rig.b.lease(probe=True)


async def test_a_queue_is_shut_once_the_breakers_of_all_its_workers_are_open(rig: Rig) -> None:
    await rig.put("1")
    await rig.a.beat("down", lanes=4, shut=True)
    await rig.b.beat()
    assert not (await rig.client.flow()).shut
    await rig.b.beat("down", lanes=4, shut=True)
    await rig.a.beat("down", lanes=4, shut=True)
    flow = await rig.client.flow()
    assert (flow.shut, flow.held, flow.room) == (True, "breaker", 1)
    await rig.a.beat(lanes=4)
    assert not (await rig.client.flow()).shut


async def test_a_queue_that_is_scaled_to_zero_needs_no_worker(rig: Rig) -> None:
    await rig.put("1")
    await rig.client.pause(scale_to_zero=True)
    flow = await rig.client.flow()
    assert (flow.paused, flow.scaled_to_zero, flow.room, flow.work()) == (True, True, 0, 0)
    await rig.client.resume()
    flow = await rig.client.flow()
    assert (flow.paused, flow.scaled_to_zero, flow.room, flow.work()) == (False, False, None, 1)


async def test_one_worker_looks_at_the_engine_for_all(open_rig: OpenRig) -> None:
    rig = await open_rig(limit="engine")
    assert await rig.a.observe(60.0) == Observed(None, 0)
    assert await rig.b.observe(60.0) is None
    assert await rig.a.observe(60.0, 2) == Observed(2, 0)
    await rig.put("1", "2", "3")
    async with lanes(rig.a, 3) as ours:
        await first(2, *ours)
        await gets_nothing(*(lane for lane in ours if not lane.done()))
        assert (await rig.client.flow()).limit == 2


async def first(number: int, *lanes: asyncio.Task[Lease]) -> list[Lease]:
    """Wait until so many lanes have a job."""
    async with asyncio.timeout(PATIENCE):
        while sum(lane.done() for lane in lanes) < number:
            await asyncio.wait([lane for lane in lanes if not lane.done()], return_when=asyncio.FIRST_COMPLETED)
    return [lane.result() for lane in lanes if lane.done()]
