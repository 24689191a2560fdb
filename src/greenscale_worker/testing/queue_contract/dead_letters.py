"""How dead letters are listed, counted, replayed and purged."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from greenscale_worker.job import Failed, Failure
from greenscale_worker.queues import DeadFilter, DeadLetter
from greenscale_worker.testing.rig import ANSWER, PATIENCE, Rig, claim, decoded, lanes, name_of, run, until

MANY: Final = 100


async def test_a_replayed_job_starts_anew_at_the_head(rig: Rig) -> None:
    job_id = await rig.put_in_company("1")
    for _ in range(2):
        assert await rig.a.retry(await run(rig.a), Failure(code="server_error", message="")) == "delayed"
    assert await rig.a.settle(await run(rig.a), Failed("server_error", "a|b\nc"))
    (letter,) = await rig.letters()
    assert letter.attempts == 3
    await rig.put("2")
    async with lanes(rig.b, 2) as waiting:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert await rig.client.replay(letter.id)
        async with asyncio.timeout(PATIENCE):
            leases = {name_of(lease): lease for lease in await asyncio.gather(*waiting)}
    assert (leases["1"].tries, leases["1"].crashes, leases["1"].payload) == (0, 0, letter.payload)
    assert await rig.b.bind(leases["1"], decoded(leases["1"])) == "run"
    assert await rig.letters() == []
    assert await rig.b.settle(leases["1"], ANSWER)
    assert await rig.state(job_id) == "succeeded"


async def test_a_replayed_job_comes_before_fresh_ones_with_its_bytes_untouched(rig: Rig) -> None:
    raw = b"\xff|\n\x00|"
    await rig.client.put([("raw", raw), rig.job("2")])
    assert await rig.a.settle(await claim(rig.a), Failed("not_json", "|"))
    (letter,) = await rig.letters()
    assert await rig.client.replay(letter.id)
    assert (await claim(rig.a)).payload == raw


async def test_only_a_dead_letter_can_be_replayed_and_once(rig: Rig) -> None:
    await rig.put("1")
    assert not await rig.client.replay("17")
    assert await rig.a.settle(await run(rig.a), Failed("refused", ""))
    (letter,) = await rig.letters()
    assert await rig.client.replay(letter.id)
    assert not await rig.client.replay(letter.id)
    assert (await rig.client.depth()).waiting == 1


async def test_many_are_replayed_in_portions(rig: Rig) -> None:
    letters = await bury(rig, *(["refused"] * 230))
    assert await rig.client.replay_many([letter.id for letter in letters]) == ["replayed"] * 230
    assert await rig.client.replay_many([letters[0].id, "17", "\ud800"]) == ["unknown"] * 3
    assert await rig.letters() == []
    for letter in letters:
        assert (await claim(rig.a)).payload == letter.payload, "in the order in which they came"


async def test_dead_letters_come_the_latest_first_and_no_more_than_asked_for(rig: Rig) -> None:
    letters = await bury(rig, "x", "y", "x", "z", "x")
    assert await listed(rig) == letters[::-1]
    assert await listed(rig, oldest_first=True) == letters
    assert await listed(rig, limit=2) == letters[:2:-1]
    assert await listed(rig, limit=0) == []
    assert await listed(rig, limit=2, after=letters[3].id) == letters[2:0:-1]
    assert await listed(rig, after=letters[0].id) == []
    assert await listed(rig, payloads=False) == [replace(letter, payload=b"") for letter in letters[::-1]]


async def test_dead_letters_are_chosen_by_code_and_time(rig: Rig) -> None:
    codes = ["http_4", "http_42", "http_429", "http_4", "a b|c", "\ufffd\n"]
    letters = await bury(rig, *codes)
    for code in codes:
        right = [letter for letter in letters[::-1] if letter.code == code]
        assert await listed(rig, DeadFilter(code=code)) == right
        assert await rig.client.dead_count(DeadFilter(code=code)) == len(right)
    assert await listed(rig, DeadFilter(code="http_"), limit=9) == []
    assert await listed(rig, DeadFilter(code="http_4"), limit=1, after=letters[3].id) == letters[:1]
    since = letters[3].died_at
    assert await listed(rig, DeadFilter(since=since)) == [each for each in letters[::-1] if each.died_at >= since]
    assert await rig.client.dead_count(DeadFilter(younger_than=3600)) == len(codes)
    assert await rig.client.dead_count(DeadFilter(older_than=3600)) == 0
    assert await rig.client.dead_count(DeadFilter(since=since + 3600)) == 0
    assert await rig.client.dead_count(DeadFilter(code="http_4", since=since)) == 1
    assert await rig.client.dead_count() == len(codes)
    assert await rig.client.dead_codes() == Counter(
        {"http_4": 2, "http_42": 1, "http_429": 1, "a b|c": 1, "\ufffd\n": 1}
    )


async def test_a_dead_letter_is_found_by_its_job(rig: Rig) -> None:
    first, *_ = await bury(rig, "x", "y")
    assert first.job_id
    assert await rig.client.dead_letter(first.id) == first
    assert await rig.client.dead_letter(first.job_id) == first
    assert await rig.client.dead_letter(first.job_id, payload=False) == replace(first, payload=b"")
    await rig.client.put([(first.job_id, first.payload)])
    assert await rig.a.settle(await run(rig.a), Failed("again", ""))
    latest = await rig.client.dead_letter(first.job_id)
    assert latest
    assert (latest.code, latest.id != first.id) == ("again", True)
    for nobody in ("nobody", "", "\ud800", "\0"):
        assert await rig.client.dead_letter(nobody) is None


async def test_what_is_gone_from_the_dead_is_counted_nowhere(rig: Rig) -> None:
    letters = await bury(rig, "x", "y", "z")
    assert await rig.client.replay(letters[0].id)
    assert await rig.client.purge(older_than=0, code="y") == 1
    assert await rig.client.dead_codes() == {"z": 1}
    assert await rig.client.dead_count() == (await rig.client.depth()).dead == 1
    assert await listed(rig) == letters[2:]


async def test_dead_letters_are_purged_by_age_and_code(rig: Rig) -> None:
    await bury(rig, *["x"] * 130, *["y"] * 3)
    assert await rig.client.purge(older_than=3600) == 0
    assert await rig.client.purge(older_than=0, code="z") == 0
    assert await rig.client.purge(older_than=0, code="x") == 130
    assert await rig.client.purge(older_than=0) == 3
    assert await rig.letters() == []


async def test_dead_letters_are_deleted_by_their_ids(rig: Rig) -> None:
    first, second, third = await bury(rig, "x", "y", "x")
    assert await rig.client.discard([first.id, "nobody", second.id, first.id]) == 2
    assert await rig.client.discard([first.id]) == 0
    assert await listed(rig) == [third]
    assert await rig.client.dead_codes() == {"x": 1}
    assert third.job_id
    assert await rig.client.dead_letter(third.job_id) == third
    assert first.job_id
    assert await rig.client.dead_letter(first.job_id) is None
    with pytest.raises(TypeError):
        await rig.client.discard(third.id)


async def test_the_oldest_of_too_many_dead_letters_go(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(dead_max_count=3)
    letters = await bury(rig, *"abcdefgh")
    await rig.a.beat()
    assert await listed(rig, oldest_first=True) == letters[-3:]


async def test_dead_letters_that_are_too_old_go(open_rig: Callable[..., Awaitable[Rig]]) -> None:
    rig = await open_rig(dead_max_age=0.3)
    (old,) = await bury(rig, "old")

    async def is_gone() -> bool:
        await rig.a.beat()
        return await rig.client.dead_letter(old.id) is None

    assert not await is_gone()
    await until(is_gone)


async def bury(rig: Rig, *codes: str) -> list[DeadLetter]:
    """Let jobs die of these codes, one after the other. Return the letters in this order."""
    await rig.put(*(str(number) for number in range(len(codes))))
    letters = []
    for code in codes:
        lease = await run(rig.a)
        assert await rig.a.settle(lease, Failed(code, f"of {code}"))
        if len(codes) < MANY:  # times of death are milliseconds
            letter = await rig.client.dead_letter(lease.id)
            assert letter
            letters.append(letter)
            await asyncio.sleep(0.002)
    return letters or [letter async for letter in rig.client.dead(oldest_first=True)]


async def listed(rig: Rig, which: DeadFilter | None = None, **options: Any) -> list[DeadLetter]:
    return [letter async for letter in rig.client.dead(which, **options)]
