"""Which worker gets which job, and when."""

import asyncio
import random
import time

from greenscale_worker.testing.rig import PATIENCE, Rig, claim, gets_nothing, lanes, name_of


async def test_jobs_are_leased_oldest_first(rig: Rig) -> None:
    await rig.put("1", "2", "3")
    await rig.put("4", "5")
    leases = [await claim(rig.a) for _ in range(5)]
    assert [name_of(lease) for lease in leases] == ["1", "2", "3", "4", "5"]
    assert {(lease.tries, lease.crashes, lease.job_id, lease.attempts) for lease in leases} == {(0, 0, None, 0)}
    assert len({lease.token for lease in leases}) == len({lease.id for lease in leases}) == 5


async def test_a_lease_says_when_it_was_claimed(rig: Rig) -> None:
    await rig.put("1")
    lease = await claim(rig.a)
    assert abs(lease.claimed_at - time.time()) < PATIENCE
    assert lease.first_claimed_at == lease.claimed_at


async def test_the_payload_is_what_was_put_byte_for_byte(rig: Rig) -> None:
    raw = b'\xff\x00|\r\n{"job_id": 1e999, \xed\xa0\x80'
    await rig.client.put([(rig.job("raw")[0], raw)])
    assert (await claim(rig.a)).payload == raw


async def test_a_waiting_lane_gets_a_job_as_it_is_put(rig: Rig) -> None:
    async with lanes(rig.a) as (lane,):
        await gets_nothing(lane)
        await rig.put("1")
        async with asyncio.timeout(PATIENCE):
            assert name_of(await lane) == "1"


async def test_every_waiting_lane_gets_a_job_of_its_own(rig: Rig) -> None:
    async with lanes(rig.a, 8) as ours, lanes(rig.b, 8) as theirs:
        await gets_nothing(*ours, *theirs)
        await rig.put(*(str(number) for number in range(16)))
        async with asyncio.timeout(PATIENCE):
            leases = await asyncio.gather(*ours, *theirs)
    assert sorted(int(name_of(lease)) for lease in leases) == list(range(16))


async def test_a_cancelled_lane_loses_no_job(rig: Rig) -> None:
    generator, count = random.Random(7), 30
    found = []
    for number in range(count):
        lane = asyncio.create_task(rig.a.lease())
        for _ in range(generator.randrange(3)):
            await asyncio.sleep(0)
        await rig.put(str(number))
        for _ in range(generator.randrange(5)):
            await asyncio.sleep(0)
        lane.cancel()
        await asyncio.wait({lane})
        if not lane.cancelled():
            found.append(lane.result())
    while len(found) < count:
        found.append(await claim(rig.a))
    assert sorted(int(name_of(lease)) for lease in found) == list(range(count))
    assert {(lease.tries, lease.crashes) for lease in found} == {(0, 0)}


async def test_a_job_meant_for_a_cancelled_lane_goes_to_one_that_waits(rig: Rig) -> None:
    async with lanes(rig.a, 2) as (first, second):
        await gets_nothing(first, second)
        await rig.put("1")
        first.cancel()
        await asyncio.wait({first})
        if first.cancelled():
            async with asyncio.timeout(PATIENCE):
                assert name_of(await second) == "1"


async def test_closing_hands_back_what_nobody_took(rig: Rig) -> None:
    async with lanes(rig.a, 4) as ours:
        await gets_nothing(*ours)
        await rig.put("1", "2", "3", "4")
        for lane in ours:
            lane.cancel()
        await asyncio.wait(ours)
    taken = {name_of(lane.result()) for lane in ours if not lane.cancelled()}
    await rig.a.aclose()
    others = [await claim(rig.b) for _ in range(4 - len(taken))]
    assert taken | {name_of(lease) for lease in others} == {"1", "2", "3", "4"}
    assert {(lease.tries, lease.crashes) for lease in others} <= {(0, 0)}
