"""The call of promote.lua, which workers and clients make alike."""

from collections.abc import Sequence
from typing import Any

from greenscale_worker.job import is_job_id
from greenscale_worker.queues.redis.keys import Keys


def promotion(keys: Keys, live_seconds: int, due: Sequence[bytes]) -> tuple[list[str], list[Any]]:
    """Return its keys and arguments for jobs that are due; another program may have written any name among them."""
    names: list[str] = []
    for name in due:
        text = name.decode(errors="replace")
        job_id = text if is_job_id(text) else "-"  # for any other the script writes no record
        names += [keys.record(job_id), keys.cancel(job_id)]
    return [*keys.base, *names], [live_seconds, *due]
