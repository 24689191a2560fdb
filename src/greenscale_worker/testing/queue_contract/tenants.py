"""Tenants with an entry: their lines, turns and limits, and that no job of theirs is lost."""

import asyncio
import secrets
import time
from collections import Counter

import pytest

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import Failed, Output, Released, Succeeded, Usage
from greenscale_worker.queues import CLASSES, JobClass, Queue, TenantLimits, TenantStanding
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
    soon,
    until,
)


async def put_for(rig: Rig, tenant: str, number: int, *, job_class: JobClass = "standard") -> list[str]:
    """Put so many jobs for a tenant. Return their ids."""
    jobs = [rig.job(f"{tenant or 'nobody'}.{index}") for index in range(number)]
    assert all(await rig.client.put(jobs, tenant=tenant, job_class=job_class))
    return [job_id for job_id, _ in jobs]


async def serve(queue: Queue, number: int) -> list[str]:
    """Run so many jobs, one after the other. Return whose they were."""
    served = list[str]()
    for _ in range(number):
        lease = await run(queue)
        served.append(name_of(lease).partition(".")[0])
        assert await queue.settle(lease, ANSWER)
    return served


async def standing(rig: Rig, name: str) -> TenantStanding:
    (found,) = await rig.client.tenants(name)
    return found


async def test_a_job_of_a_tenant_with_many_waiting_keeps_no_other_tenant_waiting(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits())
    await rig.client.set_tenant("b", TenantLimits())
    await put_for(rig, "a", 200)
    await serve(rig.a, 5)
    await put_for(rig, "b", 1)
    assert "b" in await serve(rig.a, 2)


async def test_tenants_are_served_by_their_weights(rig: Rig) -> None:
    weights = {"a": 3, "b": 1, "c": 2}
    for name, weight in weights.items():
        await rig.client.set_tenant(name, TenantLimits(weight=weight))
        await put_for(rig, name, 60)
    served = await serve(rig.a, 60)
    for number in range(6, 61):
        counts = Counter(served[:number])
        for name, weight in weights.items():
            assert abs(counts[name] - number * weight / 6) < 2, (number, counts)


async def test_all_jobs_without_an_entry_are_together_those_of_one_tenant(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(weight=2))
    await put_for(rig, "x", 20)
    await put_for(rig, "", 20)
    await put_for(rig, "a", 40)
    served = Counter(await serve(rig.a, 30))
    assert abs(served["a"] - 20) <= 1


async def test_whoever_comes_back_has_saved_nothing_up(rig: Rig) -> None:
    for name in ("a", "b"):
        await rig.client.set_tenant(name, TenantLimits())
    await put_for(rig, "a", 60)
    await serve(rig.a, 30)
    await put_for(rig, "b", 30)
    served = await serve(rig.a, 20)
    assert abs(served.count("b") - 10) <= 1


async def test_who_puts_one_job_after_the_other_gets_no_more_than_his_share(rig: Rig) -> None:
    for name in ("a", "b"):
        await rig.client.set_tenant(name, TenantLimits())
    await put_for(rig, "a", 60)
    served = list[str]()
    for _ in range(20):
        if not (await standing(rig, "b")).waiting:
            await rig.client.put([rig.job(f"b.{len(served)}")], tenant="b")
        served += await serve(rig.a, 1)
    assert abs(served.count("b") - 10) <= 1


async def test_a_claim_for_many_lanes_gives_each_tenant_its_share(rig: Rig) -> None:
    for name, weight in (("a", 3), ("b", 1)):
        await rig.client.set_tenant(name, TenantLimits(weight=weight))
        await put_for(rig, name, 40)
    async with lanes(rig.a, 20) as ours, asyncio.timeout(PATIENCE):
        served = Counter(name_of(lease).partition(".")[0] for lease in await asyncio.gather(*ours))
    assert abs(served["a"] - 15) <= 1


@pytest.mark.parametrize("job_class", CLASSES)
async def test_a_line_keeps_the_order_of_its_jobs_in_each_class(rig: Rig, job_class: JobClass) -> None:
    await rig.client.set_tenant("a", TenantLimits())
    await put_for(rig, "a", 150, job_class=job_class)
    served = [name_of(await claim(rig.a)) for _ in range(150)]
    assert served == [f"a.{index}" for index in range(150)]


async def test_classes_keep_their_order_whoever_has_jobs_in_them(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits())
    await put_for(rig, "a", 3, job_class="background")
    await put_for(rig, "a", 3, job_class="standard")
    await rig.client.put([rig.job("first")], job_class="interactive")
    assert name_of(await claim(rig.a)) == "first"
    await put_for(rig, "a", 1, job_class="interactive")
    assert [await rig.client.depth()][0].interactive == 1
    served = [await claim(rig.a) for _ in range(7)]
    assert len({lease.id for lease in served}) == 7


async def test_a_tenant_never_has_more_in_flight_than_it_may(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(in_flight=3))
    await put_for(rig, "a", 8)
    held = [await run(rig.a), await run(rig.b), await run(rig.a)]
    async with lanes(rig.b) as ours:
        await gets_nothing(*ours)
        assert (await standing(rig, "a")).held == "in_flight"
        await put_for(rig, "", 1)
        assert name_of(await asyncio.wait_for(ours[0], PATIENCE)) == "nobody.0", "others go on"
    for _ in range(5):
        assert (await standing(rig, "a")).in_flight == 3
        await rig.a.settle(held.pop(0), ANSWER)
        held.append(await run(rig.a))
    for lease in held:
        await rig.a.settle(lease, ANSWER)
    assert (await standing(rig, "a")).in_flight == 0


async def test_jobs_that_are_tried_again_count_as_in_flight_and_come_first(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(in_flight=2))
    await put_for(rig, "a", 4)
    first, second = await run(rig.a), await run(rig.a)
    assert await rig.a.settle(first, Released("draining"))
    assert await rig.a.retry(second, failure("endpoint", delay=0.3)) == "delayed"
    assert name_of(await run(rig.b)) == "a.0"
    async with lanes(rig.b) as ours, asyncio.timeout(PATIENCE):
        assert name_of(await ours[0]) == "a.1", "no other one of the tenant, while this one waits to be tried again"


async def test_a_job_frees_its_place_however_it_ends(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(in_flight=1))
    ids = await put_for(rig, "a", 5)
    lease = await run(rig.a)
    await rig.a.settle(lease, Failed("http_400", "no"))
    lease = await run(rig.a)
    assert await rig.client.cancel(ids[1]) == "cancelled"
    lease = await run(rig.a)
    assert await rig.a.retry(lease, failure("job", max_tries=1)) == "dead"
    assert name_of(await run(rig.a)) == "a.3"
    await rig.client.set_tenant("a", TenantLimits(in_flight=2))
    assert name_of(await run(rig.b)) == "a.4"


async def test_a_place_that_a_dead_worker_had_is_free_again(short: Rig) -> None:
    await short.client.set_tenant("a", TenantLimits(in_flight=1))
    await put_for(short, "a", 2)
    victim = await short.opener()
    assert name_of(await run(victim)) == "a.0"
    async with short.beating(short.a, short.b), asyncio.timeout(PATIENCE):
        again = await short.a.lease()
        assert name_of(again) == "a.0"
        await short.a.settle(again, ANSWER)
        assert name_of(await short.b.lease()) == "a.1"


async def test_tokens_are_charged_as_they_were_used(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(tokens_per_minute=600))
    await rig.client.put([rig.job("a.0", prompt=secrets.token_hex(400))], tenant="a")
    assert (await standing(rig, "a")).tokens_left == pytest.approx(100, abs=0.1)
    lease = await run(rig.a)
    charged = (await standing(rig, "a")).tokens_left
    await rig.a.settle(lease, ANSWER)
    settled = (await standing(rig, "a")).tokens_left
    assert charged is not None
    assert settled is not None
    assert charged < 50, "a token for four bytes"
    assert 96 <= settled <= 100, "the answer has taken 4"


async def test_an_answer_that_tells_any_number_of_tokens_holds_its_tenant_for_an_hour_at_most(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(tokens_per_minute=600))
    await put_for(rig, "a", 1)
    await rig.a.settle(await run(rig.a), Succeeded(Output("4", usage=Usage(1, 10**9, 10**9))))
    await rig.client.put([rig.job("a.1")], tenant="a")
    found = await standing(rig, "a")
    assert found.held == "tokens"
    assert 3000 < found.held_seconds <= 3601


async def test_what_a_debt_forgets_is_not_given_back(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(tokens_per_minute=1))
    await rig.client.put([rig.job("a.0", prompt="x" * 4000)], tenant="a")
    lease = await run(rig.a)
    lease.began = time.monotonic()
    assert await rig.a.settle(lease, Succeeded(Output("4", usage=Usage(10, 10, 20))))
    await rig.client.put([rig.job("a.1")], tenant="a")
    assert (await standing(rig, "a")).held == "tokens"


async def test_a_job_that_goes_back_without_a_call_costs_its_tenant_nothing(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(requests_per_minute=6, tokens_per_minute=60))
    await put_for(rig, "a", 1)
    for _ in range(5):
        await rig.a.settle(await run(rig.a), Released("draining"))
    found = await standing(rig, "a")
    assert (found.requests_left, found.tokens_left) == pytest.approx((1, 10), abs=0.1)


async def test_a_tenant_without_requests_left_waits_and_goes_on(rig: Rig) -> None:
    begun = time.monotonic()
    await rig.client.set_tenant("a", TenantLimits(requests_per_minute=60))
    await put_for(rig, "a", 14)
    await put_for(rig, "", 1)

    async def is_held() -> bool:
        found = await standing(rig, "a")
        return found.held == "requests" and 0 < found.held_seconds <= 1.1 and (found.requests_left or 0) <= 0

    async with lanes(rig.a, 15) as ours, asyncio.timeout(PATIENCE):
        await until(is_held)
        served = [name_of(lease) for lease in await asyncio.gather(*ours)]
    assert "nobody.0" in served
    assert 11 + time.monotonic() - begun >= 14, "ten at once, one more on credit, then one a second"


async def test_a_tenant_without_tokens_left_waits(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(tokens_per_minute=6))
    await put_for(rig, "a", 2)
    await put_for(rig, "", 1)
    assert {name_of(await run(rig.a)) for _ in range(2)} == {"a.0", "nobody.0"}
    found = await standing(rig, "a")
    assert found.held == "tokens"
    assert found.held_seconds > 60
    assert found.tokens_left is not None
    assert found.tokens_left <= 0
    async with lanes(rig.b) as ours:
        await gets_nothing(*ours)


async def test_what_waits_in_lines_is_counted_listed_and_cancelled(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(in_flight=1))
    ids = await put_for(rig, "a", 25)
    more = await put_for(rig, "a", 1, job_class="background")
    depth = await rig.client.depth()
    assert (depth.waiting, depth.background) == (26, 1)
    assert depth.oldest_seconds is not None
    listed = [job async for job in rig.client.jobs()]
    assert {job.job_id for job in listed} == {*ids, *more}
    assert {job.state for job in listed} == {"waiting"}
    assert {job.tenant for job in listed} == {"a"}
    found = await standing(rig, "a")
    assert (found.waiting, found.in_flight, found.held) == (26, 0, "")
    assert found.oldest_seconds is not None
    assert await rig.client.cancel(ids[0]) == "will_be_cancelled"
    lease = await claim(rig.a)
    assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
    assert name_of(await run(rig.a)) == "a.1"


async def test_a_scheduled_job_that_becomes_due_goes_into_its_tenants_line(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits())
    await rig.client.put([rig.job("a.0")], tenant="a", not_before=soon())
    assert (await standing(rig, "a")).waiting == 0
    await rig.promoted(1)
    assert (await standing(rig, "a")).waiting == 1
    assert name_of(await run(rig.a)) == "a.0"


async def test_a_replayed_job_is_its_tenants_again(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(in_flight=1))
    await put_for(rig, "a", 2)
    await rig.a.settle(await run(rig.a), Failed("http_400", "no"))
    (letter,) = await rig.letters()
    assert await rig.client.replay(letter.id)
    assert (await standing(rig, "a")).in_flight == 1
    lease = await run(rig.a)
    assert name_of(lease) == "a.0"
    async with lanes(rig.b) as ours:
        await gets_nothing(*ours)
        await rig.a.settle(lease, ANSWER)
        await rig.b.beat()
        assert name_of(await asyncio.wait_for(ours[0], PATIENCE)) == "a.1"


async def test_jobs_of_a_deleted_entry_keep_their_place_and_are_served(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits(weight=100, in_flight=1))
    await put_for(rig, "a", 4)
    await rig.client.set_tenant("a", None)
    found = await standing(rig, "a")
    assert (found.limits, found.waiting) == (None, 4)
    await put_for(rig, "a", 4)
    assert (await standing(rig, "a")).waiting == 4, "what comes now is nobody's"
    served = [name_of(await claim(rig.a)) for _ in range(8)]
    assert sorted(served) == sorted(2 * [f"a.{index}" for index in range(4)])


async def test_a_deleted_tenant_is_forgotten_once_its_jobs_have_ended(rig: Rig) -> None:
    await rig.client.set_tenant("a", TenantLimits())
    await put_for(rig, "a", 1)
    lease = await run(rig.a)
    await rig.client.set_tenant("a", None)
    assert (await standing(rig, "a")).in_flight == 1
    await rig.a.settle(lease, ANSWER)

    async def is_gone() -> bool:
        await rig.a.beat()
        return await rig.client.tenants() == []

    await until(is_gone)


async def test_entries_are_told_as_they_were_set(rig: Rig) -> None:
    limits = TenantLimits(weight=3, in_flight=8, requests_per_minute=60, tokens_per_minute=60_000)
    await rig.client.set_tenant("b", limits)
    await rig.client.set_tenant("a", TenantLimits())
    assert [(each.name, each.limits) for each in await rig.client.tenants()] == [("a", TenantLimits()), ("b", limits)]
    assert [each.name for each in await rig.client.tenants("b")] == ["b"]
    assert await rig.client.tenants("c") == []


@pytest.mark.parametrize("name", ["", "A", "a|b", "a b", "-a", "a" * 33, "a\n", "ü"])
async def test_a_name_that_no_job_may_have_is_refused(rig: Rig, name: str) -> None:
    with pytest.raises(BadInputError, match="tenant"):
        await rig.client.set_tenant(name, TenantLimits())
    assert await rig.client.tenants() == []


@pytest.mark.parametrize("name", ["a|b", "Ä", "x" * 500, "standard", "w|standard|a"])
async def test_a_job_of_a_tenant_of_any_other_name_is_served_like_all_without_an_entry(rig: Rig, name: str) -> None:
    await rig.client.set_tenant("a", TenantLimits())
    await rig.client.put([rig.job("odd")], tenant=name)
    assert name_of(await run(rig.a)) == "odd"
    assert [each.name for each in await rig.client.tenants()] == ["a"]


@pytest.mark.parametrize(
    "limits", [{"weight": 0}, {"weight": 1001}, {"in_flight": 0}, {"requests_per_minute": 0}, {"tokens_per_minute": -1}]
)
def test_limits_that_allow_nothing_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        TenantLimits(**limits)
