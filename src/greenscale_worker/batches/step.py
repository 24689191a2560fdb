"""One step of a batch, from one state to a later one."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from greenscale_worker.batch.lines import Line, read_line
from greenscale_worker.batch.raw_lines import MOST_LINES, Place, RawLine, as_utf8
from greenscale_worker.batches.objects import EVENTS, Ending, Fault, OpenLine, Request, State
from greenscale_worker.batches.parts import extended
from greenscale_worker.batches.reading import InputGoneError, Reader
from greenscale_worker.batches.store import SupersededError
from greenscale_worker.batches.taking import Taken
from greenscale_worker.batches.validating import Validation, kept_at
from greenscale_worker.batches.window import AT_ONCE, MOST_BYTES, Record, Window
from greenscale_worker.errors import QueueUnavailableError, Snooze
from greenscale_worker.files import Stored
from greenscale_worker.files.objects import LONGEST, FileObject
from greenscale_worker.files.objects import new_id as new_file_id

if TYPE_CHECKING:
    from greenscale_worker.batches.feeder import Feeder

SHORTEST_GAP: Final = 2.0  # seconds between two commits
SHARE_OF_AGE: Final = 0.01
LOOK_SECONDS: Final = 1.0  # between two looks for a cancellation
GONE: Final = "the input file was deleted, or has expired"


class Step:
    """What was committed, and what has come since. It lasts so many `seconds`."""

    def __init__(self, feeder: "Feeder", request: Request, state: State, *, seconds: float) -> None:
        self._feeder = feeder
        self._request = request
        self._state = state
        self._seconds = seconds
        self._place = state.place
        self._read_all = state.read_all
        self._window = Window(feeder.queue, request, state.open)
        self._taken = Taken(request)
        self._reader: Reader | None = None
        self._input: FileObject | None = None
        self._began = self._committed = self._look_at = monotonic()

    async def run(self) -> str:
        """Go on until the batch has ended, and return how. Raises Snooze at the end of the step."""
        if not self._state.is_final:
            try:
                await self._go_on()
            except QueueUnavailableError:
                if self._taken.numbers:
                    await self._commit()
                raise
            finally:
                if self._reader is not None:
                    await self._reader.aclose()
        status, request = self._state.status, self._request
        await self._feeder.tell(request.tenant, EVENTS[status], request.id, self._state.ended_at or 0)
        await self._feeder.batches.tidy(request, self._state)
        return status

    async def _go_on(self) -> None:
        await self._window.forget(self._state.taken)
        self._input = await self._feeder.objects.get(self._request.tenant, self._request.input_file_id)
        try:
            if self._state.status == "validating":
                await self._validate()
            self._reader = self._read(self._place)
            if self._state.status == "in_progress" and self._state.ending is None:
                await self._work()
        except InputGoneError:
            await self._fail_without_input()
        if self._state.status == "in_progress":
            await self._wrap_up()
        if not self._state.is_final:
            await self._finish()

    def _read(self, place: Place) -> Reader | None:
        """Begin to read behind a place; None if there is no input file."""
        if self._input is None:
            return None
        return Reader(self._chunks, max_bytes=self._feeder.options.max_bytes, place=place)

    def _chunks(self, start: int, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the input file from `start` up to `end`. Raises InputGoneError, KeyError."""
        if self._input is None:
            raise InputGoneError
        return self._feeder.objects.chunks(self._request.tenant, self._input, start=start, end=end)

    async def _validate(self) -> None:
        """Read all lines once; begin, or fail with what is wrong with them. Raises InputGoneError, Snooze.

        A batch whose time is over meanwhile, or that is cancelled, ends with an error for each line.
        """
        async with aclosing(await self._validation()) as validation:
            while not await validation.read_on():
                if await self._is_to_end():
                    break
                if self._time_is_over(self._feeder.options.step):
                    await self._commit(checked=await validation.keep())
                    raise Snooze
        if validation.is_over and validation.faults:
            await self._commit(status="failed", ended_at=self._now(), faults=validation.faults)
        elif validation.is_over:
            found = {"total": validation.checker.total, "model": validation.checker.model}
            await self._commit(status="in_progress", in_progress_at=self._now(), **found)

    async def _validation(self) -> Validation:
        """Go on where the step before has ended. Raises InputGoneError."""
        kept = await kept_at(self._feeder.batches, self._state.checked)
        reader = self._read(kept.place if kept else Place())
        if reader is None:
            raise InputGoneError
        return Validation(self._feeder.batches, self._request, reader, kept, max_bytes=self._feeder.options.max_bytes)

    async def _fail_without_input(self) -> None:
        """Fail; answers that are there stay."""
        self._read_all = True
        fault = Fault(code="input_file_not_found", message=GONE, param="input_file_id")
        if self._state.status == "validating":
            await self._commit(status="failed", ended_at=self._now(), faults=(fault,))
        elif self._state.ending is None:
            await self._commit(ending="failed", faults=(fault,))

    def _input_reader(self) -> Reader:
        """Return the reader. Raises InputGoneError."""
        if self._reader is None:
            raise InputGoneError
        return self._reader

    async def _work(self) -> None:
        """Feed lines and collect their ends, until all are done or it is to end. Raises Snooze, InputGoneError."""
        async with self._feeder.queue.listen(self._window.hear):
            while self._window.lines or not self._read_all:
                if await self._is_to_end():
                    return
                await self._feed()
                await self._collect(self._window.those_with_news())
                await self._commit_if_due()
                await self._check_time()
                if self._window.lines:
                    await self._window.wait(min(LOOK_SECONDS, self._seconds / 2))

    async def _is_to_end(self) -> bool:
        """Commit that the batch ends early, if its time is over or somebody has cancelled it."""
        if monotonic() < self._look_at:
            return False
        self._look_at = monotonic() + LOOK_SECONDS
        ending: Ending | None = None
        cancelling_at = await self._feeder.batches.cancelling_at(self._request)
        if cancelling_at is not None:
            ending = "cancelled"
        elif self._feeder.clock() >= self._request.expires_at:
            ending = "expired"
        if ending is not None:
            begun = {} if self._state.in_progress_at else {"status": "in_progress", "in_progress_at": self._now()}
            await self._commit(ending=ending, cancelling_at=cancelling_at, **begun)
        return ending is not None

    async def _feed(self) -> None:
        """Put lines until the window is full."""
        await self._window.measure()
        while not self._read_all and min(room := self._window.room) > 0:
            await self._window.put(await self._opened(*room))

    async def _opened(self, most: int, most_bytes: int) -> list[Line]:
        """Read lines, and note that they are open. Raises InputGoneError."""
        reader, lines = self._input_reader(), list[Line]()
        too_long = False
        for raw in await reader.read(most, most_bytes):
            if too_long := raw.number > MOST_LINES:  # it ended early, before that was found
                break
            line = self._line_of(raw)
            known = OpenLine(raw.number, raw.offset, raw.length, line.custom_id or "")
            if line.fault is not None:  # it was checked: the file is not what it was
                self._taken.fail(known, line.fault.openai_code, line.fault.message)
                continue
            self._window.add(known)
            lines.append(line)
        self._place, self._read_all = reader.place, reader.is_over or too_long
        return lines

    def _line_of(self, raw: RawLine) -> Line:
        return read_line(raw, max_bytes=self._feeder.options.max_bytes)

    async def _put_again(self, numbers: Iterable[int]) -> None:
        """Put lines of which Redis knows nothing, unless another feeder has taken them. Raises InputGoneError."""
        if (await self._feeder.batches.state(self._request)).number != self._state.number:
            raise SupersededError
        for line in [self._window.lines[number] for number in numbers]:
            try:
                data = b"".join([chunk async for chunk in self._chunks(line.offset, line.offset + line.length)])
            except KeyError:
                raise InputGoneError from None
            text = as_utf8(data, self._place.encoding or "utf-8")
            await self._window.put([self._line_of(RawLine(line.number, line.offset, line.length, text))])

    async def _collect(self, numbers: Sequence[int]) -> None:
        """Take the ends of lines that have ended."""
        for start in range(0, len(numbers), AT_ONCE):
            others = await self._take(numbers[start : start + AT_ONCE])
            if lost := [number for number, record in others.items() if not record]:
                await self._put_again(lost)
            await self._commit_if_full()

    async def _take(self, numbers: Sequence[int]) -> dict[int, Record]:
        """Take the ends of lines that have ended. Return the records of the others, empty if there is none."""
        ended, others = await self._window.look_up(numbers)
        for end in ended:
            if end.record.get("state") == "cancelled" and self._state.ending is not None:  # by an earlier step
                self._taken.unfinished(end.line, self._state.ending)
            else:
                self._taken.end(*end)
        return others

    async def _wrap_up(self) -> None:
        """Cancel open lines, and write an error for each line without an answer. Raises Snooze."""
        while self._window.lines or not self._read_all:
            if not self._window.lines:
                try:
                    await self._opened(AT_ONCE, MOST_BYTES)
                except InputGoneError:
                    self._read_all = True
            await self._end_early(list(self._window.lines)[:AT_ONCE])
            await self._commit_if_full()
            await self._check_time()

    async def _end_early(self, numbers: Sequence[int]) -> None:
        """Take the answers that there are; cancel the rest."""
        ending = self._state.ending or "failed"
        unended = await self._take(numbers)
        await self._take(await self._window.cancel([number for number, record in unended.items() if record]))
        for number in unended:
            if number in self._window.lines:
                self._taken.unfinished(self._window.close(number), ending)

    async def _finish(self) -> None:
        """Make files of the outputs, then say that the batch has ended."""
        request, objects = self._request, self._feeder.objects
        if self._state.status != "finalizing":
            ids = {f"{name}_file_id": new_file_id(self._feeder.clock()) for name in ("output", "error")}
            await self._commit(status="finalizing", finalizing_at=self._now(), **ids)
        state = self._state
        output = state.output_file_id if state.outputs else None
        error = state.error_file_id if state.errors else None
        for name, file_id, parts in (("output", output, state.outputs), ("error", error, state.errors)):
            if file_id is not None:
                await objects.create_of_parts(
                    request.tenant,
                    file_id,
                    [Stored(part.key, part.size) for part in parts],
                    filename=f"{request.id}_{name}.jsonl",
                    purpose="batch_output",
                    expires_after=request.output_expires_in or LONGEST,
                )
        await self._commit(
            status=state.ending or "completed",
            ended_at=self._now(),
            failed=state.total - state.completed,
            output_file_id=output,
            error_file_id=error,
        )

    @property
    def _is_dirty(self) -> bool:
        """Whether more is known than was committed."""
        return bool(self._taken.numbers) or self._place != self._state.place

    async def _commit_if_full(self) -> None:
        if self._taken.is_full:
            await self._commit()

    async def _commit_if_due(self) -> None:
        age = self._feeder.clock() - (self._state.in_progress_at or self._request.created_at)
        gap = min(max(SHORTEST_GAP, SHARE_OF_AGE * age), self._feeder.options.answers_last / 4)
        if self._is_dirty and monotonic() - self._committed >= gap:
            await self._commit()

    async def _commit(self, **changes: Any) -> None:
        """Write what has come since the last state, and a state that says so; then let Redis forget it."""
        feeder, request, state, taken = self._feeder, self._request, self._state, self._taken
        outputs, errors = await asyncio.gather(
            extended(feeder.batches, request, "output", state.outputs, taken.outputs),
            extended(feeder.batches, request, "errors", state.errors, taken.errors),
        )
        news: dict[str, Any] = {
            "place": self._place,
            "read_all": self._read_all,
            "open": tuple(self._window.lines.values()),
            "completed": state.completed + len(taken.outputs),
            "failed": state.failed + len(taken.errors),
            "total": max(state.total, state.completed + len(taken.outputs) + state.failed + len(taken.errors)),
            "usage": state.usage + taken.usage,
            "outputs": outputs,
            "errors": errors,
            "taken": tuple(taken.numbers),
        }
        committed = state.next(**(news | changes))
        await feeder.batches.commit(request, committed)
        self._state = committed
        self._taken, self._committed = Taken(request), monotonic()
        await self._window.forget(taken.numbers, taken.buried)

    async def _check_time(self) -> None:
        """Raise Snooze, after a commit, if the step is over."""
        if self._time_is_over(self._seconds):
            if self._is_dirty:
                await self._commit()
            raise Snooze

    def _time_is_over(self, seconds: float) -> bool:
        """Whether a step that may last so long is to end."""
        return self._feeder.hurried.is_set() or monotonic() - self._began >= seconds

    def _now(self) -> int:
        return int(self._feeder.clock())
