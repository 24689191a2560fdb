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


Ended = tuple[str, dict[str, str], bytes | None]  # a job's id, record and answer


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
    if not await admin.workers():
        hint("no worker is alive at the moment; waiting for one")
    failed = 0
    with tqdm(total=len(job_ids), unit="job", disable=None, leave=False, dynamic_ncols=True) as bar:
        try:
            async with asyncio.timeout(timeout):
                async for job_id, record, answer in _ended(admin, job_ids):
                    with tqdm.external_write_mode():
                        show(job_id, record, answer)
                        sys.stdout.flush()
                    failed += answer is None
                    bar.set_postfix(failed=failed, refresh=False)
                    bar.update()
        except TimeoutError:
            bar.close()
            hint(f"not finished yet: {len(job_ids) - bar.n} of {len(job_ids)}")
            return UNFINISHED
    return FAILED if failed else 0


async def _ended(admin: QueueAdmin, job_ids: Sequence[str]) -> AsyncIterator[Ended]:
    """Watch jobs; gives each when it has ended, or when there is no record of it any more."""
    waiting, told = deque(job_ids), False
    while waiting:
        for _ in range(-(-len(waiting) // AT_ONCE)):
            some = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting)))]
            try:
                looked_up = await asyncio.gather(*(_look_up(admin, job_id) for job_id in some))
            except QueueUnavailableError as error:
                if not told:
                    with tqdm.external_write_mode():
                        hint(f"Redis does not answer: {error}; waiting for it")
                told = True
                waiting.extend(some)
                break
            for ended in looked_up:
                if ended[1].get("state") in OPEN:
                    waiting.append(ended[0])
                else:
                    yield ended
        await asyncio.sleep(min(LONGEST_PAUSE, max(SHORTEST_PAUSE, len(waiting) * PAUSE_FOR_EACH)))


async def _look_up(admin: QueueAdmin, job_id: str) -> Ended:
    record = await admin.record(job_id)
    return job_id, record, await admin.result(job_id) if record.get("state") == "succeeded" else None
