"""`submit --wait`: watches jobs until each has ended, and writes what came of it."""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from tqdm import tqdm

from greenscale_worker.cli import FAILED, UNFINISHED
from greenscale_worker.cli.jobs import OPEN, ending, readable
from greenscale_worker.cli.terminal import bold, harmless, hint, say, say_json
from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.queues import QueueAdmin

AT_ONCE: Final = 32  # records asked for together
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
PAUSE_FOR_EACH: Final = 0.0005  # so that many open jobs do not make Redis busy


@dataclass(frozen=True, slots=True)
class Show:
    """How answers are written: as JSON lines, or for people; `many` says which job each belongs to."""

    as_json: bool
    many: bool

    def __call__(self, job_id: str, record: dict[str, str], answer: bytes | None) -> None:
        """Write what came of one job: an answer to stdout, a failure to stderr; in JSON both to stdout."""
        text = None if answer is None else answer.decode(errors="replace")
        if self.as_json:
            say_json({**readable(job_id, record), "result": text})
        elif text is None:
            hint(ending(job_id, record))
        else:
            if self.many:
                say(bold(f"# {job_id}"))
            say(harmless(text) if sys.stdout.isatty() else text)


async def wait(admin: QueueAdmin, job_ids: Sequence[str], show: Show, *, timeout: float | None) -> int:  # noqa: ASYNC109  it bounds the whole, and ends in an exit code
    """Write answers as they come. The exit code: 0 where all jobs succeeded within `timeout` seconds."""
    failed = 0
    with tqdm(total=len(job_ids), unit="job", disable=None, leave=False, dynamic_ncols=True) as bar:
        if not await admin.workers():
            hint("no worker is alive at the moment; waiting for one")
        try:
            async with asyncio.timeout(timeout):
                async for job_id, record in _ended(admin, job_ids):
                    answer = await admin.result(job_id) if record.get("state") == "succeeded" else None
                    with tqdm.external_write_mode():
                        show(job_id, record, answer)
                        sys.stdout.flush()
                    failed += answer is None
                    bar.set_postfix(failed=failed, refresh=False)
                    bar.update()
        except TimeoutError:
            hint(f"not finished yet: {len(job_ids) - bar.n} of {len(job_ids)}")
            return UNFINISHED
    return FAILED if failed else 0


async def _ended(admin: QueueAdmin, job_ids: Sequence[str]) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """Watch jobs; gives each with its record when it has ended, or when there is no record any more."""
    waiting, told = deque(job_ids), False
    while waiting:
        for _ in range(-(-len(waiting) // AT_ONCE)):
            some = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting)))]
            try:
                records = await asyncio.gather(*(admin.record(job_id) for job_id in some))
            except QueueUnavailableError as error:
                if not told:
                    hint(f"Redis does not answer: {error}; waiting for it")
                told = True
                waiting.extend(some)
                break
            for job_id, record in zip(some, records, strict=True):
                if record.get("state") in OPEN:
                    waiting.append(job_id)
                else:
                    yield job_id, record
        await asyncio.sleep(min(LONGEST_PAUSE, max(SHORTEST_PAUSE, len(waiting) * PAUSE_FOR_EACH)))
