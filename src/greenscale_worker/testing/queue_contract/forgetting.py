"""What is kept of jobs is read, and deleted, for many at a time."""

import time

import pytest

from greenscale_worker.job import Failed, Output, Released, Succeeded
from greenscale_worker.testing.rig import ANSWER, Rig, run

BODY = b'{"choices":[]}'


async def test_the_whole_answers_of_many_are_read_at_once(rig: Rig) -> None:
    jobs = [rig.job(str(number), keep="body") for number in range(3)]
    await rig.client.put([*jobs, rig.job("text")])
    for number in range(3):
        assert await rig.a.settle(await run(rig.a), Succeeded(Output("4", body=b"[%d]" % number)))
    assert await rig.a.settle(await run(rig.a), Succeeded(Output("4", body=BODY)))
    first, second, third = (job_id for job_id, _ in jobs)
    text, _ = rig.job("text")
    wanted = [third, "unknown", first, text, "no id", second, first, *["unknown"] * 200]
    found = await rig.client.bodies(wanted)
    assert found == [b"[2]", None, b"[0]", None, None, b"[1]", b"[0]", *[None] * 200]
    assert await rig.client.bodies([]) == []


async def test_nothing_is_left_of_what_is_forgotten(rig: Rig) -> None:
    job_id, payload = rig.job("1", keep="body", tokens=True)
    kept, _ = rig.job("2")
    await rig.client.put([(job_id, payload), rig.job("2")])
    lease = await run(rig.a)
    assert await rig.a.write_tokens(lease, "four")
    assert await rig.a.settle(lease, Succeeded(Output("4", body=BODY)))
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.client.forget([job_id, "unknown", "no id", job_id]) == 1
    assert await rig.client.record(job_id) == {}
    assert [await rig.client.result(job_id), await rig.client.body(job_id)] == [None, None]
    assert await rig.client.read_tokens({job_id: ""}, wait=0.0) == []
    assert await rig.client.look_up([job_id, kept]) == [({}, None), (await rig.client.record(kept), b"4")]
    assert await rig.client.put([(job_id, payload)], once=True) == [True]


async def test_open_jobs_are_never_forgotten(rig: Rig) -> None:
    failed, delayed, runs, waits, cancelling = ids = await rig.put("failed", "delayed", "runs", "waits", "cancelling")
    later, payload = rig.job("later")
    assert await rig.client.put([(later, payload)], not_before=time.time() + 600) == [True]
    assert await rig.a.settle(await run(rig.a), Failed("bad", ""))
    assert await rig.a.settle(await run(rig.a), Released("overload", delay=60.0))
    lease = await run(rig.a)
    (letter,) = await rig.letters()
    assert await rig.client.replay(letter.id)
    assert await rig.client.cancel(cancelling) == "will_be_cancelled"
    states = dict.fromkeys([failed, waits], "waiting") | {delayed: "delayed", runs: "running"}
    states |= {cancelling: "cancelling", later: "scheduled"}
    assert await rig.client.forget([*ids, later]) == 0
    assert {job_id: await rig.state(job_id) for job_id in states} == states
    assert await rig.a.settle(lease, ANSWER)
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.client.cancel(later) == "cancelled"
    assert await rig.client.forget([*ids, later]) == 3
    assert await rig.state(waits) == "waiting"


async def test_a_dead_letter_outlives_what_is_known_of_its_job(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), Failed("bad", ""))
    assert await rig.client.forget([job_id]) == 1
    (letter,) = await rig.letters()
    assert letter.job_id == job_id
    assert await rig.client.replay(letter.id)
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.client.result(job_id) == b"4"


async def test_more_are_forgotten_than_one_step_takes(rig: Rig) -> None:
    ids = await rig.put(*map(str, range(250)))
    for _ in ids:
        assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.client.forget(ids) == 250
    assert await rig.client.look_up(ids) == [({}, None)] * 250


async def test_one_id_is_no_list_of_them(rig: Rig) -> None:
    with pytest.raises(TypeError, match="list of jobs' ids"):
        await rig.client.forget("abc")
    with pytest.raises(TypeError, match="list of notices' ids"):
        await rig.client.acknowledge_notices("1")
