"""Retries find the jobs of clients that have gone."""

import asyncio

from greenscale_worker.queues import Attendance
from greenscale_worker.testing.rig import Rig, until


async def put(rig: Rig, name: str, gateway: str, number: int = 1) -> Attendance:
    """Put a job for a client of a gateway."""
    job_id, payload = rig.job(name)
    attendance = Attendance(f"alike-{rig.suffix}", job_id, gateway, number)
    await rig.client.put([(job_id, payload)], once=True, attendance=attendance)
    return attendance


async def test_a_job_whose_client_has_left_is_joined_once(rig: Rig) -> None:
    first = await put(rig, "1", "a")
    assert await rig.client.join(first.alike, "b", 1) == (None, 1), "its client waits"
    assert await rig.client.join("others", "b", 2) == (None, 0), "that is about other requests"
    assert await rig.client.attend("a", [(first, "left")]) == [True]
    assert await rig.client.join(first.alike, "b", 3) == (first.job_id, 0)
    assert await rig.client.join(first.alike, "b", 3) == (first.job_id, 0), "the same client asks again"
    assert await rig.client.join(first.alike, "a", 2) == (None, 1), "another has joined it"


async def test_who_has_left_is_told_whether_another_has_joined_its_job(rig: Rig) -> None:
    first, second = await put(rig, "1", "a", 1), await put(rig, "2", "a", 2)
    assert await rig.client.attend("a", [(first, "left"), (second, "waits"), (second, "left")]) == [True] * 3
    joined, _ = await rig.client.join(first.alike, "b", 1)
    kept = second if joined == first.job_id else first
    lost = first if joined == first.job_id else second
    assert await rig.client.attend("a", [(lost, "left"), (lost, "waits"), (lost, "over")]) == [False] * 3
    assert await rig.client.attend("a", [(kept, "over")]) == [True]
    assert await rig.client.attend("a", [(kept, "over")]) == [False], "it is found no more"
    assert await rig.client.join(first.alike, "b", 2) == (None, 1)


async def test_the_clients_of_a_gateway_that_is_silent_have_gone(rig: Rig) -> None:
    first = await put(rig, "1", "a")
    assert await rig.client.join(first.alike, "b", 1) == (None, 1), "a gateway that puts a job lives"

    async def is_joined() -> bool:
        return await rig.client.join(first.alike, "b", 1) == (first.job_id, 0)

    await until(is_joined)
    assert await rig.client.attend("a", [(first, "left")]) == [False], "it was only slow"


async def test_two_retries_never_join_the_same_job(rig: Rig) -> None:
    jobs = [await put(rig, str(number), "a", number) for number in range(5)]
    await rig.client.attend("a", [(job, "left") for job in jobs])
    alike = jobs[0].alike
    found = await asyncio.gather(*(rig.client.join(alike, "ab"[number % 2], 10 + number) for number in range(8)))
    joined = [job_id for job_id, _ in found if job_id is not None]
    assert sorted(joined) == sorted(job.job_id for job in jobs)
