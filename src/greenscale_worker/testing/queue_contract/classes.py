"""Which class of jobs is served before which, and that none is starved."""

import asyncio

import pytest

from greenscale_worker.job import Failed, Released
from greenscale_worker.queues import CLASSES, Lease, Queue
from greenscale_worker.testing.rig import (
    ANSWER,
    PATIENCE,
    Rig,
    claim,
    decoded,
    gets_nothing,
    lanes,
    name_of,
    run,
)


async def fill(rig: Rig, **numbers: int) -> None:
    """Put so many jobs of each class, the lowest class first."""
    for job_class in reversed(CLASSES):
        names = (f"{job_class}-{number}" for number in range(numbers.get(job_class, 0)))
        await rig.client.put([rig.job(name) for name in names], job_class=job_class)


def class_of(lease: Lease) -> str:
    return name_of(lease).split("-")[0]


async def settle_all(queue: Queue, number: int) -> list[Lease]:
    """Run so many jobs, one after the other."""
    leases = []
    for _ in range(number):
        leases.append(await run(queue))
        assert await queue.settle(leases[-1], ANSWER)
    return leases


async def test_classes_are_served_in_their_order_and_each_from_its_oldest_job(rig: Rig) -> None:
    await fill(rig, interactive=2, standard=1, background=1)
    served = [name_of(lease) for lease in await settle_all(rig.a, 4)]
    assert served == ["interactive-0", "interactive-1", "standard-0", "background-0"]


async def test_of_ten_jobs_in_a_row_a_lower_class_that_waits_gets_one(rig: Rig) -> None:
    await fill(rig, interactive=60, standard=10, background=10)
    served = [class_of(lease) for lease in await settle_all(rig.a, 60)]
    for start in range(51):
        assert set(served[start : start + 10]) == set(CLASSES)
    assert served.count("interactive") == 48, "others get no more than that before them"


async def test_many_lanes_that_claim_at_once_get_each_class(rig: Rig) -> None:
    await fill(rig, interactive=40, standard=4, background=4)
    async with lanes(rig.a, 30) as ours, asyncio.timeout(PATIENCE):
        classes = [class_of(lease) for lease in await asyncio.gather(*ours)]
    assert (classes.count("interactive"), classes.count("standard"), classes.count("background")) == (24, 3, 3)


@pytest.mark.parametrize("job_class", CLASSES)
async def test_a_waiting_lane_gets_a_job_of_any_class_as_it_is_put(rig: Rig, job_class: str) -> None:
    async with lanes(rig.a) as (lane,):
        await gets_nothing(lane)
        await fill(rig, **{job_class: 1})
        async with asyncio.timeout(PATIENCE):
            assert class_of(await lane) == job_class


async def test_a_job_that_comes_back_is_first_in_its_class_but_not_before_a_higher_one(rig: Rig) -> None:
    await fill(rig, interactive=1, standard=1, background=1)
    leases = [await run(rig.a) for _ in range(3)]
    await rig.client.put([rig.job("standard-9")])
    await rig.client.put([rig.job("background-9")], job_class="background")
    for lease in leases:
        assert await rig.a.settle(lease, Released("drain"))
    await rig.client.put([rig.job("interactive-9")], job_class="interactive")
    served = [name_of(lease) for lease in await settle_all(rig.a, 6)]
    assert served[:2] == ["interactive-0", "standard-0"], "the fifth job claimed is a standard one"
    assert served[2:] == ["interactive-9", "standard-9", "background-0", "background-9"]


async def test_a_job_whose_worker_crashed_keeps_its_class(short: Rig) -> None:
    await fill(short, background=1)
    await short.crash(1, jobs=1)
    await fill(short, standard=1)
    assert [class_of(lease) for lease in await settle_all(short.a, 2)] == ["standard", "background"]


async def test_a_job_that_was_delayed_keeps_its_class(rig: Rig) -> None:
    await fill(rig, interactive=1, background=1)
    for lease in [await run(rig.a) for _ in range(2)]:
        assert await rig.a.settle(lease, Released("overload", delay=0.3))
    await rig.put("standard-0")
    assert (await rig.client.depth()).delayed == 2
    await asyncio.sleep(0.35)  # both are due
    assert [class_of(lease) for lease in await settle_all(rig.a, 3)] == list(CLASSES)


async def test_a_dead_letter_that_is_replayed_returns_to_its_class(rig: Rig) -> None:
    await fill(rig, interactive=1, background=1)
    for _ in range(2):
        assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    for letter in await rig.letters():
        assert await rig.client.replay(letter.id)
    await rig.put("standard-0")
    assert [class_of(lease) for lease in await settle_all(rig.a, 3)] == list(CLASSES)


async def test_each_class_is_counted_and_listed_until_it_is_claimed(rig: Rig) -> None:
    await fill(rig, interactive=30, standard=2, background=3)
    depth = await rig.client.depth()
    assert (depth.waiting, depth.interactive, depth.background) == (35, 30, 3)
    waiting = [job async for job in rig.client.jobs() if job.state == "waiting"]
    assert len({job.job_id for job in waiting}) == len(waiting) == 35
    await settle_all(rig.a, 35)
    depth = await rig.client.depth()
    assert (depth.waiting, depth.interactive, depth.background) == (0, 0, 0)


async def test_a_job_of_any_class_is_folded_and_cancelled(rig: Rig) -> None:
    await fill(rig, background=2)
    first, second = rig.job("background-0"), rig.job("background-1")
    assert await rig.client.put([first], fold=True, job_class="interactive") == [False]
    assert await rig.client.cancel(first[0]) == "will_be_cancelled"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    assert name_of(await run(rig.a)) == "background-1"
    assert await rig.client.cancel(second[0]) == "cancelled"
    assert (await rig.client.depth()).running == 0


async def test_a_class_that_is_unknown_is_refused(rig: Rig) -> None:
    with pytest.raises(ValueError, match="interactive, standard, background"):
        await rig.client.put([rig.job("1")], job_class="urgent")  # type: ignore[arg-type]
    assert (await rig.client.depth()).waiting == 0
