"""Logs and counts how a run ended."""

from typing import Final

from greenscale_worker.job import Failed, Failure, Job, Outcome, Released, Succeeded
from greenscale_worker.queues import Lease
from greenscale_worker.telemetry import Metrics, log

CUT: Final = "GREENSCALE_DRAIN_SECONDS and terminationGracePeriodSeconds are shorter than its call; raise both"
LOSSES: Final = {"taken": "lost", "gone": "cancelled"}  # how a run ends whose lease was lost


def report(  # noqa: PLR0913  what one line says
    metrics: Metrics,
    lease: Lease,
    job: Job | None,
    *,
    note: str,
    outcome: Outcome | Failure | None,
    run: float,
    record: float,
) -> None:
    """Log and count how a run ended; never log its prompt or answer.

    `note` is what was recorded if that is not what `outcome` says, empty if it is. `run` and `record` are the seconds
    of the run and of recording its outcome.
    """
    facts: dict[str, object] = {
        "job_id": lease.job_id or (job and job.job_id),
        "attempt": lease.attempts,
        "run_seconds": round(run, 6),
        "record_seconds": round(record, 6),
    }
    word, code = note or "succeeded", ""
    match outcome:
        case Succeeded(output):
            facts["tokens"] = output.usage.total_tokens
            if not note:
                metrics.tokens(output.usage)
        case Failed(code):
            word = note or "failed"
        case Failure():
            code = outcome.code
            if word != "failed":
                facts["delay"] = round(outcome.delay if lease.due_in is None else lease.due_in, 3)
        case Released(code, delay):
            word = note or "released"
            facts["delay"] = round(delay, 3)
            if lease.drains > 1 and lease.began is not None:
                log.warning(
                    "job_cut_again", job_id=lease.job_id, drains=lease.drains, seconds=facts["run_seconds"], hint=CUT
                )
    if job is not None and job.traceparent is not None:
        facts["traceparent"] = job.traceparent
    metrics.finished(word, code)
    if lease.lost is not None and note in LOSSES.values():
        metrics.lost(lease.lost)
    say = log.warning if word == "failed" else log.info
    say("job", outcome=word, code=code, **facts)
