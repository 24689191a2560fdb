"""How outcomes are recorded: once, in one step, and only by the lease's owner."""

import time
from collections.abc import Awaitable, Callable

from greenscale_worker.job import Failed, Output, Released, Succeeded
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, claim, run, until


async def test_an_answer_is_recorded_and_ends_the_job(rig: Rig) -> None:
    job_id, payload = rig.job("1", metadata={"team": "a"})
    await rig.client.put([(job_id, payload)])
    assert await rig.a.settle(await run(rig.a), ANSWER)
    assert await rig.client.result(job_id) == b"4"
    record = await rig.client.record(job_id)
    expected = {
        "state": "succeeded",
        "attempts": "1",
        "crashes": "0",
        "metadata": '{"team":"a"}',
        "model": "llama",
        "finish_reason": "stop",
        "prompt_tokens": "3",
        "completion_tokens": "1",
        "total_tokens": "4",
    }
    assert {name: record.get(name) for name in expected} == expected
    times = [int(record[f"{name}_ms"]) for name in ("submitted", "first_claimed", "claimed", "finished")]
    assert times == sorted(times)
    assert record["worker"]
    assert "error_code" not in record
    depth = await rig.client.depth()
    assert (depth.waiting, depth.running, depth.delayed, depth.dead) == (0, 0, 0, 0)


async def test_what_an_endpoint_did_not_say_is_not_in_the_record(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), Succeeded(Output("")))
    assert await rig.client.result(job_id) == b""
    said = {"model", "finish_reason", "prompt_tokens", "completion_tokens", "total_tokens", "metadata"}
    assert not said & set(await rig.client.record(job_id))


async def test_a_job_settles_once(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await rig.a.settle(lease, ANSWER)
    assert not await rig.a.settle(lease, Succeeded(Output("5")))
    assert not await rig.a.settle(lease, Failed("late", ""))
    assert not await rig.a.settle(lease, Released("late"))
    assert await rig.client.result(job_id) == b"4"
    assert await rig.letters() == []


async def test_a_failure_is_a_dead_letter_and_a_record_and_never_a_result(rig: Rig) -> None:
    job_id, payload = rig.job("1", metadata={"team": "a"})
    await rig.client.put([(job_id, payload)])
    lease = await run(rig.a)
    assert await rig.a.settle(lease, Failed("refused", 'content | filter\n"é"'))
    assert await rig.client.result(job_id) is None
    record = await rig.client.record(job_id)
    expected = {
        "state": "failed",
        "attempts": "1",
        "error_code": "refused",
        "error_message": 'content | filter\n"é"',
        "metadata": '{"team":"a"}',
    }
    assert {name: record.get(name) for name in expected} == expected
    assert int(record["finished_ms"]) >= int(record["claimed_ms"])
    (letter,) = await rig.letters()
    assert (letter.id, letter.job_id, letter.code, letter.message) == (
        lease.id,
        job_id,
        "refused",
        'content | filter\n"é"',
    )
    assert (letter.attempts, letter.crashes, letter.payload) == (1, 0, payload)
    assert abs(letter.died_at - time.time()) < PATIENCE
    assert (await rig.client.depth()).dead == 1


async def test_a_payload_without_a_usable_id_is_a_dead_letter_without_a_record(rig: Rig) -> None:
    raw = b"\xff\x00 | \n not JSON"
    await rig.client.put([("x", raw)])
    assert await rig.a.settle(await claim(rig.a), Failed("not_json", "not JSON"))
    (letter,) = await rig.letters()
    assert (letter.job_id, letter.code, letter.payload) == (None, "not_json", raw)


async def test_a_bad_payload_with_a_usable_id_has_a_record_of_its_failure(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await claim(rig.a)
    lease.job_id = job_id
    assert await rig.a.settle(lease, Failed("bad_field", "deadline: unreadable"))
    record = await rig.client.record(job_id)
    assert (record["state"], record["error_code"]) == ("failed", "bad_field")
    (letter,) = await rig.letters()
    assert (letter.job_id, letter.code) == (job_id, "bad_field")


async def test_the_record_of_a_bad_payload_says_nothing_of_an_earlier_job(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    assert await rig.a.settle(await run(rig.a), ANSWER)
    await rig.client.put([(rig.job("other")[0], b"bad")])  # as if pushed by hand, with no record of its own
    lease = await claim(rig.a)
    lease.job_id = job_id
    assert await rig.a.settle(lease, Failed("bad_field", ""))
    record = await rig.client.record(job_id)
    assert record["state"] == "failed"
    assert not {"model", "total_tokens", "claimed_ms", "worker"} & set(record)


async def test_a_bad_payload_leaves_the_record_of_a_live_job_alone(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    first = await run(rig.a)
    await rig.client.put([(job_id, b"bad")])
    record = await rig.client.record(job_id)
    assert record["state"] == "running"
    second = await claim(rig.b)
    second.job_id = job_id
    assert await rig.b.settle(second, Failed("bad_field", ""))
    assert await rig.client.record(job_id) == record
    assert [letter.code for letter in await rig.letters()] == ["conflict"]
    assert await rig.a.settle(first, ANSWER)


async def test_a_finished_answer_wins_over_the_dead_letter_of_the_same_lease(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await rig.a.settle(lease, Failed("timeout", ""))
    assert await rig.a.settle(lease, ANSWER)
    assert await rig.client.result(job_id) == b"4"
    record = await rig.client.record(job_id)
    assert record["state"] == "succeeded"
    assert not {"error_code", "error_message"} & set(record)
    assert await rig.letters() == []


async def test_without_a_time_to_live_neither_result_nor_record_is_written(
    open_rig: Callable[..., Awaitable[Rig]],
) -> None:
    rig = await open_rig(result_ttl=0)
    (job_id, other) = await rig.put("1", "2")
    lease = await run(rig.a)
    assert await rig.client.record(job_id) == {}
    assert await rig.a.settle(lease, ANSWER)
    assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    for asked in (job_id, other):
        assert await rig.client.record(asked) == {}
        assert await rig.client.result(asked) is None
    assert len(await rig.letters()) == 1


async def test_results_and_final_records_end_with_their_time_to_live(
    open_rig: Callable[..., Awaitable[Rig]],
) -> None:
    rig = await open_rig(result_ttl=1)
    (job_id, other) = await rig.put("1", "2")
    assert await rig.a.settle(await run(rig.a), ANSWER)

    async def over() -> bool:
        return await rig.client.result(job_id) is None and not await rig.client.record(job_id)

    assert not await over()
    await until(over)
    assert await rig.state(other) == "waiting"
