"""One job, one outcome: deadline, time limit, short retries, and what a fault counts for. Knows no queue."""

import asyncio
import math
import random
from dataclasses import dataclass
from time import monotonic
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from greenscale_worker.backends import Backend
from greenscale_worker.errors import PermanentError, TransientError
from greenscale_worker.gate import Gate
from greenscale_worker.job import Failed, Job, Outcome, Output, Released, Succeeded
from greenscale_worker.queues import Lease
from greenscale_worker.recall import Deadlines, Recall
from greenscale_worker.telemetry import Metrics, log

LONGEST_WAIT_IN_LEASE: Final = 3.0
WAITS_IN_LEASE: Final = 2
FIRST_BACKOFF: Final = 1.0
LONGEST_BACKOFF: Final = 60.0
LARGEST_RESULT: Final = 64 * 1024 * 1024  # Redis takes 512 MiB; what it refused would be sent for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often and how long a job is tried. Times are seconds.

    `max_tries` failed attempts, or `max_crashes` leases that ended without a word, bury it. `timeout` bounds
    one attempt, `max_age` the time since its first claim.
    """

    max_tries: int = 5
    max_crashes: int = 4
    timeout: float = 300.0
    max_age: float = 86_400.0


@dataclass(frozen=True, slots=True)
class _Run:
    job: Job
    lease: Lease
    ends: float  # by the monotonic clock; infinite without a deadline

    def left(self) -> float:
        return self.ends - monotonic()


class Executor:
    """Runs one job against the backend, as often as its lease allows.

    Every counted fault goes back to the queue, which keeps the tries: so `max_tries` bounds all attempts that
    count, whichever process made them. Only the endpoint's own faults, which count for nothing, are waited for
    in the lease, at most twice and 3 s each; and not while the breaker is open.
    """

    def __init__(self, backend: Backend, gate: Gate, policy: Policy, metrics: Metrics) -> None:
        self._backend = backend
        self._gate = gate
        self._policy = policy
        self._metrics = metrics
        self._deadlines = Deadlines()

    async def run(self, job: Job, lease: Lease) -> Outcome:
        """Bring the job to an outcome. Raises nothing but the cancellation of the task it runs in."""
        policy = self._policy
        if lease.crashes >= policy.max_crashes:
            return Failed("crashed", f"{lease.crashes} leases ended without a word from their worker")
        if lease.claimed_at - lease.first_claimed_at > policy.max_age:
            return Failed("too_old", f"first claimed more than {policy.max_age:g} s ago")
        ends = math.inf
        if job.deadline is not None:
            ends = lease.received + job.deadline.timestamp() - lease.claimed_at
        run = _Run(job, lease, ends)
        try:
            return await self._attempt(run)
        except TransientError as error:
            return await self._retry(run, error)

    async def _attempt(self, run: _Run) -> Outcome:
        """Call once. Raises TransientError, not counted, where the lease may wait for another attempt."""
        if run.left() <= 0:
            return Failed("deadline_passed", "the deadline passed before the call")
        if self._gate.remaining() > 0:
            raise TransientError("gate_shut", "the endpoint asked for time", counted=False, retry_after=0.0)
        started = monotonic()
        answer = await self._call(run)
        self._metrics.called(monotonic() - started)
        if isinstance(answer, Output):
            self._gate.succeeded()
            if len(answer.text) > LARGEST_RESULT:
                return Failed("result_too_large", f"{len(answer.text)} characters; at most {LARGEST_RESULT} are kept")
            return Succeeded(answer)
        self._teach_gate(answer)
        if isinstance(answer, PermanentError):
            return Failed(answer.code, str(answer))
        if not answer.counted:
            raise answer
        if run.left() > 0 and run.lease.tries + 1 >= self._policy.max_tries:
            return Failed(answer.code, str(answer))
        return self._later(run, answer, self._delay(answer, run.lease.tries))

    async def _call(self, run: _Run) -> Output | TransientError | PermanentError:
        """Ask the backend; what it raises comes back as a value, whatever it is."""
        recall = Recall()
        self._deadlines.add(recall, min(self._policy.timeout, run.left()))
        try:
            with recall:
                return await self._ask(run.job, recall)
        finally:
            self._deadlines.discard(recall)
        return _timed_out()

    async def _ask(self, job: Job, recall: Recall) -> Output | TransientError | PermanentError:
        try:
            output: object = await self._backend.infer(job)
        except (TransientError, PermanentError) as error:
            return error
        except asyncio.CancelledError as error:
            if recall.task.cancelling():
                raise
            return _backend_error(job, error)  # the backend cancelled something of its own
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever somebody else's code comes up with
            return _timed_out() if recall.called else _backend_error(job, error)
        if isinstance(output, Output):
            return output
        return TransientError("backend_error", f"it gave {type(output).__name__}, not Output", counted=True)

    def _teach_gate(self, error: TransientError | PermanentError) -> None:
        if isinstance(error, TransientError) and (not error.counted or error.retry_after is not None):
            self._gate.failed(error)
        elif error.code.startswith("http_"):  # it answered; a time limit or a lost connection shows nothing
            self._gate.succeeded()

    async def _retry(self, run: _Run, first: TransientError) -> Outcome:
        """Wait for the endpoint in the lease, else release the job.

        The first attempt was made outside tenacity, which costs as much as the rest of a job; tenacity is
        given its fault as if it had been its own.
        """
        error, replay = first, True

        async def attempt() -> Outcome:
            nonlocal error, replay
            if replay:
                replay = False
                raise error
            try:
                return await self._attempt(run)
            except TransientError as again:
                error = again
                raise

        def delay(state: RetryCallState) -> float:
            return self._delay(error, run.lease.tries + state.attempt_number - 1)

        def leaves(state: RetryCallState) -> bool:
            waited_enough = state.attempt_number > WAITS_IN_LEASE or state.upcoming_sleep > LONGEST_WAIT_IN_LEASE
            return waited_enough or self._gate.tripped or state.upcoming_sleep >= run.left()

        outcome: Outcome = await AsyncRetrying(
            sleep=asyncio.sleep,
            retry=retry_if_exception_type(TransientError),
            wait=delay,
            stop=leaves,
            before_sleep=lambda _: self._metrics.retried(error.code),
            retry_error_callback=lambda state: self._later(run, error, state.upcoming_sleep),
        )(attempt)
        return outcome

    def _delay(self, error: TransientError, failed: int) -> float:
        """Seconds until the next attempt, after `failed` earlier ones: never before the gate lets it pass.

        A time that the endpoint named is in the gate already, with its jitter. Without one: full jitter,
        uniform in 0 … min(60, 1 * 2 ** failed) (Brooker, "Exponential Backoff And Jitter", 2015).
        """
        longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(failed, 10))
        backoff = 0.0 if error.retry_after is not None else random.uniform(0, longest)  # noqa: S311  spread, not secrecy
        return max(backoff, self._gate.remaining())

    def _later(self, run: _Run, error: TransientError, delay: float) -> Outcome:
        if delay < run.left():
            self._metrics.retried(error.code)
            return Released(error.code, delay, error.counted)
        return Failed("deadline_passed", f"no time for another attempt before the deadline; last: {error.code}")


def _timed_out() -> TransientError:
    return TransientError("timeout", "no answer within the time limit", counted=True)


def _backend_error(job: Job, error: BaseException) -> TransientError:
    """Say what a backend raised and where, without the values in its message: they may be anything."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "an unknown place"
    if trace is not None:
        frame = trace.tb_frame
        where = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}:{trace.tb_lineno}"
    kind = type(error).__name__
    log.error("backend_error", job_id=job.job_id, error=kind, where=where)
    return TransientError("backend_error", f"{kind} at {where}", counted=True)
