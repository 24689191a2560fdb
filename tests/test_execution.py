"""One job, one outcome: what is tried again, where, how often, and what ends it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pytest
import structlog

from greenscale_worker import gate as gates
from greenscale_worker.backends import Backend, ChatOptions
from greenscale_worker.backends.chat import ChatBackend
from greenscale_worker.backends.handlers import HandlerBackend
from greenscale_worker.errors import PermanentError, TransientError
from greenscale_worker.execution import Executor, Policy
from greenscale_worker.gate import Gate
from greenscale_worker.job import Failed, Job, Outcome, Output, Released, Succeeded, Usage
from greenscale_worker.queues import Lease
from greenscale_worker.telemetry import Metrics
from tests.support.endpoint import OK, Endpoint, Reply, completion

NOW = 1_700_000_000.0
SECRET = "a prompt, an answer or a key"  # noqa: S105  what must not be seen again


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "FIRST_PAUSE", 0.1)


def lease(*, tries: int = 0, crashes: int = 0, age: float = 0.0) -> Lease:
    counts: dict[str, Any] = {"tries": tries, "crashes": crashes, "claimed_at": NOW, "first_claimed_at": NOW - age}
    return Lease("1", "token", b"{}", **counts)


def job(*, due_in: float | None = None, **payload: Any) -> Job:
    deadline = None if due_in is None else datetime.fromtimestamp(NOW + due_in, UTC)
    return Job(job_id="job-1", deadline=deadline, payload={"prompt": SECRET} | payload)


class Bench:
    """An executor with its gate and metrics at hand."""

    def __init__(self, backend: Backend, *, threshold: int = 5, **policy: Any) -> None:
        self.metrics = Metrics()
        self.gate = Gate(threshold=threshold)
        self.executor = Executor(backend, self.gate, Policy(**policy), self.metrics)

    async def run(self, *, due_in: float | None = None, payload: dict[str, Any] | None = None, **of: Any) -> Outcome:
        async with asyncio.timeout(10):
            return await self.executor.run(job(due_in=due_in, **payload or {}), lease(**of))

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


def soon(status: int, milliseconds: int = 1) -> Reply:
    return Reply(status=status, headers={"retry-after-ms": str(milliseconds)})


def released(outcome: Outcome, reason: str, *, counted: bool) -> float:
    assert isinstance(outcome, Released)
    assert (outcome.reason, outcome.counted) == (reason, counted)
    return outcome.delay


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


# --- counted faults ---


async def test_a_job_fault_goes_back_and_counts() -> None:
    async with Endpoint(Reply(status=500)) as endpoint, chat(endpoint) as bench:
        delay = released(await bench.run(), "http_500", counted=True)
    assert 0 <= delay <= 1
    assert len(endpoint.received) == 1
    assert bench.retries("http_500") == 1


async def test_the_last_try_buries() -> None:
    async with Endpoint(Reply(status=500, json={"error": {"message": "boom"}})) as endpoint, chat(endpoint) as bench:
        outcome = await bench.run(tries=4)
    assert outcome == Failed("http_500", "HTTP 500: boom")
    assert bench.retries("http_500") == 0


@pytest.mark.parametrize("status", [500, 408])
async def test_no_job_is_sent_more_than_max_tries_times(status: int) -> None:
    async with Endpoint(default=Reply(status=status)) as endpoint, chat(endpoint, max_tries=3) as bench:
        tries = 0
        while isinstance(outcome := await bench.run(tries=tries), Released):
            tries += outcome.counted
    assert isinstance(outcome, Failed)
    assert len(endpoint.received) == 3


@pytest.mark.parametrize("tries", range(10))
async def test_backoff_is_full_jitter(tries: int) -> None:
    bench = raising(TransientError("odd", "no", counted=True), max_tries=100)
    delays = [released(await bench.run(tries=tries), "odd", counted=True) for _ in range(100)]
    longest = min(60, 2**tries)
    assert 0 <= min(delays) < longest / 4  # each misses with a chance of 0.75 ** 100
    assert longest * 3 / 4 < max(delays) <= longest


async def test_a_call_that_takes_too_long_counts_and_shows_nothing() -> None:
    stuck = Reply(wait=asyncio.Event().wait)
    async with Endpoint(default=stuck) as endpoint, chat(endpoint, timeout=0.05, threshold=2) as bench:
        bench.gate.failed(TransientError("http_503", "no", counted=False))
        released(await bench.run(), "timeout", counted=True)
        assert await bench.run(tries=4) == Failed("timeout", "no answer within the time limit")
        bench.gate.failed(TransientError("http_503", "no", counted=False))
    assert bench.gate.tripped


async def test_a_body_that_trickles_is_bounded_too() -> None:
    trickle = Reply(pieces=(b" ",) * 1000, pause=0.01)
    async with Endpoint(trickle) as endpoint, chat(endpoint, timeout=0.05) as bench:
        released(await bench.run(), "timeout", counted=True)


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


# --- the endpoint's faults ---


@pytest.mark.parametrize("status", [429, 502, 503, 504, 529])
async def test_a_short_wait_stays_in_the_lease(status: int) -> None:
    async with Endpoint(soon(status)) as endpoint, chat(endpoint) as bench:
        assert isinstance(await bench.run(tries=4), Succeeded)
    assert len(endpoint.received) == 2
    assert bench.retries(f"http_{status}") == 1
    assert bench.calls() == 2


async def test_no_attempt_before_the_time_that_the_endpoint_asked_for() -> None:
    sent: list[float] = []

    async def note() -> None:
        sent.append(monotonic())

    replies = (Reply(status=429, headers={"retry-after-ms": "100"}, wait=note), Reply(json=completion(), wait=note))
    async with Endpoint(*replies) as endpoint, chat(endpoint) as bench:
        assert isinstance(await bench.run(), Succeeded)
    first, second = sent
    assert second - first >= 0.1


async def test_at_most_two_waits_stay_in_the_lease() -> None:
    async with Endpoint(default=soon(503)) as endpoint, chat(endpoint, threshold=99) as bench:
        released(await bench.run(tries=4), "http_503", counted=False)
    assert len(endpoint.received) == 3
    assert bench.retries("http_503") == 3


async def test_a_long_wait_goes_back_to_the_queue() -> None:
    async with Endpoint(Reply(status=429, headers={"Retry-After": "4"})) as endpoint, chat(endpoint) as bench:
        asked = monotonic()
        delay = released(await bench.run(), "http_429", counted=False)
        assert asked + 4 <= monotonic() + delay
    assert 3.9 < delay <= 4.4
    assert len(endpoint.received) == 1


async def test_the_endpoints_faults_never_use_up_a_job() -> None:
    async with Endpoint(default=soon(503)) as endpoint, chat(endpoint, threshold=10**6) as bench:
        for _ in range(20):
            await bench.gate.enter()
            released(await bench.run(tries=4, crashes=3), "http_503", counted=False)
    assert len(endpoint.received) == 60


async def test_a_job_fault_after_one_of_the_endpoints_counts_once() -> None:
    async with Endpoint(soon(503), Reply(status=500)) as endpoint, chat(endpoint) as bench:
        released(await bench.run(tries=3), "http_500", counted=True)
    assert len(endpoint.received) == 2


# --- the gate ---


def shut(gate: Gate, seconds: float) -> None:
    gate.failed(TransientError("http_429", "no", counted=False, retry_after=seconds))


async def test_a_gate_shut_for_long_sends_the_job_back() -> None:
    async with Endpoint() as endpoint, chat(endpoint) as bench:
        shut(bench.gate, 30)
        assert 29 < released(await bench.run(tries=4), "gate_shut", counted=False) <= 33
    assert endpoint.received == []
    assert bench.calls() == 0


async def test_a_gate_shut_for_short_is_waited_for_in_the_lease() -> None:
    async with Endpoint() as endpoint, chat(endpoint) as bench:
        asked = monotonic()
        shut(bench.gate, 0.1)
        assert isinstance(await bench.run(), Succeeded)
        assert monotonic() - asked >= 0.1
    assert bench.calls() == 1


async def test_while_the_breaker_is_open_only_the_probe_sends() -> None:
    async with Endpoint(default=soon(503)) as endpoint, chat(endpoint, threshold=1) as bench:
        released(await bench.run(), "http_503", counted=False)
        assert len(endpoint.received) == 1  # the fault opened the breaker: no second attempt in this lease
        assert released(await bench.run(), "gate_shut", counted=False) >= 0.09
        assert len(endpoint.received) == 1
        assert await bench.gate.enter()
        released(await bench.run(), "http_503", counted=False)
        assert len(endpoint.received) == 2
        bench.gate.leave(probe=True)
        assert bench.gate.remaining() > 0.1  # twice as long, less what has passed


async def test_a_probe_that_succeeds_heals() -> None:
    async with Endpoint(Reply(status=401), OK) as endpoint, chat(endpoint) as bench:
        released(await bench.run(), "http_401", counted=False)
        assert bench.gate.tripped
        assert await bench.gate.enter()
        assert isinstance(await bench.run(), Succeeded)
    assert not bench.gate.tripped


@pytest.mark.parametrize(("status", "lives"), [(200, True), (400, True), (422, True), (500, True), (None, False)])
async def test_any_status_shows_that_the_endpoint_lives(status: int | None, lives: bool) -> None:  # noqa: FBT001  a column
    reply = Reply(cut=True) if status is None else Reply(status=status, json=completion())
    async with Endpoint(reply) as endpoint, chat(endpoint, threshold=2) as bench:
        bench.gate.failed(TransientError("http_503", "no", counted=False))
        await bench.run()
        bench.gate.failed(TransientError("http_503", "no", counted=False))
    assert bench.gate.tripped is not lives


async def test_bad_input_is_no_verdict_on_the_endpoint() -> None:
    bench = raising(PermanentError("bad_request", "no"))
    bench.gate.failed(TransientError("http_401", "no", counted=False, shut=True))
    assert await bench.gate.enter()
    assert isinstance(await bench.run(), Failed)
    assert bench.gate.tripped


async def test_a_job_faults_retry_after_holds_every_lane_and_is_no_step_towards_the_breaker() -> None:
    reply = Reply(status=500, headers={"Retry-After": "30"})
    async with Endpoint(reply) as endpoint, chat(endpoint, threshold=1) as bench:
        assert released(await bench.run(), "http_500", counted=True) > 29
        assert released(await bench.run(), "gate_shut", counted=False) > 29
    assert not bench.gate.tripped
    assert len(endpoint.received) == 1


# --- deadlines ---


@pytest.mark.parametrize("tries", [0, 4])
async def test_the_deadline_bounds_the_call(tries: int) -> None:
    async with Endpoint(Reply(wait=asyncio.Event().wait)) as endpoint, chat(endpoint) as bench:
        outcome = await bench.run(due_in=0.3, tries=tries)
    assert isinstance(outcome, Failed)
    assert outcome.code == "deadline_passed"
    assert len(endpoint.received) == 1


@pytest.mark.parametrize("tries", [0, 4])
@pytest.mark.parametrize("milliseconds", [60_000, 2_500])
async def test_a_wait_beyond_the_deadline_is_not_begun(tries: int, milliseconds: int) -> None:
    async with Endpoint(soon(503, milliseconds)) as endpoint, chat(endpoint) as bench:
        outcome = await bench.run(due_in=1.5, tries=tries)
    assert isinstance(outcome, Failed)
    assert outcome.code == "deadline_passed"
    assert "http_503" in outcome.message
    assert bench.retries("http_503") == 0


# --- other people's code ---


@pytest.mark.parametrize(
    "error",
    [ValueError(SECRET), TimeoutError(SECRET), SystemExit(SECRET), ExceptionGroup(SECRET, [ValueError(SECRET)])],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_backend_raises_counts(error: BaseException) -> None:
    bench = raising(error)
    with structlog.testing.capture_logs() as lines:
        released(await bench.run(), "backend_error", counted=True)
        outcome = await bench.run(tries=4)
    assert isinstance(outcome, Failed)
    assert outcome.code == "backend_error"
    assert type(error).__name__ in outcome.message
    assert "raising.<locals>.fail:" in outcome.message
    assert SECRET not in outcome.message
    assert [line["event"] for line in lines] == ["backend_error"] * 2
    assert lines[0]["job_id"] == "job-1"
    assert SECRET not in repr(lines)


async def test_exit_in_a_backend_ends_no_process() -> None:
    async def leave(_job: Job) -> str:
        sys.exit(3)

    released(await handler(leave).run(), "backend_error", counted=True)


async def test_a_backend_that_cancels_its_own_work_does_not_end_the_lane() -> None:
    async def cancel_something(_job: Job) -> Any:
        own = asyncio.ensure_future(asyncio.sleep(60))
        own.cancel()
        return await own

    released(await handler(cancel_something).run(), "backend_error", counted=True)


async def test_a_backend_that_gives_no_output_counts() -> None:
    class Careless(HandlerBackend):
        async def infer(self, job: Job) -> Output:
            return job.job_id  # type: ignore[return-value]

    outcome = await Bench(Careless(lambda _job: asyncio.sleep(0))).run(tries=4)
    assert outcome == Failed("backend_error", "it gave str, not Output")


async def test_a_backend_that_turns_its_cancellation_into_an_error_has_timed_out() -> None:
    async def stubborn(_job: Job) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError(SECRET) from None
        return ""

    released(await handler(stubborn, timeout=0.02).run(), "timeout", counted=True)


@pytest.mark.parametrize("waiting", ["in the call", "for the endpoint"])
async def test_cancellation_passes(waiting: str) -> None:
    arrived = asyncio.Event()

    async def slow(_job: Job) -> str:
        arrived.set()
        if waiting == "in the call":
            await asyncio.sleep(60)
        raise TransientError("http_503", "no", counted=False, retry_after=2.0)

    running = asyncio.create_task(handler(slow).executor.run(job(), lease()))
    await arrived.wait()
    await asyncio.sleep(0.01)
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

    released(await handler(careless).run(), "backend_error", counted=True)


async def test_a_backend_whose_text_is_none_fails_a_try() -> None:
    async def careless(_job: Job) -> Output:
        return Output(None)  # type: ignore[arg-type]

    released(await handler(careless).run(), "backend_error", counted=True)
