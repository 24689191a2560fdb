"""Runs one job: one call, within its deadline and time limit. Knows no queue."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final, NamedTuple, TypeAlias, get_args
from weakref import WeakSet

from greenscale_worker.backends import Backend
from greenscale_worker.blame import Call
from greenscale_worker.cancel_scope import CancelScope, Timeouts
from greenscale_worker.errors import LONGEST_SNOOZE, BadInputError, PermanentError, Prior, Snooze, TransientError
from greenscale_worker.gate import Gate
from greenscale_worker.job import (
    SNOOZED,
    Failed,
    Failure,
    Job,
    Outcome,
    Output,
    Rates,
    Released,
    Succeeded,
    Usage,
    begin,
)
from greenscale_worker.queues import Lease
from greenscale_worker.telemetry import Metrics, log

LARGEST_RESULT: Final = 64 * 1024 * 1024  # Redis takes 512 MiB; a result it refused would be sent again for ever

LONGEST_PEERS: Final = 256  # characters
PRIORS: Final = get_args(Prior)

Answer: TypeAlias = Output | TransientError | PermanentError | BadInputError | Snooze
OnException: TypeAlias = Callable[[Job, BaseException], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often and how long a job is tried. Times are seconds.

    A job becomes a dead letter when its failures use up `max_tries` tries, or `max_crashes` of its leases expired.
    `timeout` bounds one call, `max_age` the time since the first claim; it may be infinite. `max_crashes` None: the
    queue's options say.
    """

    max_tries: int = 5
    max_crashes: int | None = None
    timeout: float = 300.0
    max_age: float = 86_400.0


class Run(NamedTuple):
    """A job, its lease, and `ends`, its deadline by the monotonic clock: infinite where it has none."""

    job: Job
    lease: Lease
    probe: bool
    ends: float

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.ends - monotonic()


class Executor:
    """Makes one call to the backend for a job; a failed call goes back to the queue, which counts the tries.

    `on_stuck` is called with the task of a handler that ignores cancellation; its later answer is discarded.
    `on_exception` is called with every exception of a backend that is neither TransientError nor PermanentError.
    """

    def __init__(  # noqa: PLR0913  the parts
        self,
        backend: Backend,
        gate: Gate,
        policy: Policy,
        metrics: Metrics,
        *,
        on_stuck: Callable[[asyncio.Task[object]], None] | None = None,
        on_exception: OnException | None = None,
    ) -> None:
        self.timeouts = Timeouts(self._left_behind)
        self._on_stuck = on_stuck
        self._stuck: WeakSet[asyncio.Task[object]] = WeakSet()
        self._any_stuck = False
        self._backend = backend
        self._name_peers: Callable[[Job], object] = getattr(backend, "peers", same_model)
        self._gate = gate
        self._policy = policy
        self._metrics = metrics
        self._on_exception = on_exception

    async def run(self, job: Job, lease: Lease, *, probe: bool = False) -> Outcome | Failure:
        """Run the job and return its outcome. Raises only the cancellation of the task it runs in."""
        policy = self._policy
        if policy.max_crashes is not None and lease.crashes >= policy.max_crashes:
            return Failed("crashed", f"{lease.crashes} leases ended without a word from their worker")
        if lease.claimed_at - lease.first_claimed_at > policy.max_age:
            return Failed("too_old", f"first claimed more than {policy.max_age:g} s ago")
        ends = math.inf
        if job.deadline is not None:
            ends = lease.received + job.deadline.timestamp() - lease.claimed_at
        run = Run(job, lease, probe, ends)
        if run.left() <= 0:
            return Failed("deadline_passed", "the deadline passed before the call")
        if (wait := self._gate.remaining(probe=probe)) > 0:
            return Released("gate_shut", wait) if wait < run.left() else _too_late("the endpoint asked for time")
        if lease.crashes:
            runs = lease.runs + lease.crashes + 1
            log.warning("job_taken_over", job_id=job.job_id, crashes=lease.crashes, run=runs)
        lease.began = monotonic()
        answer = await self._call(run)
        lease.call_seconds = monotonic() - lease.began
        if self._any_stuck and asyncio.current_task() in self._stuck:
            return Released("stuck")  # judged already, as a timeout
        if not isinstance(answer, BadInputError):
            self._metrics.called(lease.call_seconds)
        return self.judge(run, answer)

    def judge(self, run: Run, answer: Answer) -> Outcome | Failure:
        """Report an answer to the gate, and return what it means for the job."""
        lease, policy = run.lease, self._policy
        if isinstance(answer, BadInputError):
            lease.began = lease.call_seconds = None  # nothing was sent
            return Failed(answer.code, str(answer))
        if isinstance(answer, Snooze):  # a handler's wish is evidence of nothing
            wait = answer.delay
            return Released(SNOOZED, wait) if wait < run.left() else _too_late(f"it was to go on in {wait:g} s")
        call = Call(
            run.job.job_id, self._peers(run.job), lease.began or monotonic(), lease.tries, lease.runs, probe=run.probe
        )
        if isinstance(answer, Output):
            self._gate.succeeded(call)
            return _answered(answer)
        if isinstance(answer, PermanentError):  # certainly the job's fault: no evidence about the endpoint
            return Failed(answer.code, str(answer), answer.usage or Usage())
        used, delay = self._gate.failed(call, answer)
        if answer.prior != "job" and lease.tries + used < policy.max_tries and delay >= run.left():
            return _too_late(f"{answer.code}: {answer}")
        self._metrics.retried(answer.code)
        return Failure(
            code=answer.code,
            message=str(answer),
            prior=answer.prior,
            fingerprint=answer.fingerprint,
            used=used,
            max_tries=policy.max_tries,
            delay=delay,
            hold=0.0 if answer.retry_after is None else self._gate.held_seconds,
            rates=answer.rates if isinstance(answer.rates, Rates) else None,
        )

    def _peers(self, job: Job) -> str:
        """Name the peers of a job, cut short: many names are kept, and a job may name a model of any length."""
        try:
            return str(self._name_peers(job))[:LONGEST_PEERS]
        except Exception:  # noqa: BLE001  a plug-in may raise anything; only evidence is lost
            return ""

    def _left_behind(self, task: asyncio.Task[object]) -> None:
        self._stuck.add(task)
        self._any_stuck = True
        if self._on_stuck is not None:
            self._on_stuck(task)

    async def _call(self, run: Run) -> Answer:
        """Call the backend. Return what it answers, or what it raises as a value."""
        scope, seconds = CancelScope(), min(self._policy.timeout, run.left())
        begin(run.job, attempt=run.lease.runs + 1, ends=monotonic() + seconds)
        self.timeouts.add(scope, seconds)
        try:
            with scope:
                return await self._ask(run.job, scope)
        finally:
            self.timeouts.discard(scope)
        return timed_out()

    async def _ask(self, job: Job, scope: CancelScope) -> Answer:
        try:
            output: object = await self._backend.infer(job)
        except (TransientError, PermanentError, BadInputError, Snooze) as error:
            return error if _is_usable(error) else self._backend_error(job, error)
        except asyncio.CancelledError as error:
            if scope.task.cancelling():
                raise
            return self._backend_error(job, error)  # the backend cancelled something of its own
        except (KeyboardInterrupt, GeneratorExit):
            raise  # the process, or this task, is ending
        except BaseException as error:  # noqa: BLE001  a plug-in may raise anything, such as a panic in Rust
            return timed_out() if scope.cancelled else self._backend_error(job, error)
        if isinstance(output, Output):
            return output
        return TransientError("backend_error", f"it gave {type(output).__name__}, not Output")

    def _backend_error(self, job: Job, error: BaseException) -> TransientError:
        """Log and return what a backend raised and where, without its message, which may quote anything."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = "an unknown place"
        if trace is not None:
            frame = trace.tb_frame
            where = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}:{trace.tb_lineno}"
        kind = type(error).__name__
        log.error("backend_error", job_id=job.job_id, error=kind, where=where)
        if self._on_exception is not None:
            with suppress(Exception):  # the hook of an embedding program must not end a lane
                self._on_exception(job, error)
        return TransientError("backend_error", f"{kind} at {where}", fingerprint=f"backend_error {kind} {where}")


def _is_usable(error: TransientError | PermanentError | BadInputError | Snooze) -> bool:
    """Return whether an error raised by a backend has the attributes that its class promises."""
    try:
        if isinstance(error, Snooze):
            return isinstance(error.delay, float | int) and 0 <= error.delay <= LONGEST_SNOOZE
        if isinstance(error, PermanentError):
            parts_fit = isinstance(error.usage, Usage | None)
        elif isinstance(error, BadInputError):
            parts_fit = True
        else:
            texts_fit = isinstance(error.fingerprint, str) and isinstance(error.advice, str | None)
            parts_fit = texts_fit and error.prior in PRIORS and isinstance(error.retry_after, float | int | None)
        return parts_fit and isinstance(error.code, str) and isinstance(str(error), str)
    except Exception:  # noqa: BLE001  a subclass without super().__init__, or a message that cannot be written
        return False


def timed_out() -> TransientError:
    """Return the error of a call whose time limit has passed."""
    return TransientError("timeout", "no answer within the time limit")


def _answered(output: Output) -> Succeeded | Failed:
    if len(output.text) > LARGEST_RESULT:
        return Failed("result_too_large", f"{len(output.text)} characters; at most {LARGEST_RESULT} are kept")
    return Succeeded(output)


def _too_late(why: str) -> Failed:
    return Failed("deadline_passed", f"no time for another attempt before the deadline; last: {why}")


def same_model(job: Job) -> str:
    """Name the peers of a job where the backend does not: those for the same model."""
    return str(job.payload.get("model") or "")
