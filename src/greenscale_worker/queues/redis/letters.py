"""Dead letters, for clients."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from greenscale_worker.queues import DeadFilter, DeadLetter, Replay
from greenscale_worker.queues.redis.caller import Caller
from greenscale_worker.queues.redis.replies import (
    read_counts,
    read_cursor,
    read_found,
    read_page,
    read_purge,
    read_replays,
)
from greenscale_worker.queues.replaying import check_letter_id, check_letter_ids

PORTION: Final = 100  # dead letters that one script deletes, replays or mends
PAGE: Final = 500  # dead letters that one script shows
PAGE_BYTES: Final = 4 * 1024 * 1024


class Letters(Caller):
    """Reads, replays and deletes dead letters: a part of `RedisQueueClient`."""

    async def dead(
        self,
        which: DeadFilter | None = None,
        *,
        limit: int | None = None,
        after: str | None = None,
        oldest_first: bool = False,
        payloads: bool = True,
    ) -> AsyncIterator[DeadLetter]:
        """Iterate over dead letters, a page at a time."""
        order, left, cursor = "oldest" if oldest_first else "latest", limit, b""
        await self._tidy()
        while left is None or left > 0:
            n = PAGE if left is None else min(PAGE, left)
            args = [*_filter(which), order, cursor, n, PAGE_BYTES, int(payloads), _id(after or "")]
            _, cursor, letters = await self._run("list", self._keys.base, args, read_page)
            for letter in letters:
                yield letter
            if not cursor:
                return
            left = None if left is None else left - len(letters)

    async def dead_letter(self, name: str, *, payload: bool = True) -> DeadLetter | None:
        """Return a dead letter by its own id, or by its job's."""
        await self._tidy()
        return await self._run("find", self._keys.base, [_id(name), int(payload)], read_found)

    async def dead_count(self, which: DeadFilter | None = None) -> int:
        """Count dead letters."""
        await self._tidy()
        args = [*_filter(which), "latest", "", 0, 0, 0, ""]
        total, _, _ = await self._run("list", self._keys.base, args, read_page)
        return total

    async def dead_codes(self) -> dict[str, int]:
        """Count dead letters by code."""
        await self._tidy()
        counts: list[tuple[bytes, int]] = []
        after = b""
        while found := await self._run("codes", self._keys.base, [after, PORTION], read_counts):
            counts += found
            after = found[-1][0]
        return {code.decode("utf-8", "replace"): count for code, count in counts}

    async def replay(self, letter_id: str) -> bool:
        """Requeue a dead letter at the head of the queue. Return False if there is none."""
        return await self.replay_many([letter_id]) == ["replayed"]

    async def replay_many(self, letter_ids: Sequence[str]) -> list[Replay]:
        """Replay dead letters, in batches limited by number and bytes. Raises TypeError for one id."""
        check_letter_ids(letter_ids)
        done: list[Replay] = []
        while len(done) < len(letter_ids):
            ids = [_id(each) for each in letter_ids[len(done) : len(done) + PORTION]]
            done += await self._run("replay", self._keys.base, [PAGE_BYTES, *ids], read_replays)
        return done

    async def purge(self, *, older_than: float, code: str | None = None) -> int:
        """Delete dead letters at least `older_than` seconds old, in batches, and return how many."""
        await self._tidy()
        args = [*_filter(DeadFilter(code=code, older_than=older_than)), "", PORTION, "purged"]
        gone, more = 0, True
        while more:
            some, more = await self._run("purge", self._keys.base, args, read_purge)
            gone += some
        return gone

    async def discard(self, letter_ids: Sequence[str]) -> int:
        """Delete dead letters by their ids, in batches. Raises TypeError for one id."""
        check_letter_ids(letter_ids)
        await self._tidy()
        gone = 0
        for start in range(0, len(letter_ids), PORTION):
            ids = [_id(each) for each in letter_ids[start : start + PORTION]]
            gone += await self._run("discard", self._keys.base, ["purged", *ids], int)
        return gone

    async def _tidy(self) -> None:
        """Repair dead letters and their index, in case another program has changed them."""
        cursor = b""
        while cursor := await self._run("tidy", self._keys.base, [cursor, PORTION], read_cursor):
            pass


def _filter(which: DeadFilter | None) -> list[Any]:
    """Encode a filter as script arguments."""
    which = which or DeadFilter()
    times = (which.since, which.younger_than, which.older_than)
    return [(which.code or "").encode(errors="replace"), *("" if time is None else int(time * 1000) for time in times)]


def _id(name: str) -> bytes:
    """Encode an id; an invalid one becomes another that no letter has. Raises TypeError if it is no string."""
    check_letter_id(name)
    return name.encode(errors="replace")
