"""What the queue decides about a job whose call has failed (docs/blame.md)."""

from time import monotonic

import pytest

from greenscale_worker.queues import Lease
from greenscale_worker.testing.rig import ANSWER, Rig, claim, failure, name_of, run


async def succeed(rig: Rig, lease: Lease, *, began: float = 0.0) -> None:
    lease.began = monotonic() + began
    assert await rig.a.settle(lease, ANSWER)


async def test_used_up_tries_bury_with_the_code_and_words_of_the_last_failure(rig: Rig) -> None:
    job_id = await rig.put_in_company("1")
    for verdict in ("delayed", "delayed", "dead"):
        assert await rig.b.retry(await run(rig.b), failure(used=0.4, max_tries=1.2)) == verdict
    record = await rig.client.record(job_id)
    assert (record["state"], record["error_code"], record["error_message"]) == ("failed", "http_400", "no")
    assert record["attempts"] == "3"
    (letter,) = await rig.letters()
    assert (letter.job_id, letter.code, letter.message, letter.attempts) == (job_id, "http_400", "no", 3)


async def test_what_is_no_surprise_never_buries_while_there_are_others(rig: Rig) -> None:
    await rig.put_in_company("1")
    for _ in range(9):
        assert await rig.b.retry(await run(rig.b), failure(used=0.0, max_tries=1)) == "delayed"


async def test_a_job_that_seems_at_fault_is_dead_at_once_the_first_two_that_fail_alike(rig: Rig) -> None:
    await rig.put("1", "2", "3", "4")
    leases = [await run(rig.a) for _ in range(4)]
    verdicts = [await rig.a.retry(lease, failure("job", used=0.0)) for lease in leases]
    assert verdicts == ["dead", "dead", "held", "held"]
    record = await rig.client.record(leases[2].job_id or "")
    assert (record["state"], record["error_code"], record["error_message"]) == ("held", "http_400", "no")
    assert {letter.job_id for letter in await rig.letters()} == {lease.job_id for lease in leases[:2]}


async def test_those_that_fail_otherwise_are_another_matter(rig: Rig) -> None:
    await rig.put("1", "2", "3")
    fingerprints = ["a", "a", "b"]
    verdicts = [await rig.a.retry(await run(rig.a), failure("job", fingerprint=each)) for each in fingerprints]
    assert verdicts == ["dead"] * 3


async def test_held_jobs_are_behind_everything_that_waits_and_wake_nobody_before(rig: Rig) -> None:
    await rig.put("1", "2", "3", "4", "5")
    for _ in range(4):
        await rig.a.retry(await run(rig.a), failure("job"))
    await rig.put("6")
    assert [name_of(await claim(rig.b)) for _ in range(4)] == ["5", "6", "3", "4"]


async def test_a_success_brings_held_jobs_back_to_the_head_and_the_next_failure_is_theirs(rig: Rig) -> None:
    await rig.put("1", "2", "3", "4", "5", "6")
    for _ in range(4):
        await rig.a.retry(await run(rig.a), failure("job"))
    await succeed(rig, await run(rig.a))
    leases = [await run(rig.b) for _ in range(3)]
    assert [name_of(lease) for lease in leases] == ["3", "4", "6"]
    for lease in leases:
        lease.began = monotonic() + 0.1  # not in the same millisecond as the success
    assert await rig.b.retry(leases[2], failure("job")) == "dead"
    assert await rig.b.retry(leases[0], failure("job")) == "dead"
    assert await rig.b.retry(leases[1], failure("job")) == "dead"


async def test_a_call_that_began_in_an_outage_and_fails_after_it_buries_no_third(rig: Rig) -> None:
    await rig.put("1", "2", "late", "well", "new")
    leases = [await run(rig.a) for _ in range(5)]
    for lease in leases:
        lease.began = monotonic()
    for lease in leases[:2]:
        assert await rig.a.retry(lease, failure("job", used=0.0)) == "dead"
    await succeed(rig, leases[3], began=0.05)
    assert await rig.a.retry(leases[2], failure("job", used=0.0)) == "held"
    leases[4].began = monotonic() + 0.1
    assert await rig.a.retry(leases[4], failure("job", used=0.0)) == "dead", "what began after it is another matter"


@pytest.mark.parametrize("prior", ["endpoint", "unknown"])
async def test_whatever_failed_is_behind_fresh_jobs_until_somebody_succeeds(rig: Rig, prior: str) -> None:
    await rig.put("1", "2", "3", "4", "5", "6")
    for _ in range(3):
        assert await rig.a.retry(await run(rig.a), failure(prior, used=0.0)) == "delayed"
    four = await run(rig.a)
    assert name_of(four) == "4"
    await succeed(rig, four)
    assert [name_of(await claim(rig.b)) for _ in range(5)] == ["1", "2", "3", "5", "6"]


async def test_a_heap_that_fails_again_does_not_come_back_at_once(rig: Rig) -> None:
    await rig.put("1", "2", "3", "4", "5", "6")
    for _ in range(3):
        await rig.a.retry(await run(rig.a), failure(used=0.0))
    await succeed(rig, await run(rig.a))
    one = await run(rig.a)
    assert name_of(one) == "1"
    await rig.a.retry(one, failure(used=0.0))
    assert [name_of(await claim(rig.b)) for _ in range(5)] == ["5", "6", "1", "2", "3"]


async def test_each_success_brings_one_held_job_back_though_others_go_on_failing(rig: Rig) -> None:
    await rig.put("1", "2", "3", "4")
    leases = [await run(rig.a) for _ in range(4)]
    for lease in leases[:2]:
        assert await rig.a.retry(lease, failure(used=0.0)) == "delayed"
    await rig.put("5", "6", "7", "8")
    five = await run(rig.b)
    assert name_of(five) == "5"
    await succeed(rig, leases[3])
    assert await rig.a.retry(leases[2], failure(used=0.0)) == "delayed"
    assert [name_of(await claim(rig.b)) for _ in range(3)] == ["1", "6", "7"]


async def test_an_answer_to_a_call_that_began_before_proves_nothing(rig: Rig) -> None:
    await rig.put("1", "2", "3", "4", "5")
    early = await run(rig.a)
    for _ in range(2):
        await rig.a.retry(await run(rig.a), failure("job"))
    await succeed(rig, early, began=-60.0)
    assert await rig.a.retry(await run(rig.a), failure("job")) == "held"


async def test_the_only_job_spreads_its_tries(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    for _ in range(2):  # the first failure of a lone job adds no long wait
        assert await rig.a.retry(await run(rig.a), failure(used=0.0)) == "delayed"
    record = await rig.client.record(job_id)
    assert 119_000 < int(record["due_ms"]) - int(record["claimed_ms"]) < 130_000


async def test_the_only_jobs_last_try_buries_it(rig: Rig) -> None:
    await rig.put("1")
    assert await rig.a.retry(await run(rig.a), failure(used=0.0, max_tries=1)) == "delayed"
    assert await rig.a.retry(await run(rig.a), failure(used=0.0, max_tries=1)) == "dead"


async def test_an_endpoints_fault_of_the_only_job_waits(rig: Rig) -> None:
    await rig.put("1")
    assert await rig.a.retry(await run(rig.a), failure("endpoint", used=0.0, max_tries=1)) == "delayed"


async def test_jobs_known_to_be_ill_are_no_company(rig: Rig) -> None:
    await rig.put("1", "2")
    known = await run(rig.a)
    assert await rig.a.retry(known, failure(used=1.5, delay=60.0)) == "delayed"
    assert await rig.a.retry(await run(rig.a), failure(used=0.0, max_tries=1)) == "delayed"
    assert await rig.a.retry(await run(rig.a), failure(used=0.0, max_tries=1)) == "dead"


async def test_one_that_is_not_known_is(rig: Rig) -> None:
    await rig.put("1", "2")
    assert await rig.a.retry(await run(rig.a), failure(used=1.4, delay=60.0)) == "delayed"
    for _ in range(2):
        assert await rig.a.retry(await run(rig.a), failure(used=0.0, max_tries=1)) == "delayed"


async def test_the_depth_says_since_when_and_why_nothing_succeeds(rig: Rig) -> None:
    await rig.put("1", "2", "3")
    assert (await rig.client.depth()).failing_seconds is None
    for code in ("http_401", "http_500"):
        await rig.a.retry(await run(rig.a), failure("endpoint", code=code, message="check the key", delay=60.0))
    depth = await rig.client.depth()
    assert depth.failing_by == "http_401: check the key"
    assert depth.failing_seconds is not None
    assert 0 <= depth.failing_seconds < 60
    await succeed(rig, await run(rig.a))
    depth = await rig.client.depth()
    assert (depth.failing_seconds, depth.failing_by) == (None, None)
