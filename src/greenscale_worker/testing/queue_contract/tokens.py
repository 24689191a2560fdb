"""The text of a job's run, shown while it comes."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from greenscale_worker.job import Failed, Released
from greenscale_worker.queues import TokenPiece
from greenscale_worker.testing.rig import A_WHILE, ANSWER, PATIENCE, Rig, claim, failure, run, until


async def read(rig: Rig, job_id: str, after: str = "") -> list[TokenPiece]:
    return await rig.client.read_tokens({job_id: after}, wait=0.0)


def texts(pieces: list[TokenPiece]) -> list[tuple[int, str]]:
    return [(piece.attempt, piece.text) for piece in pieces]


async def test_text_is_read_in_order_from_anywhere(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await read(rig, job_id) == []
    for text in ("Hel", "lo \N{WAVING HAND SIGN} ", "\n", "\ud83d"):
        assert await rig.a.write_tokens(lease, text)
    pieces = await read(rig, job_id)
    assert texts(pieces) == [(1, "Hel"), (1, "lo \N{WAVING HAND SIGN} "), (1, "\n"), (1, pieces[3].text)]
    assert {piece.job_id for piece in pieces} == {job_id}
    assert [await read(rig, job_id, piece.position) for piece in pieces] == [pieces[1:], pieces[2:], pieces[3:], []]
    assert await rig.a.settle(lease, ANSWER)
    assert await read(rig, job_id) == pieces, "it is kept as long as a result"


async def test_many_jobs_are_read_at_once(rig: Rig) -> None:
    ids = await rig.put(*map(str, range(40)))
    leases = [await run(rig.a) for _ in ids]
    wrote = await asyncio.gather(*(rig.a.write_tokens(lease, lease.job_id or "") for lease in leases))
    assert wrote == [True] * len(ids)
    pieces = await rig.client.read_tokens(dict.fromkeys([*ids, "unknown", "no id"], ""), wait=0.0)
    assert {piece.job_id: piece.text for piece in pieces} == {job_id: job_id for job_id in ids}
    assert len(pieces) == len(ids)


async def test_a_reader_waits_for_the_next_piece_of_any_job(rig: Rig) -> None:
    one, two = await rig.put("1", "2")
    leases = {lease.job_id: lease for lease in [await run(rig.a), await run(rig.a)]}
    assert await rig.a.write_tokens(leases[one], "read")
    (piece,) = await read(rig, one)
    after = {one: piece.position, two: ""}
    assert await rig.client.read_tokens(after, wait=A_WHILE) == []
    reading = asyncio.create_task(rig.client.read_tokens(after, wait=PATIENCE))
    done, _ = await asyncio.wait({reading}, timeout=A_WHILE)
    assert not done
    assert await rig.client.depth(), "a client that waits is not kept from anything else"
    assert await rig.a.write_tokens(leases[two], "new")
    async with asyncio.timeout(PATIENCE):
        assert texts(await reading) == [(1, "new")]
    assert await rig.client.read_tokens({}, wait=0.0) == []


async def test_a_reader_may_be_cancelled(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    reading = asyncio.create_task(rig.client.read_tokens({job_id: ""}, wait=PATIENCE))
    await asyncio.sleep(A_WHILE)
    reading.cancel()
    await asyncio.wait({reading})
    assert await rig.a.write_tokens(lease, "new")
    assert texts(await rig.client.read_tokens({job_id: ""}, wait=PATIENCE)) == [(1, "new")]


@pytest.mark.parametrize("position", ["x", "1", "1-", "-", "$", "1-1-1", "9" * 30 + "-1"])
async def test_what_is_no_position_is_refused(rig: Rig, position: str) -> None:
    with pytest.raises(ValueError, match="is no position"):
        await rig.client.read_tokens({"1": position}, wait=0.0)


@pytest.mark.parametrize("how", ["failed", "drained"])
async def test_a_run_that_follows_has_a_higher_number(rig: Rig, how: str) -> None:
    job_id = await rig.put_in_company("1")
    lease = await run(rig.a)
    assert await rig.a.write_tokens(lease, "first")
    assert await rig.a.write_tokens(lease, "", last=True)
    if how == "failed":
        assert await rig.a.retry(lease, failure(used=0.1)) == "delayed"
    else:
        assert await rig.a.settle(lease, Released("drain"))
    assert not await rig.a.write_tokens(lease, "late")
    again = await run(rig.b)
    assert not await rig.a.write_tokens(lease, "late")
    assert await rig.b.write_tokens(again, "second")
    assert await rig.b.write_tokens(again, "on")
    pieces = await read(rig, job_id)
    (first, second), said = {piece.attempt: piece for piece in pieces}, [piece.text for piece in pieces]
    assert said == ["first", "second", "on"]
    assert first < second
    assert pieces[1].attempt == pieces[2].attempt


async def test_a_run_after_a_crash_has_a_higher_number(short: Rig) -> None:
    (job_id,) = await short.put("1")
    lost = await run(short.a)
    assert await short.a.write_tokens(lost, "first")
    async with short.beating(short.b):
        again = await run(short.b)
        assert not await short.a.write_tokens(lost, "late")
        assert await short.b.write_tokens(again, "second")
        pieces = await read(short, job_id)
        assert [piece.text for piece in pieces] == ["first", "second"]
        assert pieces[0].attempt < pieces[1].attempt


@pytest.mark.parametrize("how", ["succeeded", "failed", "cancelled"])
async def test_nobody_writes_after_the_end(rig: Rig, how: str) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await rig.a.write_tokens(lease, "text")
    if how == "cancelled":
        assert await rig.client.cancel(job_id) == "cancelled"
    else:
        assert await rig.a.settle(lease, ANSWER if how == "succeeded" else Failed("bad", ""))
    assert not await rig.a.write_tokens(lease, "late")
    assert texts(await read(rig, job_id)) == [(1, "text")]


async def test_nobody_writes_for_a_job_that_is_not_bound(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    assert not await rig.a.write_tokens(await claim(rig.a), "early")
    assert await read(rig, job_id) == []


async def test_the_text_of_an_earlier_job_of_the_id_is_not_that_of_the_next(rig: Rig) -> None:
    job_id, payload = rig.job("1")
    for attempt, text in enumerate(("old", "new"), start=1):
        await rig.client.put([(job_id, payload)])
        lease = await run(rig.a)
        assert await rig.a.write_tokens(lease, text, last=True)
        assert texts(await read(rig, job_id)) == [(attempt, text)], (
            "whoever has read the old one sees that it begins anew"
        )
        assert await rig.a.settle(lease, ANSWER)


async def test_a_long_text_is_read_to_its_end(rig: Rig) -> None:
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    await asyncio.gather(*(rig.a.write_tokens(lease, f"{number} ") for number in range(250)))
    pieces: list[TokenPiece] = []
    while some := await read(rig, job_id, pieces[-1].position if pieces else ""):
        pieces += some
    assert "".join(piece.text for piece in pieces).split() == [str(number) for number in range(250)]


async def test_without_results_no_text_is_kept(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(result_ttl=0)
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await rig.a.write_tokens(lease, "text")
    assert await read(rig, job_id) == []


async def test_text_lasts_as_long_as_a_result_once_its_run_has_ended(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(result_ttl=1)
    (job_id,) = await rig.put("1")
    lease = await run(rig.a)
    assert await rig.a.write_tokens(lease, "text", last=True)

    async def is_gone() -> bool:
        return not await read(rig, job_id)

    await until(is_gone)
