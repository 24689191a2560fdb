"""Lists the jobs of the queue within one process, and their state."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from greenscale_worker.errors import BadInputError
from greenscale_worker.job import decode
from greenscale_worker.queues import ENDED, PUT_ASIDE, STATES, JobInfo, State
from greenscale_worker.queues.memory.store import Entry, Store
from greenscale_worker.queues.told import seconds, with_record


def listed(store: Store, unpack: Callable[[bytes], bytes]) -> Iterator[JobInfo]:
    """Iterate over running, waiting, delayed, held and scheduled jobs, then those that ended lately, latest first."""
    seen: set[str | None] = set()
    for job in _open(store, unpack):
        seen.add(job.job_id)
        yield job
    for ended, job_id in list(store.records.recent):
        record = store.records.get(job_id)
        if job_id not in seen and record.get("state") in ENDED:
            yield _job(record, job_id, next(each for each in STATES if each == record["state"]), ended=ended)
        seen.add(job_id)


def _open(store: Store, unpack: Callable[[bytes], bytes]) -> Iterator[JobInfo]:
    unclaimed = itertools.chain(*store.unclaimed.values())
    places: tuple[tuple[State, list[Entry]], ...] = (
        ("running", list(store.leased.values())),
        ("waiting", [*store.suspects, *store.ready, *unclaimed, *store.tenants.waiting()]),
        ("delayed", list(store.delayed)),
        ("held", list(store.held)),
    )
    for state, entries in places:
        for entry in entries:
            job_id = entry.bound_to or _name_of(unpack(entry.payload))
            record = store.records.get(job_id) if job_id else {}
            cancelled = state == "waiting" and record.get("state") == "cancelling"
            yield _job(record, job_id, "cancelling" if cancelled else state, entry=entry)
    for job_id, job in sorted(store.later.items(), key=lambda each: each[1].due):
        record = store.records.get(job_id)
        known = record if record.get("state") == "scheduled" else {}
        yield with_record(known, job_id=job_id, state="scheduled", due_at=job.due)


def _job(
    record: Mapping[str, str],
    job_id: str | None,
    state: State,
    *,
    entry: Entry | None = None,
    ended: float | None = None,
) -> JobInfo:
    alike = PUT_ASIDE if state in PUT_ASIDE else {state}  # a held job is delayed first
    known = record if record.get("state") in alike else {}
    running = state == "running"
    told: dict[str, Any] = {"submitted_at": seconds(record, "submitted_ms")}
    if entry is not None:
        told = {
            "submitted_at": told["submitted_at"] or entry.arrived,
            "attempts": entry.runs + running,
            "crashes": entry.crashes,
            "worker": known.get("worker") if running else None,
            "due_at": entry.due if state == "delayed" else None,
        }
    return with_record(known, job_id=job_id, state=state, finished_at=ended, **told)


def _name_of(payload: bytes) -> str | None:
    try:
        return decode(payload, max_bytes=len(payload)).job_id
    except BadInputError as error:
        return error.job_id
