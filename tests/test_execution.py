"""One job, one call: what comes of it, what the gate and the queue are told, and what ends it."""

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic
from typing import Any

import pytest
import structlog

from greenscale_worker import blame
from greenscale_worker import gate as gates
from greenscale_worker.backends import Backend, ChatOptions
from greenscale_worker.backends.chat import ChatBackend
from greenscale_worker.backends.handlers import HandlerBackend
from greenscale_worker.blame import Call
from greenscale_worker.errors import LONGEST_SNOOZE, PermanentError, Snooze, TransientError
from greenscale_worker.execution import Executor, Policy
from greenscale_worker.gate import Gate
from greenscale_worker.job import Failed, Failure, Job, Outcome, Output, Released, Succeeded, Usage
from greenscale_worker.queues import Lease
from greenscale_worker.telemetry import Metrics
from tests.support.endpoint import Endpoint, Reply

NOW = 1_700_000_000.0
SECRET = "a prompt, an answer or a key"  # noqa: S105  what must not be seen again


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blame, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(gates, "FIRST_PAUSE", 0.1)


def lease(*, tries: float = 0, runs: int = 0, crashes: int = 0, age: float = 0.0) -> Lease:
    counts: dict[str, Any] = {"tries": tries, "runs": runs, "crashes": crashes}
    counts |= {"claimed_at": NOW, "first_claimed_at": NOW - age}
    return Lease("1", "token", b"{}", **counts)


def job(*, due_in: float | None = None, **payload: Any) -> Job:
    deadline = None if due_in is None else datetime.fromtimestamp(NOW + due_in, UTC)
    return Job(job_id="job-1", deadline=deadline, payload={"prompt": SECRET} | payload)


class Bench:
    """An executor with its gate and metrics at hand."""

    def __init__(self, backend: Backend, **policy: Any) -> None:
        self.metrics = Metrics()
        self.gate = Gate()
        self.executor = Executor(backend, self.gate, Policy(**{"max_crashes": 4, **policy}), self.metrics)

    async def run(
        self, *, due_in: float | None = None, probe: bool = False, payload: dict[str, Any] | None = None, **of: Any
    ) -> Outcome | Failure:
        async with asyncio.timeout(10):
            return await self.executor.run(job(due_in=due_in, **payload or {}), lease(**of), probe=probe)

    def retries(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("greenscale_retries_total", {"reason": reason}) or 0.0

    def calls(self) -> float:
        return self.metrics.registry.get_sample_value("greenscale_call_seconds_count") or 0.0


@asynccontextmanager
async def chat(endpoint: Endpoint, **settings: Any) -> AsyncIterator[Bench]:
    backend = ChatBackend(ChatOptions(url=endpoint.url, model="llama"))
    try:
        yield Bench(backend, **settings)
    finally:
        await backend.aclose()


def handler(function: Callable[[Job], Awaitable[Any]], **settings: Any) -> Bench:
    return Bench(HandlerBackend(function), **settings)


def raising(error: BaseException, **settings: Any) -> Bench:
    async def fail(_job: Job) -> str:
        raise error

    return handler(fail, **settings)


def failed(outcome: Outcome | Failure, code: str) -> Failure:
    assert isinstance(outcome, Failure)
    assert outcome.code == code
    return outcome


def succeed(gate: Gate, times: int) -> None:
    for _ in range(times):
        gate.succeeded(Call("other", "", monotonic()))


def open_breaker(gate: Gate) -> None:
    for number in range(5):
        gate.failed(Call(f"other-{number}", "", monotonic()), TransientError("http_503", "no", prior="endpoint"))
    assert gate.is_open


def hold(gate: Gate, seconds: float) -> None:
    while gate.remaining() < seconds:
        gate.failed(
            Call("other", "", monotonic()), TransientError("http_429", "no", prior="endpoint", retry_after=seconds)
        )
    assert not gate.is_open


# --- without a call ---


async def test_an_answer_succeeds() -> None:
    async with Endpoint() as endpoint, chat(endpoint) as bench:
        outcome = await bench.run()
    assert isinstance(outcome, Succeeded)
    assert outcome.output.text == "4"
    assert bench.calls() == 1


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ({"crashes": 4}, "crashed"),
        ({"crashes": 7, "age": 1e6}, "crashed"),
        ({"age": 86_401.0}, "too_old"),
        ({"due_in": -0.001}, "deadline_passed"),
        ({"due_in": -1e9}, "deadline_passed"),
    ],
)
async def test_what_ends_a_job_before_it_is_sent(state: dict[str, Any], code: str) -> None:
    async with Endpoint() as endpoint, chat(endpoint) as bench:
        outcome = await bench.run(**state)
    assert isinstance(outcome, Failed)
    assert outcome.code == code
    assert endpoint.received == []
    assert bench.calls() == 0


@pytest.mark.parametrize("state", [{"crashes": 3}, {"age": 86_400.0}, {"due_in": 5.0}, {"tries": 4}, {"due_in": 1e10}])
async def test_what_does_not(state: dict[str, Any]) -> None:
    async with Endpoint() as endpoint, chat(endpoint) as bench:
        assert isinstance(await bench.run(**state), Succeeded)


# --- failed calls ---


async def test_a_call_that_failed_goes_to_the_queue_with_what_is_known_of_it() -> None:
    async with Endpoint(Reply(status=500, json={"error": {"message": "boom"}})) as endpoint, chat(endpoint) as bench:
        failure = failed(await bench.run(), "http_500")
    assert len(endpoint.received) == 1
    assert failure.message == "HTTP 500: boom"
    assert failure.prior == "unknown"
    assert failure.fingerprint.startswith("http_500")
    assert (failure.used, failure.max_tries) == (0.0, 5)
    assert bench.retries("http_500") == 1
    assert bench.calls() == 1


@pytest.mark.parametrize("status", [400, 404, 408, 429, 500, 502, 503])
async def test_every_status_is_one_call_and_back_to_the_queue(status: int) -> None:
    async with Endpoint(default=Reply(status=status)) as endpoint, chat(endpoint) as bench:
        failed(await bench.run(tries=4), f"http_{status}")
    assert len(endpoint.received) == 1


@pytest.mark.parametrize(("successes", "used"), [(0, 0.0), (1, 0.25), (3, 0.5), (15, 1.0), (100, 1.0)])
async def test_a_failure_uses_up_as_much_of_a_try_as_it_is_a_surprise(successes: int, used: float) -> None:
    bench = raising(TransientError("odd", "no"), max_tries=3)
    succeed(bench.gate, successes)
    failure = failed(await bench.run(), "odd")
    assert failure.used == pytest.approx(used)
    assert failure.max_tries == 3


async def test_only_those_with_the_same_url_and_model_make_it_a_surprise() -> None:
    bench = raising(TransientError("odd", "no"))
    succeed(bench.gate, 15)
    assert failed(await bench.run(payload={"model": "another"}), "odd").used == 0.0
    assert failed(await bench.run(), "odd").used == 1.0


@pytest.mark.parametrize("runs", range(10))
async def test_backoff_is_full_jitter(runs: int) -> None:
    bench = raising(TransientError("odd", "no"))
    delays = [failed(await bench.run(runs=runs), "odd").delay for _ in range(100)]
    longest = min(60, 2**runs)
    assert 0 <= min(delays) < longest / 4  # each misses with a chance of 0.75 ** 100
    assert longest * 3 / 4 < max(delays) <= longest


async def test_a_call_that_takes_too_long_is_a_failure_and_a_sign() -> None:
    async with Endpoint(default=Reply(wait=asyncio.Event().wait)) as endpoint, chat(endpoint, timeout=0.05) as bench:
        failure = failed(await bench.run(), "timeout")
        assert (failure.message, failure.prior) == ("no answer within the time limit", "unknown")
        for number in range(4):
            assert not bench.gate.is_open
            bench.gate.failed(Call(f"other-{number}", "", monotonic()), TransientError("timeout", "no"))
        assert bench.gate.is_open


async def test_a_body_that_trickles_is_bounded_too() -> None:
    trickle = Reply(pieces=(b" ",) * 1000, pause=0.01)
    async with Endpoint(trickle) as endpoint, chat(endpoint, timeout=0.05) as bench:
        failed(await bench.run(), "timeout")


async def test_a_final_fault_fails_at_once() -> None:
    async with Endpoint(Reply(status=422)) as endpoint, chat(endpoint) as bench:
        assert await bench.run() == Failed("http_422", "HTTP 422")
    assert len(endpoint.received) == 1


async def test_bad_input_fails_without_a_call() -> None:
    async with Endpoint() as endpoint, chat(endpoint) as bench:
        outcome = await bench.run(payload={"stream": True})
    assert isinstance(outcome, Failed)
    assert outcome.code == "bad_request"
    assert endpoint.received == []


# --- the gate ---


async def test_a_time_that_the_endpoint_names_is_the_jobs_own_wait() -> None:
    async with Endpoint(Reply(status=429, headers={"Retry-After": "4"})) as endpoint, chat(endpoint) as bench:
        succeed(bench.gate, 16)
        assert 4.0 <= failed(await bench.run(), "http_429").delay <= 4.4
        assert isinstance(await bench.run(), Succeeded), "nobody else waits for it"
    assert len(endpoint.received) == 2


async def test_where_half_of_the_answers_fail_it_holds_everybody() -> None:
    reply = Reply(status=429, headers={"Retry-After": "30"})
    async with Endpoint(default=reply) as endpoint, chat(endpoint) as bench:
        while bench.gate.remaining() == 0:
            assert failed(await bench.run(), "http_429").delay >= 30.0
        calls = len(endpoint.received)
        outcome = await bench.run(tries=4)
    assert isinstance(outcome, Released)
    assert outcome.reason == "gate_shut"
    assert 29 < outcome.delay <= 33
    assert len(endpoint.received) == calls == bench.calls()
    assert not bench.gate.is_open


async def test_while_the_breaker_is_open_only_the_probe_sends() -> None:
    async with Endpoint(default=Reply(status=503)) as endpoint, chat(endpoint) as bench:
        open_breaker(bench.gate)
        outcome = await bench.run()
        assert isinstance(outcome, Released)
        assert outcome.reason == "gate_shut"
        assert outcome.delay > 0
        assert endpoint.received == []
        assert await bench.gate.enter()
        failed(await bench.run(probe=True), "http_503")
        bench.gate.leave(probe=True)
    assert len(endpoint.received) == 1
    assert bench.gate.is_open


async def test_a_job_whose_probe_failed_waits_until_after_the_next_one() -> None:
    bench = raising(TransientError("http_503", "no", prior="endpoint"))
    open_breaker(bench.gate)
    assert await bench.gate.enter()
    failure = failed(await bench.run(probe=True), "http_503")
    bench.gate.leave(probe=True)
    asked = monotonic()
    assert await bench.gate.enter()
    assert asked + failure.delay > monotonic()


async def test_a_probe_that_succeeds_heals() -> None:
    async with Endpoint() as endpoint, chat(endpoint) as bench:
        open_breaker(bench.gate)
        assert await bench.gate.enter()
        assert isinstance(await bench.run(probe=True), Succeeded)
    assert not bench.gate.is_open


async def test_what_is_certain_is_evidence_of_nothing() -> None:
    bench = raising(PermanentError("bad_request", "no"))
    open_breaker(bench.gate)
    assert await bench.gate.enter()
    assert isinstance(await bench.run(probe=True), Failed)
    assert bench.gate.is_open
    bench = raising(PermanentError("bad_request", "no"))
    succeed(bench.gate, 15)
    await bench.run()
    used, _ = bench.gate.failed(Call("other", "", monotonic()), TransientError("odd", "no"))
    assert used == 1.0


# --- deadlines ---


@pytest.mark.parametrize("tries", [0, 4])
async def test_the_deadline_bounds_the_call(tries: int) -> None:
    async with Endpoint(Reply(wait=asyncio.Event().wait)) as endpoint, chat(endpoint) as bench:
        outcome = await bench.run(due_in=0.3, tries=tries)
    assert isinstance(outcome, Failed)
    assert outcome.code == "deadline_passed"
    assert len(endpoint.received) == 1


@pytest.mark.parametrize("tries", [0, 4])
@pytest.mark.parametrize("prior", ["endpoint", "unknown"])
async def test_a_wait_beyond_the_deadline_is_not_begun(tries: int, prior: Any) -> None:
    bench = raising(TransientError("http_503", "no", prior=prior, retry_after=2.5))
    outcome = await bench.run(due_in=1.5, tries=tries)
    assert isinstance(outcome, Failed)
    assert outcome.code == "deadline_passed"
    assert "http_503" in outcome.message
    assert bench.retries("http_503") == 0


async def test_a_gate_shut_for_longer_than_the_deadline_ends_the_job() -> None:
    bench = raising(TransientError("http_503", "no", prior="endpoint"))
    hold(bench.gate, 30.0)
    outcome = await bench.run(due_in=1.5)
    assert isinstance(outcome, Failed)
    assert outcome.code == "deadline_passed"
    assert bench.calls() == 0


async def test_a_last_try_dies_of_its_fault_and_not_of_its_deadline() -> None:
    bench = raising(TransientError("odd", "no", retry_after=30.0))
    succeed(bench.gate, 15)
    assert failed(await bench.run(due_in=1.5, tries=4), "odd").used == 1.0


# --- other people's code ---


@pytest.mark.parametrize(
    "error",
    [ValueError(SECRET), TimeoutError(SECRET), SystemExit(SECRET), ExceptionGroup(SECRET, [ValueError(SECRET)])],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_backend_raises_counts(error: BaseException) -> None:
    bench = raising(error)
    with structlog.testing.capture_logs() as lines:
        outcome = failed(await bench.run(), "backend_error")
    assert type(error).__name__ in outcome.message
    assert "raising.<locals>.fail:" in outcome.message
    assert "raising.<locals>.fail:" in outcome.fingerprint
    assert SECRET not in outcome.message + outcome.fingerprint
    assert [line["event"] for line in lines] == ["backend_error"]
    assert lines[0]["job_id"] == "job-1"
    assert SECRET not in repr(lines)


class Panic(BaseException):
    """As libraries in Rust raise it."""


class BareError(TransientError):
    def __init__(self) -> None:
        """Leave out what the class above does."""


class BarePermanentError(PermanentError):
    def __init__(self) -> None:
        """Leave out what the class above does."""


class Unwritable:
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    "error",
    [
        Panic(),
        BareError(),
        BarePermanentError(),
        TransientError("code", Unwritable()),  # type: ignore[arg-type]
        TransientError("code", "", prior=None),  # type: ignore[arg-type]
        TransientError("code", "", prior="anybody"),  # type: ignore[arg-type]
        TransientError("code", "", fingerprint=7),  # type: ignore[arg-type]
        TransientError("code", "", fingerprint=["x"]),  # type: ignore[arg-type]
        TransientError("code", "", advice=7),  # type: ignore[arg-type]
        TransientError("code", "", retry_after=Decimal(1)),  # type: ignore[arg-type]
        PermanentError("code", "", usage={"total_tokens": 1}),  # type: ignore[arg-type]
    ],
)
async def test_an_error_that_is_not_as_its_class_promises_is_the_backends(error: BaseException) -> None:
    outcome = failed(await raising(error).run(), "backend_error")
    assert outcome.message.startswith(f"{type(error).__name__} at ")
    assert isinstance(outcome, Failure)


@pytest.mark.parametrize("peers", [lambda _job: 1 / 0, lambda _job: ["x"], lambda job: job.payload["model"], ["host"]])
async def test_whatever_a_backend_names_as_peers_stops_no_lane_and_is_not_kept_at_length(peers: Any) -> None:
    backend = HandlerBackend(lambda _job: asyncio.sleep(0, "4"))
    backend.peers = peers  # type: ignore[attr-defined]
    bench, calls = Bench(backend), []
    bench.gate.succeeded = calls.append  # type: ignore[method-assign]
    assert isinstance(await bench.run(payload={"model": "x" * 100_000}), Succeeded)
    (call,) = calls
    assert isinstance(call.peers, str)
    assert len(call.peers) <= 256


async def test_exit_in_a_backend_ends_no_process() -> None:
    async def leave(_job: Job) -> str:
        sys.exit(3)

    failed(await handler(leave).run(), "backend_error")


async def test_a_backend_that_cancels_its_own_work_does_not_end_the_lane() -> None:
    async def cancel_something(_job: Job) -> Any:
        own = asyncio.ensure_future(asyncio.sleep(60))
        own.cancel()
        return await own

    failed(await handler(cancel_something).run(), "backend_error")


async def test_a_backend_that_gives_no_output_counts() -> None:
    class Careless(HandlerBackend):
        async def infer(self, job: Job) -> Output:
            return job.job_id  # type: ignore[return-value]

    outcome = await Bench(Careless(lambda _job: asyncio.sleep(0))).run()
    assert failed(outcome, "backend_error").message == "it gave str, not Output"


async def test_a_backend_that_turns_its_cancellation_into_an_error_has_timed_out() -> None:
    async def stubborn(_job: Job) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError(SECRET) from None
        return ""

    failed(await handler(stubborn, timeout=0.02).run(), "timeout")


# --- a handler that wants to go on later ---


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_snooze_is_neither_a_failure_nor_a_success(is_async: bool) -> None:  # noqa: FBT001  a column
    async def snooze(_job: Job) -> str:
        raise Snooze(7)

    def snooze_in_a_thread(_job: Job) -> str:
        raise Snooze(7)

    bench = Bench(HandlerBackend(snooze if is_async else snooze_in_a_thread))
    open_breaker(bench.gate)
    before = bench.gate.remaining()
    assert await bench.run(probe=True, tries=4.9, runs=7) == Released("snoozed", 7)
    assert bench.gate.is_open
    assert bench.gate.remaining() <= before
    assert bench.retries("snoozed") == 0
    for _ in range(5):
        assert await Bench(HandlerBackend(snooze)).run(runs=1000, tries=4.9) == Released("snoozed", 7)


@pytest.mark.parametrize(
    ("delay", "waits"), [(0, 0.0), (0.25, 0.25), (1e9, LONGEST_SNOOZE), (math.inf, LONGEST_SNOOZE)]
)
async def test_a_snooze_is_a_day_at_most(delay: float, waits: float) -> None:
    assert await raising(Snooze(delay)).run() == Released("snoozed", waits)


@pytest.mark.parametrize("delay", [-1, math.nan])
async def test_a_snooze_that_makes_no_sense_is_the_handlers_fault(delay: float) -> None:
    async def careless(_job: Job) -> str:
        raise Snooze(delay)

    failed(await handler(careless).run(), "backend_error")
    spoilt = Snooze()
    spoilt.delay = delay
    failed(await raising(spoilt).run(), "backend_error")


async def test_a_snooze_beyond_the_deadline_ends_the_job() -> None:
    outcome = await raising(Snooze(60)).run(due_in=30)
    assert isinstance(outcome, Failed)
    assert outcome.code == "deadline_passed"
    assert await raising(Snooze(20)).run(due_in=30) == Released("snoozed", 20)


async def test_a_job_that_is_snoozed_for_ever_may_be_of_any_age() -> None:
    too_old = await raising(Snooze()).run(age=1e6)
    assert isinstance(too_old, Failed)
    assert too_old.code == "too_old"
    assert await raising(Snooze(), max_age=math.inf).run(age=1e12) == Released("snoozed", 0)


async def test_cancellation_passes() -> None:
    arrived = asyncio.Event()

    async def slow(_job: Job) -> str:
        arrived.set()
        await asyncio.sleep(60)
        return ""

    running = asyncio.create_task(handler(slow).executor.run(job(), lease()))
    await arrived.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_scope_around_it_may_end_it() -> None:
    async def slow(_job: Job) -> str:
        await asyncio.sleep(60)
        return ""

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await handler(slow).executor.run(job(), lease())


async def test_an_answer_too_large_to_be_kept_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def four(_job: Job) -> str:
        return "four"

    monkeypatch.setattr("greenscale_worker.execution.LARGEST_RESULT", 3)
    outcome = await handler(four).run()
    assert isinstance(outcome, Failed)
    assert outcome.code == "result_too_large"


@pytest.mark.parametrize("count", [-1, 1.5, "7", True])
async def test_a_backend_whose_usage_is_no_count_fails_a_try(count: Any) -> None:
    async def careless(_job: Job) -> Output:
        return Output("4", usage=Usage(total_tokens=count))

    failed(await handler(careless).run(), "backend_error")


async def test_a_backend_whose_text_is_none_fails_a_try() -> None:
    async def careless(_job: Job) -> Output:
        return Output(None)  # type: ignore[arg-type]

    failed(await handler(careless).run(), "backend_error")


@pytest.mark.parametrize("hook_fails", [False, True])
async def test_the_hook_of_an_embedding_program_sees_every_exception_and_ends_nothing(hook_fails: bool) -> None:  # noqa: FBT001  a column
    seen: list[tuple[str, BaseException]] = []
    mine = ValueError(SECRET)

    def hook(told: Job, error: BaseException) -> None:
        seen.append((told.job_id, error))
        if hook_fails:
            raise RuntimeError("the hook's own")

    async def fail(told: Job) -> str:
        raise TransientError("odd", "no") if "wait" in told.payload else mine

    executor = Executor(HandlerBackend(fail), Gate(), Policy(), Metrics(), on_exception=hook)
    failed(await executor.run(job(wait=1), lease()), "odd")
    failed(await executor.run(job(), lease()), "backend_error")
    assert seen == [("job-1", mine)]
