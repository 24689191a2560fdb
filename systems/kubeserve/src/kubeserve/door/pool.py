"""The replicas of one revision: as many as there is work for, none after a time without any."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from greenscale_worker import Grouper

from kubeserve.door.replica import DiedError, RefusedError, Replica, Rows, StartError
from kubeserve.door.usage import Meter

MOST_CALLS: Final = 128  # of a group
MOST_ROWS: Final = 4096
MOST_BYTES: Final = 16 * 1024 * 1024  # half of what a replica accepts
LOOK_SECONDS: Final = 0.5
AGAIN_SECONDS: Final = 5.0  # after one more replica did not come up
WHOLE: Final = 1_000_000  # the space of a group

NOBODY: Final = Rows(0, b"")

Told = list[Any] | RefusedError
Answer = Told | DiedError | None  # None: nobody was asked, for the replica had died


@dataclass(slots=True, eq=False)
class _Asked:
    """The rows of a call in a group: those of NOBODY once its caller has gone, who would not leave the group."""

    rows: Rows


@dataclass(slots=True, eq=False)
class _Member:
    replica: Replica
    calls: int = 0
    used_at: float = field(default_factory=monotonic)
    group: Grouper[_Asked, Answer] | None = None


class Pool:
    """Answers rows with the replicas that `start` makes. Calls that come while one runs are made as one, after it.

    As many calls are made as one as take half of `timeout`, by what the rows before took.

    The first call starts a replica, further ones start up to `maximum`; without a call for `idle` seconds all but
    `minimum` are stopped. A second one and more are started only while `may_grow` holds. `failing` says why the last
    one did not come up, None if it did.
    """

    def __init__(  # noqa: PLR0913  the numbers of a revision
        self,
        start: Callable[[], Awaitable[Replica]],
        *,
        minimum: int,
        maximum: int,
        idle: float,
        timeout: float,
        may_grow: Callable[[], bool],
        meter: Meter,
    ) -> None:
        self.failing: str | None = None
        self._start = start
        self._minimum = minimum
        self._maximum = maximum
        self._idle = idle
        self._timeout = timeout
        self._may_grow = may_grow
        self._meter = meter
        self._row_seconds = timeout  # until one was asked: by itself
        self._failed_at = -math.inf
        self._calls = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._members: list[_Member] = []
        self._coming: asyncio.Task[_Member] | None = None
        self._lonely = asyncio.Lock()
        self._keeper = asyncio.create_task(self._keep())

    @property
    def replicas(self) -> int:
        """How many are loaded."""
        return len(self._members)

    @property
    def size(self) -> int:
        """How many are loaded, or load."""
        return len(self._members) + (self._coming is not None)

    async def predict(self, rows: Rows) -> list[Any]:
        """Return one prediction for each row.

        Rows whose replica died while it had them, perhaps by the fault of others, are asked once more, alone. Raises
        StartError, also where a replica was lost by no fault of the rows, RefusedError, and DiedError if the second
        replica dies, too.
        """
        answer: Answer = None
        self._calls += 1
        self._quiet.clear()
        try:
            while answer is None:
                answer = await self._ask(rows)
            return await self._alone(rows) if isinstance(answer, DiedError) else _raised(answer)
        finally:
            self._calls -= 1
            if not self._calls:
                self._quiet.set()

    async def warm(self) -> None:
        """Start a replica unless there is one. Raises StartError."""
        if not self._members:
            await self._come()

    async def aclose(self) -> None:
        """Let calls end, then stop all replicas. Give it no call any more."""
        await self._quiet.wait()
        self._keeper.cancel()
        ending = {self._keeper, *([self._coming] if self._coming is not None else [])}
        for task in ending:
            task.cancel()
        await asyncio.wait(ending)
        for member in list(self._members):
            await self._stop(member)

    async def _ask(self, rows: Rows) -> Answer:
        member, asked = await self._choose(), _Asked(rows)
        member.calls += 1
        try:
            assert member.group is not None  # noqa: S101  set where the member is made
            return await member.group(asked)
        finally:
            asked.rows = NOBODY
            member.calls -= 1
            member.used_at = monotonic()

    async def _choose(self) -> _Member:
        member = min(self._members, key=lambda known: known.calls, default=None)
        if member is None:
            return await self._come()
        if member.calls and self._may_begin():
            self._begin()  # for those who come next: this call does not wait for it
        return member

    def _may_begin(self) -> bool:
        if self._coming is not None or len(self._members) >= self._maximum:
            return False
        return monotonic() - self._failed_at > AGAIN_SECONDS and self._may_grow()

    def _begin(self) -> "asyncio.Task[_Member]":
        if self._coming is None:
            self._coming = asyncio.create_task(self._make())
            self._coming.add_done_callback(_seen)
        return self._coming

    async def _come(self) -> _Member:
        return await asyncio.shield(self._begin())

    async def _make(self) -> _Member:
        try:
            replica = await self._start()
        except StartError as error:
            self.failing = str(error)
            self._failed_at = monotonic()
            raise
        finally:
            self._coming = None
        self.failing = None
        member = _Member(replica)
        member.group = Grouper(
            lambda group: self._call(member, [asked.rows for asked in group]),
            most=MOST_CALLS,
            most_bytes=WHOLE,
            size=lambda asked: self._space(asked.rows),
        )
        self._members.append(member)
        self._meter.stands(1)
        replica.died.add_done_callback(lambda _: self._forget(member))
        return member

    def _space(self, rows: Rows) -> int:
        """Return what share of a group the rows take: by their number, their bytes, and their time."""
        by_time = 2 * rows.count * self._row_seconds / self._timeout
        return int(WHOLE * max(rows.count / MOST_ROWS, len(rows.encoded) / MOST_BYTES, by_time))

    async def _predict(self, member: _Member, rows: Rows) -> list[Any]:
        """Ask a replica, and note the time that it takes."""
        began = monotonic()
        try:
            return await member.replica.predict(rows, self._timeout)
        finally:
            took = monotonic() - began
            self._row_seconds = took / rows.count
            self._meter.worked(took)

    async def _call(self, member: _Member, group: list[Rows]) -> list[Answer]:
        """Ask for the rows of many calls at once. What the model refuses, it refuses to the call it is about."""
        answers: list[Answer] = [None] * len(group)
        if member not in self._members:
            return answers
        left = [place for place, rows in enumerate(group) if rows is not NOBODY]
        while left:
            try:
                predictions = iter(await self._predict(member, Rows.joined(group[place] for place in left)))
            except RefusedError as error:
                self._refuse(error, group, left, answers)
                if len(left) > 1 and all(answers[place] is None for place in left):
                    return await self._one_by_one(member, group, answers)
            except DiedError as error:
                self._forget(member)
                return [answer if answer is not None else error for answer in answers]
            else:
                for place in left:
                    answers[place] = [next(predictions) for _ in range(group[place].count)]
            left = [place for place in left if answers[place] is None]
        return answers

    @staticmethod
    def _refuse(error: RefusedError, group: list[Rows], left: list[int], answers: list[Answer]) -> None:
        """Give the error to the call whose row it is about, with the index of the row in that call."""
        first = 0
        for place in left:
            if error.index is not None and error.index < first + group[place].count:
                answers[place] = error.of_row(error.index - first)
                return
            first += group[place].count
        if len(left) == 1:
            answers[left[0]] = RefusedError(error.code, str(error), None)

    async def _one_by_one(self, member: _Member, group: list[Rows], answers: list[Answer]) -> list[Answer]:
        told: list[Answer] = []
        for place, rows in enumerate(group):
            known = answers[place]
            told.append(known if known is not None else (await self._call(member, [rows]))[0])
        return told

    async def _alone(self, rows: Rows) -> list[Any]:
        """Ask a replica that nobody else uses, so that its death is nobody else's."""
        async with self._lonely:  # one at a time: a flood of rows that kill must not start a flood of replicas
            replica = await self._start()
            began = monotonic()
            self._meter.stands(1)
            try:
                return await replica.predict(rows, self._timeout)
            finally:
                self._meter.worked(monotonic() - began)
                self._meter.stands(-1)
                await replica.stop()

    def _forget(self, member: _Member) -> None:
        if member in self._members:
            self._members.remove(member)
            self._meter.stands(-1)

    async def _stop(self, member: _Member) -> None:
        self._forget(member)
        await member.replica.stop()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            idle = [
                member for member in self._members if not member.calls and monotonic() - member.used_at > self._idle
            ]
            for member in idle[: max(0, len(self._members) - self._minimum)]:
                if not member.calls:  # none came while another one was stopped
                    await self._stop(member)
            if len(self._members) < self._minimum and self._coming is None:
                with suppress(StartError):
                    await self._come()
                if self.failing is not None:
                    await asyncio.sleep(AGAIN_SECONDS)


def _raised(answer: Told) -> list[Any]:
    if isinstance(answer, RefusedError):
        raise answer
    return answer


def _seen(task: "asyncio.Task[_Member]") -> None:
    """A failed start is known by `failing`: it need not be awaited."""
    if not task.cancelled():
        task.exception()
