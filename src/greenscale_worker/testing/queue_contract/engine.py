"""The look at the engine: whose turn it is, and the limit that follows."""

from collections.abc import Awaitable, Callable

from greenscale_worker.engine_limit import CAUTIOUS
from greenscale_worker.queues import Observed
from greenscale_worker.testing.rig import Rig, claim, until

OpenRig = Callable[..., Awaitable[Rig]]


async def test_another_worker_looks_at_the_engine_once_the_first_no_longer_does(rig: Rig) -> None:
    assert await rig.a.observe(0.05, 4) is not None

    async def passes_on() -> bool:
        return await rig.b.observe(60) is not None

    await until(passes_on)
    assert await rig.a.observe(60, 99) is None
    assert await rig.b.observe(60) == Observed(4, 0)


async def test_who_looks_at_the_engine_learns_what_was_found_last(open_rig: OpenRig) -> None:
    rig = await open_rig(limit="engine")
    await rig.put("runs")
    await claim(rig.a)
    assert await rig.a.observe(60, 40, calm=3) == Observed(40, 1, 3)
    flow = await rig.client.flow()
    assert (flow.limit, flow.engine_unseen) == (40, "")
    assert await rig.a.observe(60, 30, why="http://engine/metrics: HTTP 503") == Observed(30, 1, 0)
    flow = await rig.client.flow()
    assert (flow.limit, flow.engine_unseen) == (30, "http://engine/metrics: HTTP 503")


async def test_before_anybody_looked_at_the_engine_the_limit_is_cautious(open_rig: OpenRig) -> None:
    rig = await open_rig(limit="engine")
    await rig.a.beat()
    assert (await rig.client.flow()).limit == CAUTIOUS


async def test_the_engine_is_never_given_more_than_the_most_that_was_set(open_rig: OpenRig) -> None:
    rig = await open_rig(limit="engine", limit_most=3)
    await rig.a.beat()
    assert (await rig.client.flow()).limit == 3
    assert await rig.a.observe(60, 2) is not None
    assert (await rig.client.flow()).limit == 2
    assert await rig.a.observe(60, 40) is not None
    assert (await rig.client.flow()).limit == 3


async def test_what_the_engine_allows_is_no_limit_where_none_is_asked_for(rig: Rig) -> None:
    await rig.a.beat()
    assert await rig.a.observe(60, 1, why="unseen") is not None
    flow = await rig.client.flow()
    assert (flow.limit, flow.engine_unseen) == (None, "")
