"""The look at the engine: whose turn it is, and the limit that follows."""

from collections.abc import Awaitable, Callable

from greenscale_worker.engine_metrics import CAUTIOUS
from greenscale_worker.testing.rig import Rig, until

OpenRig = Callable[..., Awaitable[Rig]]


async def test_one_worker_looks_at_the_engine_until_it_no_longer_does(rig: Rig) -> None:
    first = await rig.a.engine_turn(60)
    assert (first.mine, first.limit, first.in_flight) == (True, None, 0)
    other = await rig.b.engine_turn(60)
    assert not other.mine
    assert 0 < other.seconds <= 60
    assert (await rig.a.engine_turn(0.05)).mine

    async def passes_on() -> bool:
        return (await rig.b.engine_turn(60)).mine

    await until(passes_on)
    assert not (await rig.a.engine_turn(60)).mine


async def test_what_was_found_is_the_limit_and_the_next_to_look_gets_it(open_rig: OpenRig) -> None:
    rig = await open_rig(limit="engine")
    await rig.a.beat()
    assert (await rig.client.flow()).limit == CAUTIOUS
    assert (await rig.a.engine_turn(60)).mine
    await rig.a.observe(40, 3)
    flow = await rig.client.flow()
    assert (flow.limit, flow.engine_unseen) == (40, "")
    await rig.a.observe(30, 0, "http://engine/metrics: HTTP 503")
    flow = await rig.client.flow()
    assert (flow.limit, flow.engine_unseen) == (30, "http://engine/metrics: HTTP 503")
    turn = await rig.a.engine_turn(60)
    assert (turn.mine, turn.limit, turn.calm) == (True, 30, 0)


async def test_what_is_observed_out_of_turn_counts_for_nothing(open_rig: OpenRig) -> None:
    rig = await open_rig(limit="engine")
    await rig.a.beat()
    await rig.b.observe(99, 0)
    assert (await rig.a.engine_turn(60)).mine
    await rig.a.observe(5, 0)
    await rig.b.observe(99, 0)
    assert (await rig.client.flow()).limit == 5


async def test_without_a_limit_by_the_engine_what_is_observed_limits_nothing(open_rig: OpenRig) -> None:
    rig = await open_rig()
    await rig.a.beat()
    assert (await rig.a.engine_turn(60)).mine
    await rig.a.observe(1, 0, "unseen")
    flow = await rig.client.flow()
    assert (flow.limit, flow.engine_unseen) == (None, "")
