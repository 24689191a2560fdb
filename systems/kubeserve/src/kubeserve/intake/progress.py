"""The steps of one proof, shown while they go, and the states that the version goes through."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from kubeserve.domain import Outcome, Step, Version, VersionState
from kubeserve.errors import UnavailableError
from kubeserve.intake.verdicts import FailedError, RejectedError

FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 30.0
INTERRUPTED: Final = "interrupted"
BEFORE: Final = frozenset({"received", "hashed"})  # the steps of the upload, which stay

T = TypeVar("T")


class Versions(Protocol):
    """What the registry does for a proof; see `Registry`."""

    async def find(self, version_id: str) -> Version:
        """Raises NotFoundError."""

    async def unfinished(self) -> list[Version]:
        """Those whose proof has begun and has no end."""

    async def set_steps(self, version_id: str, attempt: int, steps: Sequence[Step]) -> bool:
        """False if that attempt is not the last one any more, or the version is gone."""

    async def set_state(
        self,
        version_id: str,
        state: VersionState,
        reason: str,
        *,
        expected: AbstractSet[VersionState],
        during: int | None = None,
        **fields: Any,
    ) -> Version:
        """Raises ConflictError, NotFoundError."""


class SupersededError(Exception):
    """The version is gone, or another proof of it has begun: this one has nothing to say any more."""


async def when_there(call: Callable[[], Awaitable[T]]) -> T:
    """What the database says, as soon as it does."""
    wait = FIRST_WAIT
    while True:
        try:
            return await call()
        except UnavailableError:
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT)


class Progress:
    """Where one attempt stands. Each change is written down; while the database is away, it waits."""

    def __init__(self, versions: Versions, version: Version) -> None:
        self._versions = versions
        self._id = version.id
        self._state = version.state
        self._attempt = version.attempt + 1
        self._steps = [step for step in version.steps if step.name in BEFORE]
        self._steps += _interruptions(version.steps)

    @property
    def interruptions(self) -> int:
        """How often the platform itself ended during the proof of this version."""
        return sum(step.name == INTERRUPTED for step in self._steps)

    async def begin(self) -> None:
        """Make this the version's attempt."""
        await self.move(VersionState.SCANNING, "its proof has begun", attempt=self._attempt)

    async def move(self, state: VersionState, reason: str, **fields: Any) -> None:
        """Bring the version into a state. Raises ConflictError, NotFoundError."""
        during = None if "attempt" in fields else self._attempt
        expected, fields = {self._state}, {**fields, "steps": self._steps}
        await when_there(
            lambda: self._versions.set_state(self._id, state, reason, expected=expected, during=during, **fields)
        )
        self._state = state

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[Callable[[str], None]]:
        """Time a step, and write down how it ended; what is called with a text makes that its detail."""
        began = time.monotonic()
        detail = ""

        def say(text: str) -> None:
            nonlocal detail
            detail = text

        self._steps.append(Step(name, Outcome.RUNNING, None, ""))
        await self._write()
        outcome = Outcome.DONE
        try:
            yield say
        except (RejectedError, FailedError) as error:
            outcome = Outcome.REJECTED if isinstance(error, RejectedError) else Outcome.FAILED
            detail = str(error)
            raise
        except asyncio.CancelledError:
            outcome = Outcome.RUNNING
            raise
        except Exception:
            outcome = Outcome.FAILED
            raise
        finally:
            seconds = round(time.monotonic() - began, 3)
            self._steps[-1] = replace(self._steps[-1], outcome=outcome, seconds=seconds, detail=detail)
        await self._write()

    async def note(self, name: str, seconds: float, detail: str) -> None:
        """Write down a step that somebody else timed."""
        self._steps.append(Step(name, Outcome.DONE, round(seconds, 3), detail))
        await self._write()

    async def put_back(self) -> None:
        """Show no step as running: the proof was stopped in order, and is no interruption."""
        self._steps = [step for step in self._steps if step.name in BEFORE | {INTERRUPTED}]
        await self._versions.set_steps(self._id, self._attempt, self._steps)

    async def _write(self) -> None:
        if not await when_there(lambda: self._versions.set_steps(self._id, self._attempt, self._steps)):
            raise SupersededError


def _interruptions(steps: Sequence[Step]) -> list[Step]:
    """Those in a row that led here: a step that was running when the platform ended makes one more."""
    running = any(step.outcome is Outcome.RUNNING for step in steps)
    ended = any(step.outcome in {Outcome.FAILED, Outcome.REJECTED} for step in steps if step.name != INTERRUPTED)
    if ended:
        return []
    found = [step for step in steps if step.name == INTERRUPTED]
    return (
        [*found, Step(INTERRUPTED, Outcome.FAILED, None, "the platform itself ended during the proof")]
        if running
        else found
    )
