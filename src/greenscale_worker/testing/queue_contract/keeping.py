"""What is kept of an answer beside its text."""

from collections.abc import Awaitable, Callable

from greenscale_worker.job import Failed, Output, Succeeded
from greenscale_worker.testing.rig import Rig, run

BODY = b'{"choices":[{"message":{"content":"4 \xe2\x82\xac"}}],"usage":null}'
WHOLE = Succeeded(Output("4", model="llama", body=BODY))


async def test_the_whole_answer_is_kept_for_a_job_that_asks_for_it(rig: Rig) -> None:
    jobs = [rig.job(name, **fields) for name, fields in [("1", {"keep": "body"}), ("2", {}), ("3", {"keep": "body"})]]
    asks, asks_not, asks_too = [job_id for job_id, _ in jobs]
    await rig.client.put(jobs)
    leases = [await run(rig.a) for _ in jobs]
    for lease in leases:
        assert await rig.a.settle(lease, WHOLE)
    assert [await rig.client.body(job_id) for job_id in (asks, asks_not, asks_too)] == [BODY, None, BODY]
    assert [await rig.client.result(job_id) for job_id in (asks, asks_not)] == [b"4", b"4"]
    records = [await rig.client.record(job_id) for job_id in (asks, asks_not)]
    assert [record.get("keep") for record in records] == ["body", None]
    assert [await rig.client.body(job_id) for job_id in ("unknown", "no id")] == [None, None]


async def test_a_long_answer_is_kept_whole(rig: Rig) -> None:
    job_id, payload = rig.job("1", keep="body")
    await rig.client.put([(job_id, payload)])
    body = b"[" + b",".join(b"%d" % number for number in range(200_000)) + b"]"
    assert await rig.a.settle(await run(rig.a), Succeeded(Output("4", body=body)))
    assert await rig.client.body(job_id) == body


async def test_nothing_is_kept_of_a_failure_or_where_the_backend_has_no_whole_answer(rig: Rig) -> None:
    jobs = [rig.job("1", keep="body"), rig.job("2", keep="body")]
    await rig.client.put(jobs)
    assert await rig.a.settle(await run(rig.a), Failed("bad", "it was"))
    assert await rig.a.settle(await run(rig.a), Succeeded(Output("4")))
    assert [await rig.client.body(job_id) for job_id, _ in jobs] == [None, None]
    assert await rig.client.result(jobs[1][0]) == b"4"


async def test_a_kept_answer_is_never_that_of_an_earlier_job_of_the_id(rig: Rig) -> None:
    job_id, asks = rig.job("1", keep="body")
    await rig.client.put([(job_id, asks)])
    assert await rig.a.settle(await run(rig.a), WHOLE)
    _, asks_not = rig.job("1")
    await rig.client.put([(job_id, asks_not)])
    lease = await run(rig.a)
    assert await rig.client.body(job_id) is None
    assert await rig.a.settle(lease, WHOLE)
    assert await rig.client.body(job_id) is None


async def test_without_results_no_whole_answer_is_kept(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(result_ttl=0)
    job_id, payload = rig.job("1", keep="body")
    await rig.client.put([(job_id, payload)])
    assert await rig.a.settle(await run(rig.a), WHOLE)
    assert await rig.client.body(job_id) is None
