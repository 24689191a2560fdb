"""Checks what is to be put into a queue, before anything is written."""

import math
from collections.abc import Sequence

from greenscale_worker.job import check_job_id
from greenscale_worker.queues import CLASSES


def check_put(jobs: Sequence[tuple[str, bytes]], job_class: str, not_before: float | None) -> None:
    """Raise BadInputError for an invalid id, ValueError for an unknown class or a time that is not finite.

    TypeError for a time that is no number.
    """
    for job_id, _ in jobs:
        check_job_id(job_id)
    if job_class not in CLASSES:
        raise ValueError(f"job_class {job_class!r}: expected {', '.join(CLASSES)}")
    if not_before is not None and not isinstance(not_before, int | float):
        raise TypeError(f"not_before {not_before!r}: a datetime or seconds since the epoch are expected")
    if not_before is not None and not math.isfinite(not_before):
        raise ValueError(f"not_before {not_before}: seconds since the epoch are expected")
