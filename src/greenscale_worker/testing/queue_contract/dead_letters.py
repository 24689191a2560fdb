"""How dead letters are replayed and purged."""

import asyncio

from greenscale_worker.job import Failed, Failure
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, claim, decoded, lanes, name_of, run, until


async def test_a_replayed_job_starts_anew_at_the_head(rig: Rig) -> None:
    (job_id, _) = await rig.put("1", "2")
    for _ in range(2):
        assert await rig.a.retry(await run(rig.a), Failure(code="server_error", message="")) == "delayed"
    assert await rig.a.settle(await run(rig.a), Failed("server_error", "a|b\nc"))
    (letter,) = await rig.letters()
    assert letter.tries == 2
    async with lanes(rig.b, 2) as waiting:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert await rig.admin.replay(letter.id)
        async with asyncio.timeout(PATIENCE):
            leases = {name_of(lease): lease for lease in await asyncio.gather(*waiting)}
    assert (leases["1"].tries, leases["1"].crashes, leases["1"].payload) == (0, 0, letter.payload)
    assert await rig.b.bind(leases["1"], decoded(leases["1"])) == "run"
    assert await rig.letters() == []
    assert await rig.b.settle(leases["1"], ANSWER)
    assert await rig.state(job_id) == "succeeded"


async def test_a_replayed_job_comes_before_fresh_ones_with_its_bytes_untouched(rig: Rig) -> None:
    raw = b"\xff|\n\x00|"
    await rig.admin.put([("raw", raw), rig.job("2")])
    assert await rig.a.settle(await claim(rig.a), Failed("not_json", "|"))
    (letter,) = await rig.letters()
    assert await rig.admin.replay(letter.id)
    assert (await claim(rig.a)).payload == raw


async def test_only_a_dead_letter_can_be_replayed_and_once(rig: Rig) -> None:
    await rig.put("1")
    assert not await rig.admin.replay("17")
    assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    (letter,) = await rig.letters()
    assert await rig.admin.replay(letter.id)
    assert not await rig.admin.replay(letter.id)
    assert (await rig.admin.depth()).waiting == 1


async def test_dead_letters_are_purged_by_age(rig: Rig) -> None:
    names = [str(number) for number in range(5)]
    await rig.put(*names)
    for _ in names:
        assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    assert await rig.admin.purge(older_than=3600) == 0
    assert len(await rig.letters()) == 5
    purged = []

    async def all_purged() -> bool:
        purged.append(await rig.admin.purge(older_than=0))
        return sum(purged) == len(names)

    await until(all_purged)
    assert await rig.letters() == []
