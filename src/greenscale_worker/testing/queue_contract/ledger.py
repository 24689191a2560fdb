"""What the ledger counts of jobs and workers, by minute."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Any

import pytest

from greenscale_worker.job import Failed, Output, Released, Succeeded, Usage
from greenscale_worker.queues import Lease, LedgerMinute, Queue, QueueClient
from greenscale_worker.testing.rig import PATIENCE, Rig, claim, decoded, failure, run, until

DAY = 86_400.0
OF_WORKERS = {"at", "replica_seconds", "busy_lane_seconds", "replicas_peak"}


def answered(prompt: int, completion: int) -> Succeeded:
    return Succeeded(Output("4", usage=Usage(prompt, completion, prompt + completion)))


async def sums(client: QueueClient, *, tenant: str | None = None) -> dict[str, Any]:
    """Return what is known of jobs and is not zero, summed up over all minutes."""
    minutes = await client.ledger(time.time() - DAY, tenant=tenant)
    names = [field.name for field in fields(LedgerMinute) if field.name not in OF_WORKERS]
    totals = {name: sum(getattr(minute, name) for minute in minutes) for name in names}
    return {name: round(total, 6) for name, total in totals.items() if total}


async def times(client: QueueClient) -> tuple[float, float]:
    """Return the seconds of workers, and those of busy lanes."""
    minutes = await client.ledger(time.time() - DAY)
    return sum(each.replica_seconds for each in minutes), sum(each.busy_lane_seconds for each in minutes)


async def called(queue: Queue, seconds: float, tenant: str | None = None) -> Lease:
    """Claim and bind a job, and let its call take so long."""
    lease = await claim(queue)
    assert await queue.bind(lease, decoded(lease).model_copy(update={"tenant": tenant})) == "run"
    lease.began, lease.call_seconds = lease.received, seconds
    return lease


async def test_the_ledger_counts_ends_tokens_and_the_time_of_calls(rig: Rig) -> None:
    assert await sums(rig.client) == {}
    await rig.put(*"123456")
    assert await rig.a.settle(await called(rig.a, 1.5), answered(10, 4))
    assert await rig.a.settle(await called(rig.a, 0.25), answered(7, 1))
    assert await rig.a.settle(await called(rig.a, 2.0), Failed("refused", "", Usage(100, 20, 120)))
    assert await rig.a.retry(await called(rig.a, 4.0), failure(used=0.0, delay=60.0)) == "delayed"
    counted = {"ended": 2, "failed": 1, "retried": 1, "prompt_tokens": 117, "completion_tokens": 25}
    assert await sums(rig.client) == {**counted, "call_seconds": 7.75}


async def test_a_job_whose_tries_are_used_up_counts_as_failed_and_not_as_retried(rig: Rig) -> None:
    await rig.put("1")
    lease = await called(rig.a, 3.0)
    assert await rig.a.retry(lease, failure(max_tries=1.0)) == "dead"
    assert await sums(rig.client) == {"failed": 1, "call_seconds": 3.0}


async def test_a_job_is_counted_as_cancelled_wherever_it_was(rig: Rig) -> None:
    (running,) = await rig.put("1")
    await run(rig.a)
    assert await rig.client.cancel(running) == "cancelled"
    assert await sums(rig.client) == {"cancelled": 1}
    (waiting,) = await rig.put("2")
    await rig.client.cancel(waiting)
    assert await sums(rig.client) == {"cancelled": 1}
    lease = await claim(rig.b)
    assert await rig.b.bind(lease, decoded(lease)) == "cancelled"
    assert await sums(rig.client) == {"cancelled": 2}


async def test_what_is_not_recorded_is_not_counted(short: Rig) -> None:
    await short.put("1", "2")
    old, back = await called(short.a, 1.0), await called(short.a, 1.0)
    assert await short.a.settle(back, Released("drain"))
    async with short.beating(short.b):
        new = [await called(short.b, 1.0), await called(short.b, 1.0)]
        assert not await short.a.settle(old, answered(1000, 1000))
        assert await short.a.retry(old, failure()) == "stale"
        for lease in new:
            assert await short.b.settle(lease, answered(1, 1))
            assert not await short.b.settle(lease, answered(1, 1))
    found = await sums(short.client)
    assert (found["ended"], found["prompt_tokens"], found["call_seconds"]) == (2, 2, 2.0)
    assert not {"failed", "retried"} & found.keys()


async def test_a_job_that_the_queue_buries_counts_as_failed(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(short=True, max_crashes=1)
    await rig.put("1")
    await rig.crash(3, jobs=1)
    assert (await sums(rig.client))["failed"] == 1


async def test_an_answer_that_comes_after_its_job_was_buried_counts_too(
    open_rig: Callable[..., Awaitable[Rig]],
) -> None:
    rig = await open_rig(short=True, max_crashes=1)
    await rig.put("1")
    async with rig.beating(rig.b):
        victims = [await rig.opener() for _ in range(3)]
        for victim in victims:
            last = await called(victim, 1.0)
        await until(lambda: _buried(rig))
        assert await victims[-1].settle(last, answered(5, 5))
    found = await sums(rig.client)
    assert (found["failed"], found["ended"], found["prompt_tokens"]) == (1, 1, 5)


async def _buried(rig: Rig) -> bool:
    return (await rig.client.depth()).dead == 1


async def test_of_a_tenant_its_jobs_and_tokens_are_known(rig: Rig) -> None:
    await rig.put(*"123456")
    assert await rig.a.settle(await called(rig.a, 1.0, "a"), answered(10, 1))
    assert await rig.a.settle(await called(rig.a, 1.0, "b-2"), answered(20, 2))
    assert await rig.a.settle(await called(rig.a, 1.0), answered(40, 4))
    assert await rig.a.settle(await called(rig.a, 1.0, "a"), Failed("refused", "", Usage(80, 8, 88)))
    assert await rig.a.retry(await called(rig.a, 1.0, "a"), failure(used=0.0)) == "delayed"
    assert await rig.a.retry(await called(rig.a, 1.0, "b-2"), failure(max_tries=0.5)) == "dead"
    of_a, of_b = await sums(rig.client, tenant="a"), await sums(rig.client, tenant="b-2")
    assert of_a == {"ended": 1, "failed": 1, "prompt_tokens": 90, "completion_tokens": 9}
    assert of_b == {"ended": 1, "failed": 1, "prompt_tokens": 20, "completion_tokens": 2}
    assert await sums(rig.client, tenant="nobody") == {}
    total = await sums(rig.client)
    assert (total["ended"], total["failed"], total["prompt_tokens"]) == (3, 2, 150)


async def test_of_very_many_tenants_in_a_minute_all_are_in_the_totals(rig: Rig) -> None:
    await rig.put(*map(str, range(100)))
    leases = [await called(rig.a, 1.0, f"tenant-{n}") for n in range(100)]
    await asyncio.gather(*(rig.a.settle(lease, answered(1, 1)) for lease in leases))
    assert (await sums(rig.client))["ended"] == 100
    kept = [await sums(rig.client, tenant=f"tenant-{n}") for n in range(100)]
    assert 0 < sum(bool(found) for found in kept) <= 64  # two minutes, if one ends just now


async def test_heartbeats_count_the_time_of_workers_and_of_the_jobs_they_hold(short: Rig) -> None:
    await short.put("1", "2")
    for _ in range(2):
        await run(short.a)
    began = time.monotonic()
    await short.a.beat()
    before, busy_before = await times(short.client)
    for _ in range(5):
        await asyncio.sleep(short.heartbeat)
        await short.a.beat()
    lived = time.monotonic() - began
    after, busy_after = await times(short.client)
    assert short.heartbeat * 3 < after - before <= lived + 0.01
    assert busy_after - busy_before == pytest.approx(2 * (after - before))


async def test_the_most_workers_alive_at_once_are_counted(short: Rig) -> None:
    async def peak() -> int:
        return max(minute.replicas_peak for minute in await short.client.ledger(time.time() - DAY))

    await short.b.aclose()
    await short.a.beat()
    before = await peak()
    others = [await short.opener() for _ in range(3)]
    for queue in (short.a, *others):
        await queue.beat()
    assert before <= 2
    assert await peak() == 4


async def test_a_worker_that_was_silent_counts_two_heartbeats(short: Rig) -> None:
    await short.a.beat()
    before, _ = await times(short.client)
    await asyncio.sleep(5 * short.heartbeat)
    await short.a.beat()
    after, _ = await times(short.client)
    assert after - before == pytest.approx(2 * short.heartbeat)


async def test_the_time_until_a_worker_leaves_is_counted(rig: Rig) -> None:
    await rig.a.beat()
    before, _ = await times(rig.client)
    await asyncio.sleep(0.1)
    await rig.a.aclose()
    after, _ = await times(rig.client)
    assert 0.05 < after - before < PATIENCE


async def test_minutes_are_chosen_by_time_and_come_in_order(rig: Rig) -> None:
    now = time.time()
    await rig.put("1")
    assert await rig.a.settle(await called(rig.a, 1.0), answered(1, 1))
    minutes = await rig.client.ledger(0)
    assert minutes == await rig.client.ledger(now, now + DAY) == await rig.client.ledger(now - DAY, None)
    assert [minute.at for minute in minutes] == sorted({minute.at for minute in minutes})
    assert all(minute.at % 60 == 0 and now - 61 < minute.at <= time.time() for minute in minutes)
    assert await rig.client.ledger(now + 120) == await rig.client.ledger(now - DAY, now - 120) == []


async def test_no_ledger_is_kept_if_nobody_wants_one(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(ledger_days=0)
    await rig.a.beat()
    await rig.put("1")
    assert await rig.a.settle(await called(rig.a, 1.0, "a"), answered(1, 1))
    await rig.a.beat()
    assert await rig.client.ledger(0) == await rig.client.ledger(0, tenant="a") == []
