"""The client side of a queue, for producers, operators and commands: its interface."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from greenscale_worker.queues.flow import Flow
from greenscale_worker.queues.jobs import (
    Attendance,
    Cancellation,
    Change,
    DeadFilter,
    DeadLetter,
    JobClass,
    JobFilter,
    JobInfo,
    Notice,
    Replay,
    TokenPiece,
)
from greenscale_worker.queues.stats import Depth, LedgerMinute, LiveWorker
from greenscale_worker.queues.tenants import TenantLimits, TenantStanding


class QueueClient(Protocol):
    """The client side. Calls raise QueueUnavailableError if the server does not answer."""

    async def put(  # noqa: PLR0913  one step, which cannot be taken in parts
        self,
        jobs: Sequence[tuple[str, bytes]],
        *,
        fold: bool = False,
        once: bool = False,
        job_class: JobClass = "standard",
        not_before: float | None = None,
        tenant: str = "",
        digest: str = "",
        unpack: Callable[[bytes], bytes] | None = None,
        attendance: Attendance | None = None,
        notify: bool = False,
    ) -> list[bool]:
        """Append jobs, each an id and a payload, in order, and record them as waiting.

        Records have the class of their jobs, and `created_at` and `metadata` as payloads say.
        `fold` skips a job whose id is known to belong to one that waits, runs or has succeeded, `once` each job of
        which there is any record. Classes are served in the order of CLASSES; a lower one that waits gets at least
        every tenth job. Jobs of which `not_before` (seconds since the epoch, by the queue's clock) is not over yet are
        recorded as `scheduled`, and appended when they are due; one whose id is scheduled already is skipped. `tenant`
        and `digest` are written into the records, and stay in them until they expire, as does the class.
        `unpack` turns a payload into JSON, for a queue that stores another form of it. With `attendance`, `join` finds
        its job, for ATTENDED_SECONDS or as long as `attend` says. `notify`: the end of each job that is appended leaves
        a notice (see `notices`), as does that of a job whose payload says `"notify": true`. Of two jobs with one id
        that are in the queue at a time, the first to end does.
        Returns for each job whether it was appended, or scheduled. Raises BadInputError for an invalid id, before
        anything is written, ValueError for an unknown class or a time that is not finite, and QueueFullError if the
        server is full.
        """
        ...

    async def promote(self) -> int:
        """Append jobs that have become due to their class, and return how many; workers do it with each heartbeat."""
        ...

    async def attend(self, gateway: str, changes: Sequence[tuple[Attendance, Change]]) -> list[bool]:
        """Show that a gateway lives, for ALIVE_SECONDS, and note what has become of its clients.

        `waits`: `join` is to find the job for ATTENDED_SECONDS more. `left`: the same, and it may be joined. `over`: it
        is to be found no more. Returns for each whether the job was still this client's: nobody has joined it.
        """
        ...

    async def join(self, alike: str, gateway: str, number: int) -> tuple[str | None, int]:
        """Return a job of equal requests whose client has gone, which from now on is that of this client.

        It has gone if it `left`, or if its gateway is dead. If there is none: None, and how many clients wait for such
        a job. Two calls never return the same job, unless its client has gone again, or they are of the same client.
        """
        ...

    async def keys(self) -> dict[str, bytes]:
        """Return the API keys that are kept with the queue: documents by id. Their content is not read."""
        ...

    async def set_key(self, key_id: str, document: bytes | None) -> None:
        """Keep an API key's document, in place of any other of this id; None deletes it."""
        ...

    async def record(self, job_id: str) -> dict[str, str]:
        """Return a job's record; empty if there is none (unknown, or waiting). A replayed job's says `waiting`."""
        ...

    async def result(self, job_id: str) -> bytes | None:
        """Return a job's answer; None if there is none (yet)."""
        ...

    async def body(self, job_id: str) -> bytes | None:
        """Return the endpoint's whole answer, as JSON, if the job succeeded and its `keep` is `body`; else None."""
        ...

    async def bodies(self, job_ids: Sequence[str]) -> list[bytes | None]:
        """Return the same for each of many jobs, read in batches."""
        ...

    async def forget(self, job_ids: Sequence[str]) -> int:
        """Delete record, answer, whole answer and shown text of jobs that have ended, and return of how many.

        Open jobs are left, also those that wait after a replay; so are jobs without a record, and dead letters. Of a
        job that was forgotten nothing is known: `put` with `once` appends it again. Raises TypeError for one id.
        """
        ...

    async def notices(self, limit: int = 100) -> list[Notice]:
        """Return the oldest notices that nobody has acknowledged, `limit` at most, oldest first.

        A notice is written in the same step as the end of its job, also where no records are kept. Reading removes
        nothing: whoever reads the same ones after a crash, or beside another reader, must bear seeing them twice. Each
        is kept until it is acknowledged, or until the heartbeat of a worker drops it, as the options say.
        """
        ...

    async def acknowledge_notices(self, ids: Sequence[str]) -> None:
        """Delete notices by their ids; those that are gone already are passed over.

        Raises TypeError for one id, ValueError for what is no notice's id.
        """
        ...

    async def read_tokens(self, after: Mapping[str, str], *, wait: float) -> list[TokenPiece]:
        """Return pieces of the text of many jobs, those of a job in order; if there are none, wait `wait` seconds.

        `after` is the position of the last piece read of each job, empty: from the start. Jobs that are unknown, have
        shown nothing or are not followed (`tokens`) have no pieces; the text may lack its end, which only the answer
        has. There may be more pieces than one call returns. Raises ValueError for what is no position.
        """
        ...

    async def look_up(self, job_ids: Sequence[str]) -> list[tuple[dict[str, str], bytes | None]]:
        """Return record and answer of many jobs; an answer only if the record says `succeeded`."""
        ...

    def listen(self, heard: Callable[[Sequence[str] | None], None]) -> AbstractAsyncContextManager[None]:
        """Call `heard` with the ids of jobs as they end, or with None when some may have been missed.

        The first call passes None, once listening has begun. It never comes if the server does not allow listening;
        an unavailable server raises no error. So a caller that must not miss an end also polls from time to time.
        """
        ...

    def jobs(
        self,
        which: JobFilter | None = None,
        *,
        limit: int | None = None,
        unpack: Callable[[bytes], bytes] | None = None,
    ) -> AsyncIterator[JobInfo]:
        """Iterate over jobs: all that are open, state by state, then the last 1,000 that ended, latest first.

        The list is not a snapshot: no job comes twice, but one that changes state meanwhile may be missed. `unpack`
        turns a payload into JSON, for a queue that stores another form. A queue that keeps no results and records
        (`result_ttl` 0) lists no ended jobs.
        """
        ...

    async def rate(self) -> float:
        """Return how many jobs end per second, over the last 10 s if ten jobs ended in them, else over a minute."""
        ...

    async def cancel(self, job_id: str) -> Cancellation:
        """Cancel a job that has not finished. Raises BadInputError for an invalid id.

        `will_be_cancelled`: no worker has claimed it; it is cancelled when claimed, within seven days, and its record
        says `cancelling`. `unknown`: the same, but it has no record: it was pushed by hand, or does not exist.
        A job that is not due yet is cancelled at once.
        """
        ...

    async def uncancel(self, job_id: str) -> bool:
        """Withdraw a cancellation that has not taken effect: a waiting job will run. Return False if there is none.

        Raises BadInputError for an invalid id.
        """
        ...

    async def depth(self) -> Depth:
        """Count jobs by state."""
        ...

    async def flow(self) -> Flow:
        """Tell what holds jobs back, and how many are worth a lane, all at one moment."""
        ...

    async def set_tenant(self, name: str, limits: TenantLimits | None) -> None:
        """Give a tenant an entry, in place of any that it has; None deletes it.

        From now on, jobs that are put for it wait in a line of its own. In each class, tenants with a line are served
        by weight, all other jobs together being those of one more of weight 1. A deleted tenant's jobs keep their place
        in its line, and are served with weight 1. Raises BadInputError for a name that no job may have, and where
        MOST_TENANTS have an entry.
        """
        ...

    async def tenants(self, name: str | None = None) -> list[TenantStanding]:
        """Tell how tenants stand, by name, or only one: each that has an entry, or jobs from the time of one."""
        ...

    async def workers(self) -> list[LiveWorker]:
        """List the live worker processes."""
        ...

    async def ledger(
        self, since: float, until: float | None = None, *, tenant: str | None = None
    ) -> list[LedgerMinute]:
        """Return what happened in each minute from that of `since` to that of `until`, oldest first.

        Both are seconds since the epoch; None: now. Minutes in which nothing happened are left out, as are those
        older than the ledger is kept. Of a `tenant` only `ended`, `failed` and tokens are known.
        """
        ...

    async def pause(self, *, scale_to_zero: bool = False) -> None:
        """Stop workers from claiming until `resume`; running jobs continue.

        With `scale_to_zero` the autoscaler keeps no worker for them.
        """
        ...

    async def resume(self) -> None:
        """End a pause."""
        ...

    def dead(
        self,
        which: DeadFilter | None = None,
        *,
        limit: int | None = None,
        after: str | None = None,
        oldest_first: bool = False,
        payloads: bool = True,
    ) -> AsyncIterator[DeadLetter]:
        """Iterate over dead letters, latest first, beginning behind the letter with id `after`.

        Without `payloads` they are not read and are empty.
        """
        ...

    async def dead_letter(self, name: str, *, payload: bool = True) -> DeadLetter | None:
        """Return a dead letter by its own id, or the latest of a job id. Without `payload`, that is empty."""
        ...

    async def dead_count(self, which: DeadFilter | None = None) -> int:
        """Count dead letters."""
        ...

    async def dead_codes(self) -> dict[str, int]:
        """Count dead letters by code."""
        ...

    async def replay(self, letter_id: str) -> bool:
        """Requeue a dead letter at the head of its class, counters reset. Return False if there is none."""
        ...

    async def replay_many(self, letter_ids: Sequence[str]) -> list[Replay]:
        """Replay dead letters, in batches, and return the outcome for each.

        `payload_lost`: its payload was deleted by hand, so there is nothing to run; the letter stays.
        """
        ...

    async def purge(self, *, older_than: float, code: str | None = None) -> int:
        """Delete dead letters at least `older_than` seconds old, in batches, and return how many."""
        ...

    async def discard(self, letter_ids: Sequence[str]) -> int:
        """Delete dead letters by their ids, and return how many there were."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
