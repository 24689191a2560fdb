"""The lines of a batch that are jobs in the queue."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, NamedTuple

from greenscale_worker.batch.lines import Line
from greenscale_worker.batches.objects import OpenLine, Request
from greenscale_worker.queues import ENDED, QueueClient
from greenscale_worker.worker import LANES

SMALLEST: Final = 64  # lines
LANES_AHEAD: Final = 4  # lines for each lane of the fleet
MOST_BYTES: Final = 8 * 1024 * 1024  # of lines
AT_ONCE: Final = 128  # lines in one call of the queue
POLL_SECONDS: Final = 2.0  # between two looks at all lines, as an end may be missed
LANES_SECONDS: Final = 5.0  # between two looks at the fleet
Record = dict[str, str]


class Ended(NamedTuple):
    """The end of a line's job: its record, its text, and the endpoint's whole answer."""

    line: OpenLine
    record: Record
    answer: bytes | None
    body: bytes | None


class Window:
    """The lines that are open: put, or about to be. Calls raise QueueUnavailableError, and may be made again."""

    def __init__(self, queue: QueueClient, request: Request, lines: Iterable[OpenLine]) -> None:
        self.lines = {line.number: line for line in lines}
        self._queue = queue
        self._request = request
        self._bytes = sum(line.length for line in self.lines.values())
        self._most = SMALLEST
        self._heard: set[int] = set()
        self._news = asyncio.Event()
        self._poll_at = self._measure_at = monotonic()

    @property
    def room(self) -> tuple[int, int]:
        """How many lines may be added now, and how many bytes; one of them is 0 if none may be."""
        return min(self._most - len(self.lines), AT_ONCE), MOST_BYTES - self._bytes

    def add(self, line: OpenLine) -> None:
        """Note that a line is open."""
        self.lines[line.number] = line
        self._bytes += line.length

    def close(self, number: int) -> OpenLine:
        """Note that a line is not open any more."""
        line = self.lines.pop(number)
        self._bytes -= line.length
        return line

    async def measure(self) -> None:
        """Make it as wide as the fleet needs, so that no lane waits for a line."""
        if monotonic() >= self._measure_at:
            lanes = sum(worker.lanes or LANES for worker in await self._queue.workers())
            self._most = max(SMALLEST, LANES_AHEAD * lanes)
            self._measure_at = monotonic() + LANES_SECONDS

    async def put(self, lines: Sequence[Line]) -> None:
        """Put the jobs of lines, each once. Those that are there already may have ended: there is news of them."""
        request = self._request
        envelope: dict[str, Any] = {
            "url": request.endpoint,
            "keep": "body",
            "deadline": datetime.fromtimestamp(request.expires_at, UTC).isoformat(),
            **({"tenant": request.tenant} if request.tenant else {}),
        }
        jobs = [(name := request.line_id(each.number), each.payload(job_id=name, **envelope)) for each in lines]
        if jobs:
            put = await self._queue.put(jobs, once=True, job_class=request.job_class, tenant=request.tenant or "")
            self._heard |= {line.number for line, is_new in zip(lines, put, strict=True) if not is_new}

    def hear(self, ids: Sequence[str] | None) -> None:
        """Note which jobs have ended; None: some were missed."""
        if ids is None:
            self._poll_at = 0.0
        else:
            prefix = self._request.line_id(0)[:-1]
            numbers = [each[len(prefix) :] for each in ids if each.startswith(prefix)]
            self._heard |= {int(each) for each in numbers if each.isdecimal()}  # others chose such an id themselves
        self._news.set()

    async def wait(self, seconds: float) -> None:
        """Wait until there is news."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()

    def those_with_news(self) -> list[int]:
        """Return the lines to look at."""
        heard, self._heard = self._heard, set()
        if monotonic() < self._poll_at:
            return [each for each in heard if each in self.lines]
        self._poll_at = monotonic() + POLL_SECONDS
        return list(self.lines)

    async def look_up(self, numbers: Sequence[int]) -> tuple[list[Ended], dict[int, Record]]:
        """Return the ends of lines that have ended, which are closed, and the records of others, empty for none."""
        ids = [self._request.line_id(number) for number in numbers]
        found = dict(zip(numbers, await self._queue.look_up(ids), strict=True))
        succeeded = [number for number, (record, _) in found.items() if record.get("state") == "succeeded"]
        read = await self._queue.bodies([self._request.line_id(each) for each in succeeded])
        bodies = dict(zip(succeeded, read, strict=True))
        ended, others = list[Ended](), dict[int, Record]()
        for number, (record, answer) in found.items():
            if record.get("state") in ENDED:
                ended.append(Ended(self.close(number), record, answer, bodies.get(number)))
            else:
                others[number] = record
        return ended, others

    async def cancel(self, numbers: Sequence[int]) -> list[int]:
        """Cancel the jobs of lines. Return those that had ended."""
        ids = [self._request.line_id(number) for number in numbers]
        done = await asyncio.gather(*map(self._queue.cancel, ids))
        for name in [name for name, verdict in zip(ids, done, strict=True) if verdict == "unknown"]:
            await self._queue.uncancel(name)  # its record has expired just now
        return [number for number, verdict in zip(numbers, done, strict=True) if verdict == "finished"]

    async def forget(self, numbers: Collection[int], buried: Iterable[int] | None = None) -> None:
        """Let Redis forget lines that a commit has taken, and the dead letters of those that failed.

        `buried` are these; None: they are looked for.
        """
        if not numbers:
            return
        ids = [self._request.line_id(number) for number in numbers]
        if buried is None:
            records = zip(ids, await self._queue.look_up(ids), strict=True)
            failed = [name for name, (record, _) in records if record.get("state") == "failed"]
        else:
            failed = [self._request.line_id(number) for number in buried]
        for start in range(0, len(failed), AT_ONCE):
            some = failed[start : start + AT_ONCE]
            letters = await asyncio.gather(*(self._queue.dead_letter(name, payload=False) for name in some))
            await self._queue.discard([letter.id for letter in letters if letter is not None])
        await self._queue.forget(ids)
