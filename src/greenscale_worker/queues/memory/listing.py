"""Which jobs the queue of one process has, and how they stand."""

from collections.abc import Callable, Iterator, Mapping

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import decode
from greenscale_worker.queues import STATES, JobInfo, State
from greenscale_worker.queues.memory.records import FINISHED
from greenscale_worker.queues.memory.store import Entry, Store


def listed(store: Store, unpack: Callable[[bytes], bytes]) -> list[JobInfo]:
    """List all jobs: those that run, wait, are delayed and held, then those that ended last, the latest first."""
    jobs = list(_open(store, unpack))
    seen = {job.job_id for job in jobs}
    for ended, job_id in store.records.recent:
        record = store.records.get(job_id)
        if job_id not in seen and record.get("state") in FINISHED:
            jobs.append(_job(record, job_id, next(each for each in STATES if each == record["state"]), ended=ended))
        seen.add(job_id)
    return jobs


def _open(store: Store, unpack: Callable[[bytes], bytes]) -> Iterator[JobInfo]:
    places: tuple[tuple[State, list[Entry]], ...] = (
        ("running", list(store.leased.values())),
        ("waiting", [*store.suspects, *store.ready, *store.waiting]),
        ("delayed", store.delayed),
        ("held", store.held),
    )
    for state, entries in places:
        for entry in entries:
            job_id = entry.bound_to or _name_of(unpack(entry.payload))
            record = store.records.get(job_id) if job_id else {}
            cancelled = state == "waiting" and record.get("state") == "cancelling"
            yield _job(record, job_id, "cancelling" if cancelled else state, entry=entry)


def _job(
    record: Mapping[str, str],
    job_id: str | None,
    state: State,
    *,
    entry: Entry | None = None,
    ended: float | None = None,
) -> JobInfo:
    known = record if record.get("state") == state else {}
    running = state == "running"
    return JobInfo(
        job_id=job_id,
        state=state,
        worker=known.get("worker") if entry is None or running else None,
        attempts=entry.runs + running if entry else int(known.get("attempts", 0)),
        crashes=entry.crashes if entry else int(known.get("crashes", 0)),
        submitted_at=_seconds(record, "submitted_ms") or (entry.arrived if entry else None),
        claimed_at=_seconds(known, "claimed_ms"),
        due_at=entry.due if entry and state == "delayed" else None,
        finished_at=ended,
        code=known.get("error_code"),
        message=known.get("error_message"),
    )


def _seconds(record: Mapping[str, str], name: str) -> float | None:
    return int(record[name]) / 1000 if name in record else None


def _name_of(payload: bytes) -> str | None:
    try:
        return decode(payload, max_bytes=len(payload)).job_id
    except BadInputError as error:
        return error.job_id
