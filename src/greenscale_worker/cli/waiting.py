"""`submit --wait` and `result --wait`: wait until jobs have ended, and show meanwhile why they do not move."""

import asyncio
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Self

import orjson

from greenscale_worker.cli import FAILED, UNFINISHED
from greenscale_worker.cli.context import was_interrupted
from greenscale_worker.cli.jobs import WITH_REASON, readable, reason
from greenscale_worker.cli.progress import Bar
from greenscale_worker.cli.terminal import bold, harmless, hint, one_line, say, say_json
from greenscale_worker.client.ends import Ended, Ends
from greenscale_worker.client.standing import standing
from greenscale_worker.errors import ConfigError, QueueUnavailableError
from greenscale_worker.job import check_job_id
from greenscale_worker.queues import QueueClient
from greenscale_worker.tasks import end

HEADING: Final = 100  # characters
LOOK_SECONDS: Final = 2.0  # between two looks at why nothing moves
DRAW_SECONDS: Final = 0.1  # after a change, as many come together


@dataclass(frozen=True, slots=True)
class Show:
    """Writes answers as JSON lines, or for people; `many`: with the job that each belongs to."""

    as_json: bool
    many: bool

    def __call__(self, ended: Ended, payload: bytes) -> None:
        """Write how one job ended: an answer to stdout, a failure to stderr; in JSON both to stdout."""
        text = None if ended.answer is None else ended.answer.decode(errors="replace")
        if self.as_json:
            say_json({**readable(ended.job_id, ended.record), "prompt": prompt_of(payload), "result": text})
        elif text is None:
            hint(reason(ended.job_id, ended.record))
        else:
            if self.many:
                say(bold(one_line(f"# {ended.job_id}  {prompt_of(payload) or ''}"[:HEADING])))
            say(harmless(text) if sys.stdout.isatty() else text)


def prompt_of(payload: bytes) -> str | None:
    """Return the prompt or the last user message of a payload for `chat`; None for any other payload."""
    job: dict[str, Any] = orjson.loads(payload)
    messages = job.get("messages")
    said = messages[-1].get("content") if isinstance(messages, list) and messages else job.get("prompt")
    return said if isinstance(said, str) else None


class Progress:
    """Shows on stderr how far jobs are: a bar on a terminal, and a line for each cause that keeps them from moving.

    For a single job each new reason is written, for many jobs each code once.
    """

    def __init__(self, total: int) -> None:
        self._many = total > 1
        self._said: set[tuple[str, ...]] = set()
        self._states: dict[str, str] = {}  # of jobs seen that have not ended
        self._failed = 0
        self._reasons: set[str] = set()  # why nothing moves
        self._drawing: asyncio.TimerHandle | None = None
        self._bar = Bar(total=total, unit="job", disable=None, leave=False, dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawing is not None:
            self._drawing.cancel()
        self._bar.close()

    def open(self, job_id: str, record: dict[str, str]) -> None:
        """Update the state of a job that has not ended; see Ends."""
        state, code = record["state"], record.get("error_code", "")
        self._states[job_id] = state
        self._draw_soon()
        key = (state, code) if self._many else (state, code, record.get("error_message", ""))
        if (state in WITH_REASON or state == "cancelling") and key not in self._said:
            self._said.add(key)
            self.say(reason(job_id, record))

    def stuck(self, reasons: Mapping[str, str]) -> None:
        """Write why nothing moves, each reason by its key, whenever the keys change."""
        if reasons and reasons.keys() != self._reasons:
            self.say(f"nothing moves: {one_line('; '.join(reasons.values()))}")
        self._reasons = set(reasons)

    def away(self, why: str) -> None:
        """Write that Redis does not answer; see Ends."""
        self.say(f"Redis does not answer: {why}; waiting for it")

    def ended(self, ended: Ended) -> None:
        """Count a job that has ended."""
        self._states.pop(ended.job_id, None)
        self._failed += ended.answer is None
        self._bar.update()
        self._draw_soon()

    def say(self, text: str) -> None:
        """Write a line beside the bar."""
        with Bar.external_write_mode():
            hint(text)

    def _draw_soon(self) -> None:
        if self._drawing is None and not self._bar.disable:
            self._drawing = asyncio.get_running_loop().call_later(DRAW_SECONDS, self._draw)

    def _draw(self) -> None:
        self._drawing = None
        self._bar.set_postfix({**Counter(self._states.values()), "failed": self._failed})


@asynccontextmanager
async def watching(client: QueueClient, progress: Progress) -> AsyncIterator[Ends]:
    """Report to `progress` the states of the jobs waited for, and why nothing moves if nothing does."""
    await _look(client, progress)
    if was_interrupted():
        raise asyncio.CancelledError
    looking = asyncio.create_task(_look_for_ever(client, progress))
    try:
        async with aclosing(Ends(client, on_open=progress.open, on_away=progress.away)) as ends:
            yield ends
    finally:
        await end(looking)


async def _look_for_ever(client: QueueClient, progress: Progress) -> None:
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        await _look(client, progress)


async def _look(client: QueueClient, progress: Progress) -> None:
    with suppress(QueueUnavailableError, ConfigError):  # `progress` reports the first
        progress.stuck((await standing(client)).reasons_of_waiting())


async def wait_for(client: QueueClient, job_id: str, timeout: float | None) -> Ended | None:  # noqa: ASYNC109  returns None on timeout
    """Wait until a job has ended. It need not be submitted yet. Return None after `timeout` seconds.

    Raises BadInputError for an id that no job can have.
    """
    check_job_id(job_id)
    with Progress(1) as progress:
        with suppress(QueueUnavailableError, ConfigError):  # `watching` reports them
            if not await client.record(job_id):
                progress.say(f"{job_id}: no job with this id is known yet")
        async with watching(client, progress) as ends:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    return await ends.wait(job_id)
    return None


async def wait(
    client: QueueClient,
    jobs: Mapping[str, bytes],
    show: Show,
    *,
    timeout: float | None,  # noqa: ASYNC109  bounds all waits, and ends in an exit code
) -> int:
    """Write the answers of submitted jobs, id -> payload, in this order.

    Return the exit code: 0 if all succeeded within `timeout` seconds.
    """
    ended: dict[str, Ended] = {}
    in_order, answers = deque(jobs), Counter[bool]()

    def write(job_ids: Iterable[str]) -> None:
        with Bar.external_write_mode():
            for job_id in job_ids:
                show(ended.pop(job_id), jobs[job_id])
            sys.stdout.flush()

    with Progress(len(jobs)) as progress:
        try:
            async with watching(client, progress) as ends, asyncio.timeout(timeout):
                async for each in ends.as_completed(jobs, known=True):
                    ended[each.job_id] = each
                    answers[each.answer is not None] += 1
                    progress.ended(each)
                    while in_order and in_order[0] in ended:
                        write([in_order.popleft()])
        except TimeoutError:
            pass  # reported below, after the jobs that have ended
        finally:
            write([job_id for job_id in in_order if job_id in ended])
    if unfinished := len(jobs) - answers.total():
        hint(f"not finished yet: {unfinished} of {len(jobs)}")
        return UNFINISHED
    return FAILED if answers[False] else 0
