"""Ends of jobs are published, and jobs are visible, in every state."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from greenscale_worker.job import Failed, Failure
from greenscale_worker.queues import JobFilter, JobInfo
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, claim, decoded, name_of, run, until


class Heard:
    """A listener, and what it has received so far."""

    def __init__(self) -> None:
        self.listening = asyncio.Event()
        self.ids: list[str] = []

    def __call__(self, job_ids: Sequence[str] | None) -> None:
        """See QueueClient.listen."""
        self.ids += job_ids or []
        if job_ids is None:
            self.listening.set()


async def seen(rig: Rig, which: JobFilter | None = None, *, limit: int | None = None) -> list[JobInfo]:
    return [job async for job in rig.client.jobs(which, limit=limit)]


async def states(rig: Rig) -> list[tuple[str | None, str]]:
    return [(job.job_id, job.state) for job in await seen(rig)]


async def test_every_end_is_told_when_result_and_record_are_there(rig: Rig) -> None:
    heard = Heard()
    answered, failed, unwanted, cancelled = await rig.put("answered", "failed", "unwanted", "cancelled")
    async with rig.client.listen(heard):
        async with asyncio.timeout(PATIENCE):
            await heard.listening.wait()
        assert await rig.a.settle(await run(rig.a), ANSWER)
        assert await rig.a.settle(await run(rig.a), Failed("bad", "it was"))
        failure = Failure(code="worse", message="", used=1.0, max_tries=1.0)
        assert await rig.a.retry(await run(rig.a), failure) == "dead"
        await run(rig.a)
        assert await rig.client.cancel(cancelled) == "cancelled"
        never_run, payload = rig.job("never-run")
        await rig.client.put([(never_run, payload)])
        assert await rig.client.cancel(never_run) == "will_be_cancelled"
        lease = await claim(rig.a)
        assert await rig.a.bind(lease, decoded(lease)) == "cancelled"
        everything = [answered, failed, unwanted, cancelled, never_run]

        async def told() -> bool:
            return heard.ids == everything

        await until(told)
        found = await rig.client.look_up(everything)
        ends = [("succeeded", b"4"), ("failed", None), ("failed", None), ("cancelled", None), ("cancelled", None)]
        assert [(record["state"], answer) for record, answer in found] == ends


async def test_what_is_no_end_is_not_told(rig: Rig) -> None:
    heard = Heard()
    _, settled = await rig.put("goes-back", "settled")
    async with rig.client.listen(heard):
        async with asyncio.timeout(PATIENCE):
            await heard.listening.wait()
        delayed = await rig.a.retry(await run(rig.a), Failure(code="slow", message="", used=0.1, delay=60.0))
        assert delayed == "delayed"
        lease = await run(rig.a)
        assert await rig.a.settle(lease, ANSWER)
        assert not await rig.a.settle(lease, Failed("late", "it has ended"))

        async def told() -> bool:
            return settled in heard.ids

        await until(told)
    assert heard.ids == [settled]


async def test_a_look_at_many_jobs_is_that_at_each(rig: Rig) -> None:
    done, waiting = await rig.put("done", "waiting")
    assert await rig.a.settle(await run(rig.a), ANSWER)
    found = await rig.client.look_up([waiting, "unknown", "no id", done, *["unknown"] * 500])
    assert [record.get("state") for record, _ in found[:4]] == ["waiting", None, None, "succeeded"]
    assert [answer for _, answer in found[:4]] == [None, None, None, b"4"]
    assert found[4:] == [({}, None)] * 500
    assert await rig.client.look_up([]) == []


async def test_jobs_are_seen_in_every_state(rig: Rig) -> None:
    assert await seen(rig) == []
    names = ["done", "bad", "runs", "delayed", "back", "cancelling", "waits"]
    ids = dict(zip(names, await rig.put(*names), strict=True))
    assert await rig.client.cancel(ids["cancelling"]) == "will_be_cancelled"
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.a.settle(await run(rig.a), Failed("bad", "it was"))
    await run(rig.b)
    assert await rig.a.retry(await run(rig.a), Failure(code="slow", message="it is", used=0.1, delay=60.0)) == "delayed"
    released = await run(rig.a)
    await rig.put("last")
    jobs = {job.job_id: job for job in await seen(rig)}
    assert [job.state for job in jobs.values()].count("running") == 2
    assert len(jobs) == 8
    assert name_of(released) == "back"
    expected = {
        "done": "succeeded",
        "bad": "failed",
        "runs": "running",
        "delayed": "delayed",
        "back": "running",
        "cancelling": "cancelling",
        "waits": "waiting",
    }
    assert {name: jobs[ids[name]].state for name in names} == expected
    running, bad, slow = (jobs[ids[name]] for name in ("runs", "bad", "delayed"))
    workers = {worker.name for worker in await rig.client.workers()}
    assert running.worker in workers or not workers
    assert (running.attempts, running.finished_at, running.due_at) == (1, None, None)
    assert running.claimed_at is not None
    assert running.submitted_at is not None
    assert running.submitted_at <= running.claimed_at
    assert (bad.code, bad.message, bad.attempts) == ("bad", "it was", 1)
    assert bad.finished_at is not None
    assert (slow.code, slow.message, slow.attempts) == ("slow", "it is", 1)
    assert slow.due_at is not None
    assert slow.due_at > running.claimed_at + 30.0


async def test_jobs_are_seen_by_state_code_and_worker(rig: Rig) -> None:
    ids = await rig.put("1", "2", "3", "4", "5")
    assert await rig.a.settle(await run(rig.a), Failed("bad", ""))
    assert await rig.a.settle(await run(rig.a), Failed("worse", ""))
    await run(rig.a)
    await run(rig.b)

    async def chosen(which: JobFilter) -> list[str | None]:
        return [job.job_id for job in await seen(rig, which)]

    assert await chosen(JobFilter(state="failed")) == [ids[1], ids[0]]
    assert await chosen(JobFilter(code="bad")) == [ids[0]]
    assert await chosen(JobFilter(state="waiting")) == [ids[4]]
    assert await chosen(JobFilter(state="succeeded")) == []
    workers = {job.job_id: job.worker for job in await seen(rig, JobFilter(state="running"))}
    assert workers.keys() == {ids[2], ids[3]}
    assert await chosen(JobFilter(state="running", worker=workers[ids[3]])) == [ids[3]]
    assert await chosen(JobFilter(worker="somebody")) == []
    assert [job.job_id for job in await seen(rig, limit=1)] == [ids[2]]
    assert await seen(rig, limit=0) == []


async def test_a_job_that_is_held_says_why(rig: Rig) -> None:
    await rig.put("1", "2", "3")
    refused = Failure(code="http_400", message="no", prior="job", used=1.0)
    verdicts = [await rig.a.retry(await run(rig.a), refused) for _ in range(3)]
    assert verdicts == ["dead", "dead", "held"]
    (aside,) = [job for job in await seen(rig) if job.state != "failed"]
    assert aside.state in {"delayed", "held"}
    assert (aside.code, aside.message, aside.attempts) == ("http_400", "no", 1)


async def test_many_jobs_are_seen_once_each(rig: Rig) -> None:
    ids = await rig.put(*map(str, range(70)))
    for _ in range(30):
        await run(rig.a)
    found = await seen(rig)
    assert [job.job_id for job in found if job.state == "waiting"] == ids[30:]
    assert {job.job_id for job in found if job.state == "running"} == set(ids[:30])
    assert len(found) == 70


async def test_a_job_that_came_again_is_seen_as_it_stands_now(rig: Rig) -> None:
    job_id, payload = rig.job("again")
    await rig.client.put([(job_id, payload)])
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await states(rig) == [(job_id, "succeeded")]
    await rig.client.put([(job_id, payload)])
    assert await states(rig) == [(job_id, "waiting")]
    lease = await run(rig.a)
    assert await states(rig) == [(job_id, "running")]
    assert await rig.a.settle(lease, Failed("bad", ""))
    assert await states(rig) == [(job_id, "failed")]


async def test_a_dead_letter_that_was_replayed_waits_wherever_one_looks(rig: Rig) -> None:
    job_id, payload = rig.job("again", metadata={"tenant": "a"})
    await rig.client.put([(job_id, payload)])
    submitted = (await rig.client.record(job_id))["submitted_ms"]
    assert await rig.a.settle(await run(rig.a), Failed("bad", "it was"))
    (letter,) = await rig.letters()
    assert await rig.client.replay(letter.id)
    record = await rig.client.record(job_id)
    assert (record["state"], record["submitted_ms"]) == ("waiting", submitted)
    assert not record.keys() & {"error_code", "error_message", "finished_ms", "worker"}
    assert await rig.client.look_up([job_id]) == [(record, None)]
    assert await states(rig) == [(job_id, "waiting")]
    assert await seen(rig, JobFilter(state="failed")) == []
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.state(job_id) == "succeeded"


async def test_the_last_thousand_ends_are_seen_and_their_rate_told(rig: Rig) -> None:
    assert await rig.client.rate() == 0.0
    ids = await rig.put(*map(str, range(1010)))

    async def work_off() -> None:
        for _ in range(101):
            assert await rig.a.settle(await run(rig.a), ANSWER)

    await asyncio.gather(*(work_off() for _ in range(10)))
    found = [job.job_id for job in await seen(rig, JobFilter(state="succeeded"))]
    assert len(found) == len(set(found)) == 1000
    assert set(found) < set(ids)
    assert await rig.client.rate() > 0.0


async def test_without_records_what_ended_is_not_seen(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(result_ttl=0)
    _, waits = await rig.put("ends", "waits")
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await states(rig) == [(waits, "waiting")]
    assert await rig.client.rate() == 0.0
