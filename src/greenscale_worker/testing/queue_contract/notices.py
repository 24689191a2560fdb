"""A job may ask that its end leaves a notice, which is there until somebody acknowledges it."""

import time
from collections.abc import Awaitable, Callable

import pytest

from greenscale_worker.job import Failed, Failure, Released
from greenscale_worker.testing.rig import ANSWER, Rig, claim, decoded, run, soon, until

FINAL = Failure(code="worse", message="", used=1.0, max_tries=1.0)


async def put_asking(rig: Rig, *names: str, not_before: float | None = None) -> list[str]:
    """Put jobs whose ends are to leave notices. Return their ids."""
    jobs = [rig.job(name) for name in names]
    assert all(await rig.client.put(jobs, notify=True, not_before=not_before))
    return [job_id for job_id, _ in jobs]


async def told(rig: Rig) -> list[tuple[str, str, str | None]]:
    return [(notice.job_id, notice.state, notice.code) for notice in await rig.client.notices()]


async def test_each_way_to_end_leaves_one_notice_in_order(rig: Rig) -> None:
    before = time.time()
    done, failed, unwanted, cancelled, tombstone = await put_asking(rig, "1", "2", "3", "4", "5")
    (later,) = await put_asking(rig, "later", not_before=before + 600)
    assert await rig.client.notices() == []
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.a.settle(await run(rig.a), Failed("bad", "it was"))
    assert await rig.a.retry(await run(rig.a), FINAL) == "dead"
    await run(rig.a)
    assert await rig.client.cancel(cancelled) == "cancelled"
    assert await rig.client.cancel(tombstone) == "will_be_cancelled"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    assert await rig.client.cancel(later) == "cancelled"
    ends = [(done, "succeeded", None), (failed, "failed", "bad"), (unwanted, "failed", "worse")]
    ends += [(job_id, "cancelled", None) for job_id in (cancelled, tombstone, later)]
    assert await told(rig) == ends
    notices = await rig.client.notices()
    assert len({notice.id for notice in notices}) == len(notices)
    assert all(before - 1 < notice.at < time.time() + 1 for notice in notices)
    assert [notice.at for notice in notices] == sorted(notice.at for notice in notices)


async def test_only_jobs_that_ask_leave_one(rig: Rig) -> None:
    jobs = [rig.job("1", notify=True), rig.job("2", notify=False), rig.job("3"), rig.job("4", notify=True)]
    (asks, payload), *_, (tombstone, _) = jobs
    await rig.client.put(jobs)
    assert await rig.client.cancel(tombstone) == "will_be_cancelled"
    for _ in range(3):
        assert await rig.a.settle(await run(rig.a), ANSWER)
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    assert await told(rig) == [(asks, "succeeded", None), (tombstone, "cancelled", None)]
    assert await rig.client.put([(asks, payload)], once=True, notify=True) == [False]
    assert len(await told(rig)) == 2


async def test_notices_are_there_for_all_until_they_are_acknowledged(rig: Rig) -> None:
    await put_asking(rig, "1", "2", "3")
    for _ in range(3):
        assert await rig.a.settle(await run(rig.a), ANSWER)
    first, second, third = notices = await rig.client.notices()
    assert await rig.client.notices() == notices
    assert await rig.client.notices(2) == [first, second]
    assert await rig.client.notices(0) == []
    await rig.client.acknowledge_notices([second.id, second.id])
    assert await rig.client.notices() == [first, third]
    await rig.client.acknowledge_notices([third.id, first.id, second.id])
    await rig.client.acknowledge_notices([])
    assert await rig.client.notices() == []
    with pytest.raises(ValueError, match="no notice's id"):
        await rig.client.acknowledge_notices(["-inf"])
    (again,) = await put_asking(rig, "1")
    assert await rig.a.settle(await run(rig.a), ANSWER)
    (fourth,) = await rig.client.notices()
    assert fourth.job_id == again
    assert fourth.id not in {notice.id for notice in notices}


async def test_what_is_no_end_leaves_none(rig: Rig) -> None:
    (job_id,) = await put_asking(rig, "1")
    assert await rig.a.settle(await run(rig.a), Released("drain"))
    assert await rig.a.retry(await run(rig.a), Failure(code="slow", message="", used=0.1)) == "delayed"
    lease = await run(rig.a)
    assert await rig.client.notices() == []
    assert await rig.a.settle(lease, ANSWER)
    assert not await rig.a.settle(lease, Failed("late", ""))
    assert await told(rig) == [(job_id, "succeeded", None)]


async def test_a_duplicate_or_a_conflict_leaves_none(rig: Rig) -> None:
    job_id, payload = rig.job("1", notify=True)
    _, other = rig.job("1", notify=True, top_p=0.5)
    await rig.client.put([(job_id, payload), (job_id, payload), (job_id, other)], notify=True)
    first, duplicate, conflict = await run(rig.a), await claim(rig.a), await claim(rig.a)
    assert await rig.a.bind(duplicate, decoded(duplicate)) == "duplicate"
    assert await rig.a.bind(conflict, decoded(conflict)) == "conflict"
    conflict.job_id = job_id
    assert await rig.a.settle(conflict, Failed("conflict", ""))
    assert await rig.client.notices() == []
    assert await rig.a.settle(first, ANSWER)
    assert await told(rig) == [(job_id, "succeeded", None)]
    for letter in await rig.letters():
        assert await rig.client.replay(letter.id)


async def test_what_is_replayed_leaves_one_more(rig: Rig) -> None:
    (job_id,) = await put_asking(rig, "1")
    await rig.put("2")
    assert await rig.a.settle(await run(rig.a), Failed("bad", ""))
    assert await rig.a.settle(await run(rig.a), Failed("bad", ""))
    letters = await rig.letters()
    assert await rig.client.replay_many([letter.id for letter in letters]) == ["replayed", "replayed"]
    for _ in letters:
        assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await told(rig) == [(job_id, "failed", "bad"), (job_id, "succeeded", None)]


async def test_a_job_that_nobody_could_run_leaves_one_in_the_same_step(short: Rig) -> None:
    (job_id,) = await put_asking(short, "poison")

    async def waits_or_is_dead() -> bool:
        depth = await short.client.depth()
        return depth.waiting + depth.dead == 1

    async def is_recorded() -> bool:
        return await short.state(job_id) == "failed"

    async with short.beating(short.b):
        while not await short.letters():
            await run(await short.opener())
            await until(waits_or_is_dead)
        assert await told(short) == [(job_id, "failed", "crashed")]
        await until(is_recorded)
    assert await told(short) == [(job_id, "failed", "crashed")]


async def test_a_scheduled_job_leaves_one(rig: Rig) -> None:
    (job_id,) = await put_asking(rig, "1", not_before=soon())
    await rig.promoted(1)
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await told(rig) == [(job_id, "succeeded", None)]


async def test_what_is_forgotten_keeps_its_notice(rig: Rig) -> None:
    (job_id,) = await put_asking(rig, "1")
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.client.forget([job_id]) == 1
    assert await told(rig) == [(job_id, "succeeded", None)]
    await rig.put("1")
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await told(rig) == [(job_id, "succeeded", None)]


async def test_where_no_records_are_kept_notices_are(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(result_ttl=0)
    done, cancelled, tombstone = await put_asking(rig, "1", "2", "3")
    assert await rig.a.settle(await run(rig.a), ANSWER)
    await run(rig.a)
    assert await rig.client.cancel(cancelled) == "cancelled"
    assert await rig.client.cancel(tombstone) == "unknown"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    ends = [(done, "succeeded", None), (cancelled, "cancelled", None), (tombstone, "cancelled", None)]
    assert await told(rig) == ends


async def test_the_oldest_of_too_many_go(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(notices_max_count=2)
    ids = await put_asking(rig, "1", "2", "3", "4")
    for _ in ids:
        assert await rig.a.settle(await run(rig.a), ANSWER)
    await rig.a.beat()
    assert [job_id for job_id, _, _ in await told(rig)] == ids[2:]
    await rig.a.beat()
    assert len(await told(rig)) == 2


async def test_those_that_are_too_old_go(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(notices_max_age=0.5)
    await put_asking(rig, "old")
    assert await rig.a.settle(await run(rig.a), ANSWER)

    async def are_gone() -> bool:
        await rig.a.beat()
        return not await told(rig)

    await until(are_gone)
    (new,) = await put_asking(rig, "new")
    assert await rig.a.settle(await run(rig.a), ANSWER)
    await rig.a.beat()
    assert await told(rig) in ([(new, "succeeded", None)], [])


async def test_many_ends_at_a_time_leave_one_each(rig: Rig) -> None:
    ids = await put_asking(rig, *map(str, range(120)))
    leases = [await run(rig.a) for _ in ids]
    for lease in leases:
        assert await rig.a.settle(lease, ANSWER)
    assert sorted(notice.job_id for notice in await rig.client.notices(1000)) == sorted(ids)
    assert len(await rig.client.notices()) == 100
