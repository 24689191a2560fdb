"""`submit --wait`: watches jobs until each has ended, and writes what came of it."""

import asyncio
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from greenscale_worker.cli import FAILED, UNFINISHED
from greenscale_worker.cli.jobs import OPEN, WITH_REASON, readable, reason
from greenscale_worker.cli.progress import Bar
from greenscale_worker.cli.terminal import bold, harmless, hint, one_line, say, say_json
from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.queues import QueueAdmin

HEADING: Final = 100  # characters
AT_ONCE: Final = 32  # records asked for together
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
PAUSE_FOR_EACH: Final = 0.0005  # so that many open jobs do not make Redis busy


Ended = tuple[str, dict[str, str], bytes | None]  # a job's id, record and answer


@dataclass(frozen=True, slots=True)
class Show:
    """How answers are written: as JSON lines, or for people; `many` says which job each belongs to."""

    as_json: bool
    many: bool

    def __call__(self, ended: Ended, payload: bytes) -> None:
        """Write what came of one job: an answer to stdout, a failure to stderr; in JSON both to stdout."""
        job_id, record, answer = ended
        text = None if answer is None else answer.decode(errors="replace")
        if self.as_json:
            say_json({**readable(job_id, record), "prompt": prompt_of(payload), "result": text})
        elif text is None:
            hint(reason(job_id, record))
        else:
            if self.many:
                say(bold(one_line(f"# {job_id}  {prompt_of(payload) or ''}"[:HEADING])))
            say(harmless(text) if sys.stdout.isatty() else text)


def prompt_of(payload: bytes) -> str | None:
    """Read what the user said, where the payload is one for `chat`: the prompt, or the last message."""
    job: dict[str, Any] = orjson.loads(payload)
    messages = job.get("messages")
    said = messages[-1].get("content") if isinstance(messages, list) and messages else job.get("prompt")
    return said if isinstance(said, str) else None


@dataclass(slots=True)
class Told:
    """Says on stderr why jobs do not move: of one job whatever changes, of many each reason once."""

    many: bool
    said: set[tuple[str, ...]] = field(default_factory=set)

    def __call__(self, job_id: str, record: dict[str, str]) -> None:
        """Say why this job does not move, unless that was said."""
        state, code = record.get("state", ""), record.get("error_code", "")
        key = (state, code) if self.many else (state, code, record.get("error_message", ""))
        if (state in WITH_REASON or state == "cancelling") and key not in self.said:
            self.said.add(key)
            with Bar.external_write_mode():
                hint(reason(job_id, record))


async def wait(
    admin: QueueAdmin,
    jobs: Mapping[str, bytes],
    show: Show,
    *,
    timeout: float | None,  # noqa: ASYNC109  it bounds the whole, and ends in an exit code
) -> int:
    """Write the answers of jobs, id -> payload, in this order.

    The exit code: 0 where all succeeded within `timeout` seconds.
    """
    if not await admin.workers():
        hint("no worker is alive at the moment; waiting for one")
    ended: dict[str, Ended] = {}
    in_order, states = deque(jobs), Counter[str]()
    failed, told = 0, Told(many=len(jobs) > 1)

    def write(job_ids: Iterable[str]) -> None:
        with Bar.external_write_mode():
            for job_id in job_ids:
                show(ended.pop(job_id), jobs[job_id])
            sys.stdout.flush()

    with Bar(total=len(jobs), unit="job", disable=None, leave=False, dynamic_ncols=True) as bar:
        try:
            async with asyncio.timeout(timeout):
                async for found in _ended(admin, jobs, told, states):
                    ended[found[0]] = found
                    failed += found[2] is None
                    while in_order and in_order[0] in ended:
                        write([in_order.popleft()])
                    bar.set_postfix({**states, "failed": failed}, refresh=False)
                    bar.update()
        except TimeoutError:
            bar.close()
            unfinished = len(in_order) - len(ended)
            write([job_id for job_id in in_order if job_id in ended])
            hint(f"not finished yet: {unfinished} of {len(jobs)}")
            return UNFINISHED
        finally:
            write([job_id for job_id in in_order if job_id in ended])
    return FAILED if failed else 0


async def _ended(admin: QueueAdmin, job_ids: Iterable[str], told: Told, states: Counter[str]) -> AsyncIterator[Ended]:
    """Watch jobs; gives each when it has ended, or when there is no record of it any more. Counts states of others."""
    waiting, away = deque(job_ids), False
    while waiting:
        _notice_ctrl_c()
        states.clear()
        for _ in range(-(-len(waiting) // AT_ONCE)):
            some = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting)))]
            try:
                looked_up = await asyncio.gather(*(_look_up(admin, job_id) for job_id in some))
            except QueueUnavailableError as error:
                if not away:
                    with Bar.external_write_mode():
                        hint(f"Redis does not answer: {error}; waiting for it")
                away = True
                waiting.extend(some)
                break
            for found in looked_up:
                if found[1].get("state") in OPEN:
                    waiting.append(found[0])
                    states[found[1]["state"]] += 1
                    told(*found[:2])
                else:
                    yield found
        await asyncio.sleep(min(LONGEST_PAUSE, max(SHORTEST_PAUSE, len(waiting) * PAUSE_FOR_EACH)))


async def _look_up(admin: QueueAdmin, job_id: str) -> Ended:
    record = await admin.record(job_id)
    return job_id, record, await admin.result(job_id) if record.get("state") == "succeeded" else None


def _notice_ctrl_c() -> None:
    """Raise CancelledError where it was swallowed: Python 3.11 may lose one while redis-py reads."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
