"""Lists jobs and their state, from the queue's keys and the records."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from redis.exceptions import ResponseError

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import decode, is_job_id
from greenscale_worker.queues import ENDED, OPEN, PUT_ASIDE, STATES, JobFilter, JobInfo, State
from greenscale_worker.queues.rate import rate_of
from greenscale_worker.queues.redis.call_limit import CallLimit
from greenscale_worker.queues.redis.keys import OF_LISTS, RECENT, Keys
from greenscale_worker.queues.redis.list_pages import ListPages
from greenscale_worker.queues.redis.store import Store
from greenscale_worker.queues.redis.tenants import LinePages
from greenscale_worker.queues.told import is_number, seconds, with_record

PAGE: Final = 200
PAGE_OF_PAYLOADS: Final = 20  # each may have a megabyte
PLACES: Final[tuple[tuple[str, State], ...]] = (
    ("lease", "running"),
    ("suspect", "waiting"),
    ("ready", "waiting"),
    ("delayed", "delayed"),
    ("held", "held"),
)
UNCLAIMED: Final = frozenset({"waiting", "cancelling"})
INTERACTIVE, BACKGROUND = OF_LISTS

Record = dict[str, str]
ReadRecords = Callable[[Sequence[str]], Awaitable[list[Record]]]
Source = Store | ListPages | LinePages
ReadOpen = Callable[[str, bytes], Awaitable[tuple[bytes, list[Any]]]]


class Listing:
    """Iterates over the jobs of a queue. `read_open` runs open.lua with a place and the score to begin behind."""

    def __init__(  # noqa: PLR0913  the parts it is made of
        self,
        client: Any,
        calls: CallLimit,
        store: Store,
        keys: Keys,
        *,
        read_records: ReadRecords,
        read_open: ReadOpen,
    ) -> None:
        self._client = client
        self._calls = calls
        self._sources = (ListPages(keys.of(INTERACTIVE)), store, ListPages(keys.of(BACKGROUND)), LinePages(keys))
        self._keys = keys
        self._read_records = read_records
        self._read_open = read_open

    async def jobs(self, which: JobFilter, unpack: Callable[[bytes], bytes]) -> AsyncGenerator[JobInfo, None]:
        """See QueueClient."""
        seen: set[str] = set()
        for part in self._parts(which, unpack, seen):
            async for job in part:
                yield job

    def _parts(
        self, which: JobFilter, unpack: Callable[[bytes], bytes], seen: set[str]
    ) -> Iterable[AsyncIterator[JobInfo]]:
        """Return where jobs are that may match."""
        for place, state in PLACES:
            if which.state in (None, state):
                yield self._at(place, state, seen)
        if which.code is None and which.worker is None:
            if which.state in {None, *UNCLAIMED}:
                yield self._unclaimed(seen, unpack)
            if which.state in {None, "scheduled"}:
                yield self._scheduled(seen)
        if which.state in {None, *ENDED}:
            yield self._ended(seen)

    async def rate(self) -> float:
        """See QueueClient."""
        now_ms, entries = await self._recent()
        return rate_of([(now_ms - ms) / 1000 for ms, *_ in entries])

    async def _at(self, place: str, state: State, seen: set[str]) -> AsyncIterator[JobInfo]:
        behind, met = b"", set[bytes]()
        while True:
            behind, found = await self._read_open(place, behind)
            rows = [row for row in found if row[0] not in met]
            met.update(row[0] for row in rows)
            names = [row[1].decode(errors="replace") for row in rows]
            for row, name, record in zip(rows, names, await self._read_records(names), strict=True):
                seen.add(name)
                yield _open(state, row, name, record)
            if not behind:
                return

    async def _unclaimed(self, seen: set[str], unpack: Callable[[bytes], bytes]) -> AsyncIterator[JobInfo]:
        waiting: set[str] = set()
        for source in self._sources:
            async for name, record in self._unclaimed_of(source, unpack):
                if name is None or name not in seen:
                    state: State = "cancelling" if record.get("state") == "cancelling" else "waiting"
                    known = record if record.get("state") in UNCLAIMED else {}
                    yield with_record(known, job_id=name, state=state, submitted_at=seconds(record, "submitted_ms"))
                if name is not None:
                    waiting.add(name)
        seen |= waiting  # not before: many jobs with one id may wait

    async def _unclaimed_of(
        self, source: Source, unpack: Callable[[bytes], bytes]
    ) -> AsyncIterator[tuple[str | None, Record]]:
        after: bytes | None = None
        while True:
            async with self._calls.slot():
                page = await source.waiting(self._client, after, PAGE_OF_PAYLOADS)
            names = [_name_of(unpack(payload), name) for _, payload, name in page]
            for each in zip(names, await self._read_records([name or "" for name in names]), strict=True):
                yield each
            if len(page) < PAGE_OF_PAYLOADS:
                return
            after = page[-1][0]

    async def _scheduled(self, seen: set[str]) -> AsyncIterator[JobInfo]:
        later, behind = self._keys.of("later"), "-inf"
        while True:
            async with self._calls.slot():
                page = await self._client.zrangebyscore(later, behind, "+inf", start=0, num=PAGE, withscores=True)
                last = page[-1][1] if len(page) == PAGE else None
                if last is not None:
                    page += await self._client.zrangebyscore(later, last, last, withscores=True)
            dues = {name.decode(errors="replace"): due_ms / 1000 for name, due_ms in page}
            names = [name for name in dues if name not in seen]
            seen.update(names)
            for name, record in zip(names, await self._read_records(names), strict=True):
                known = record if record.get("state") == "scheduled" else {}
                yield with_record(known, job_id=name, state="scheduled", due_at=dues[name])
            if last is None:
                return
            behind = f"({last!r}"

    async def _ended(self, seen: set[str]) -> AsyncIterator[JobInfo]:
        _, entries = await self._recent()
        for start in range(0, len(entries), PAGE):
            page = entries[start : start + PAGE]
            records = await self._read_records([name for _, _, name, _ in page])
            for (ms, state, name, code), found in zip(page, records, strict=True):
                if name not in seen and found.get("state") not in OPEN:
                    seen.add(name)
                    # The record may be of a later run.
                    record = found if found.get("finished_ms") == str(ms) else {}
                    yield with_record(record, job_id=name, state=state, finished_at=ms / 1000, code=code or None)

    async def _recent(self) -> tuple[int, list[tuple[int, State, str, str]]]:
        """Return the server's time in ms, and the jobs that ended lately, latest first."""
        async with self._calls.slot():
            seconds, micros = await self._client.time()
            try:
                entries = await self._client.lrange(self._keys.of(RECENT), 0, -1)
            except ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                entries = []  # another program's value; the list is not essential
        return 1000 * int(seconds) + int(micros) // 1000, list(_read_entries(entries))


def _read_entries(entries: Iterable[bytes]) -> Iterable[tuple[int, State, str, str]]:
    """Read entries `ms state job-id code`; others, written by another program, are skipped."""
    for entry in entries:
        ms, state, name, code = (*entry.decode(errors="replace").split(" ", 3), "", "", "", "")[:4]
        known = next((each for each in STATES if each == state and each in ENDED), None)
        if known is not None and is_number(ms) and is_job_id(name):
            yield int(ms), known, name, code


def _open(state: State, row: Sequence[Any], name: str, record: Record) -> JobInfo:
    _, _, owner, runs, crashes, first_ms, due_ms = row
    running = state == "running"
    alike = PUT_ASIDE if state in PUT_ASIDE else {state}  # a held job is delayed first
    job = with_record(
        record if record.get("state") in alike else {},
        job_id=name or None,
        state=state,
        attempts=int(runs) + running,
        crashes=int(crashes),
        worker=owner.decode(errors="replace") if running else None,
        due_at=int(due_ms) / 1000 if int(due_ms) else None,
    )
    return job if job.submitted_at is not None else replace(job, submitted_at=int(first_ms) / 1000)


def _name_of(payload: bytes, name: bytes | None) -> str | None:
    try:
        given = None if name is None else name.decode(errors="replace")
        return decode(payload, max_bytes=len(payload), default_job_id=given).job_id
    except BadInputError as error:
        return error.job_id
