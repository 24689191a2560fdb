"""The gate: lanes wait without polling for what the evidence says, and people are told why."""

import asyncio
from collections.abc import Awaitable
from time import monotonic
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from greenscale_worker import blame
from greenscale_worker import gate as gates
from greenscale_worker.blame import Call, jittered
from greenscale_worker.errors import TransientError
from greenscale_worker.gate import Gate
from greenscale_worker.telemetry import Metrics

PAUSE = 0.05


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blame, "FIRST_PAUSE", PAUSE)
    monkeypatch.setattr(gates, "FIRST_PAUSE", PAUSE)


def fault(prior: Any = "endpoint", **facts: Any) -> TransientError:
    return TransientError("http_503", "said by the endpoint", prior=prior, **facts)


def call(job_id: str = "1", *, probe: bool = False) -> Call:
    return Call(job_id, "model", monotonic(), probe=probe)


def trip(gate: Gate, error: TransientError | None = None) -> None:
    """Let five jobs fail alike."""
    for number in range(5):
        gate.failed(call(str(number)), error or fault())
    assert gate.is_open


def hold(gate: Gate, seconds: float) -> None:
    """Let so many calls be refused with a time that every lane has to wait."""
    before = gate.remaining()
    while gate.remaining() <= before:
        gate.failed(call("1"), fault(retry_after=seconds))
    assert not gate.is_open


async def soon(waiting: Awaitable[Any]) -> Any:
    async with asyncio.timeout(5):
        return await waiting


def shown(metrics: Metrics) -> tuple[float | None, float | None]:
    names = ("greenscale_gate_shut", "greenscale_breaker_open")
    shut, breaker = (metrics.registry.get_sample_value(name) for name in names)
    return shut, breaker


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def enter(gate: Gate, lanes: int) -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(gate.enter()) for _ in range(lanes)]


def inside(lanes: list[asyncio.Task[bool]]) -> int:
    return sum(lane.done() for lane in lanes)


async def drop(lanes: list[asyncio.Task[bool]]) -> None:
    for lane in lanes:
        lane.cancel()
    await asyncio.gather(*lanes, return_exceptions=True)


# --- Retry-After ---


async def test_an_open_gate_lets_every_lane_in_and_no_more() -> None:
    gate = Gate(20)
    assert gate.remaining() == 0.0
    assert gate.why is None
    assert [await gate.enter() for _ in range(20)] == [False] * 20
    (more,) = enter(gate, 1)
    await settle()
    assert not more.done()
    gate.leave(probe=False)
    assert not await soon(more)


async def test_no_lane_enters_before_the_time_has_come() -> None:
    gate = Gate()
    asked = monotonic()
    hold(gate, 0.1)
    assert await soon(asyncio.gather(*enter(gate, 5))) == [False] * 5
    assert monotonic() - asked >= 0.1
    assert gate.remaining() == 0.0


async def test_a_time_that_grows_while_lanes_wait_holds_them() -> None:
    gate = Gate()
    hold(gate, 0.05)
    lanes = enter(gate, 3)
    await settle()
    asked = monotonic()
    hold(gate, 0.2)
    await soon(asyncio.gather(*lanes))
    assert monotonic() - asked >= 0.2


@pytest.mark.parametrize("second", [0.01, None])
async def test_neither_a_shorter_time_nor_a_success_ends_a_longer_one(second: float | None) -> None:
    gate = Gate()
    hold(gate, 30.0)
    gate.failed(call(), fault(retry_after=second))
    gate.succeeded(call())
    assert gate.remaining() >= 29.0


async def test_one_of_many_that_is_told_a_time_waits_alone() -> None:
    gate = Gate()
    for _ in range(16):
        gate.succeeded(call())
    _, delay = gate.failed(call(), fault(retry_after=30.0))
    assert delay >= 30.0
    assert gate.remaining() == 0.0
    assert gate.why is None


@given(st.floats(0, 600))
def test_jitter_never_shortens(seconds: float) -> None:
    assert seconds <= jittered(seconds) <= seconds * 1.1 + 1e-9


# --- the breaker ---


async def test_a_success_between_them_starts_the_count_anew() -> None:
    gate = Gate()
    for number in "1234":
        gate.failed(call(number), fault())
    gate.succeeded(call("5"))
    for number in "1234":
        gate.failed(call(number), fault())
    assert not gate.is_open
    gate.failed(call("5"), fault())
    assert gate.is_open
    assert await soon(gate.enter())


async def test_one_probe_at_a_time_and_not_before_the_pause_is_over() -> None:
    gate = Gate()
    trip(gate)
    tripped = monotonic()
    lanes = enter(gate, 5)
    await soon(asyncio.wait(lanes, return_when=asyncio.FIRST_COMPLETED))
    assert monotonic() - tripped >= PAUSE * 0.9
    await asyncio.sleep(4 * PAUSE)
    assert [lane.result() for lane in lanes if lane.done()] == [True]
    await drop(lanes)


async def test_a_probe_without_verdict_frees_its_place_at_once() -> None:
    gate = Gate()
    trip(gate)
    assert await soon(gate.enter())
    lanes = enter(gate, 2)
    await settle()
    gate.leave(probe=True)
    await settle()
    assert inside(lanes) == 1
    await drop(lanes)


async def test_a_lane_that_is_no_probe_frees_nothing() -> None:
    gate = Gate()
    assert not await gate.enter()
    trip(gate)
    assert await soon(gate.enter())
    gate.leave(probe=False)
    lanes = enter(gate, 1)
    await asyncio.sleep(4 * PAUSE)
    assert inside(lanes) == 0
    await drop(lanes)


async def test_after_a_success_lanes_come_back_by_doubling() -> None:
    gate = Gate(8)
    trip(gate)
    assert await soon(gate.enter())
    lanes = enter(gate, 8)
    await settle()
    gate.succeeded(call(probe=True))
    gate.leave(probe=True)
    for allowed in (1, 2, 4, 8):
        await settle()
        assert inside(lanes) == allowed
        assert gate.remaining() == 0.0
        gate.succeeded(call())
    assert not gate.is_open
    await drop(lanes)


async def test_only_while_a_probe_is_in_may_anything_be_sent() -> None:
    gate = Gate()
    trip(gate)
    await asyncio.sleep(2 * PAUSE)
    assert gate.remaining() > 0  # the pause is over, but nobody has come in as the probe
    assert await soon(gate.enter())
    assert gate.remaining() > 0
    assert gate.remaining(probe=True) == 0.0


async def test_a_failed_probe_shuts_the_gate_for_twice_as_long() -> None:
    gate = Gate()
    trip(gate)
    for factor in (2, 4):
        assert await soon(gate.enter())
        asked = monotonic()
        gate.failed(call("1", probe=True), fault())
        gate.leave(probe=True)
        assert await soon(gate.enter())
        assert monotonic() - asked >= factor * PAUSE
        gate.leave(probe=True)


async def test_a_cancelled_lane_takes_no_place() -> None:
    gate = Gate()
    trip(gate)
    lanes = enter(gate, 3)
    await settle()
    await drop(lanes)
    assert await soon(gate.enter())
    lanes = enter(gate, 3)
    await settle()
    await drop(lanes)
    gate.leave(probe=True)
    assert await soon(gate.enter())


@pytest.mark.parametrize("turns", range(6))
async def test_a_lane_that_is_cancelled_just_as_it_may_come_in_leaves_its_place_to_another(turns: int) -> None:
    gate = Gate(1)
    assert not await gate.enter()
    first, second = enter(gate, 2)
    await settle()
    gate.leave(probe=False)
    for _ in range(turns):
        await asyncio.sleep(0)
    if first.done():
        gate.leave(probe=False)
    first.cancel()
    assert not await soon(second)


async def test_lanes_that_wait_for_others_wake_for_nothing_else() -> None:
    gate = Gate(1)
    assert not await gate.enter()
    lanes = enter(gate, 3)
    await settle()
    asleep = [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]  # noqa: SLF001  a timer is what polls
    assert asleep == []
    await drop(lanes)


# --- fewer lanes ---


async def test_an_overloaded_endpoint_gets_fewer_lanes() -> None:
    gate = Gate(10)
    assert await asyncio.gather(*enter(gate, 10)) == [False] * 10
    gate.failed(call(), fault(overload=True))
    for _ in range(10):
        gate.leave(probe=False)
    lanes = enter(gate, 10)
    await settle()
    assert inside(lanes) == 7
    await drop(lanes)


async def test_whoever_claims_is_told_each_time_fewer_may_send_than_are_inside() -> None:
    told: list[bool] = []
    gate = Gate(4)
    gate.on_shut = lambda: told.append(gate.is_open)
    gate.failed(call(), fault(overload=True))
    assert told == [], "nobody is inside"
    assert await asyncio.gather(*enter(gate, 2)) == [False] * 2
    gate.failed(call("1"), fault(overload=True))
    assert told == [False], "two inside, one allowed"
    for number in "2345":
        gate.failed(call(number), fault())
    assert told[-1] is True


# --- what is said ---


async def test_the_metrics_show_the_gate() -> None:
    metrics = Metrics()
    gate = Gate(metrics=metrics)
    hold(gate, 0.5)
    assert shown(metrics) == (1, 0)
    await soon(gate.enter())
    assert shown(metrics) == (0, 0)
    trip(gate)
    assert shown(metrics) == (1, 1)
    gate.succeeded(call())
    assert shown(metrics) == (0, 0)


async def test_why_nothing_is_sent_is_one_line() -> None:
    gate = Gate()
    assert gate.why is None
    hold(gate, 30.0)
    assert gate.why is not None
    assert gate.why.startswith("the endpoint asked for 3")
    assert gate.why.endswith("s more: http_503")
    gate = Gate()
    trip(gate, fault(advice="check the key"))
    assert gate.why is not None
    assert gate.why.startswith("the breaker is open, calls fail since ")
    assert gate.why.endswith(" UTC: http_503, check the key")
    gate.succeeded(call())
    assert gate.why is None


async def test_the_log_does_not_quote_the_endpoint() -> None:
    with structlog.testing.capture_logs() as lines:
        gate = Gate()
        hold(gate, 0.01)
        await soon(gate.enter())
        trip(gate)
        await asyncio.sleep(2 * PAUSE)
        assert await soon(gate.enter())
        gate.failed(call("1", probe=True), fault())
        gate.succeeded(call())
    told = dict.fromkeys(line["event"] for line in lines)  # a hold that is over before the next call is told anew
    assert [*told] == [
        "gate_shut",
        "gate_open",
        "breaker_opened",
        "probe_failed",
        "breaker_closed",
    ]
    assert "said" not in repr(lines)


async def opened_by(error: TransientError) -> Any:
    with structlog.testing.capture_logs() as lines:
        trip(Gate(), error)
    (line,) = lines
    assert (line["event"], line["code"]) == ("breaker_opened", "http_503")
    return line


async def test_the_line_of_the_breaker_says_what_to_check() -> None:
    line = await opened_by(fault(advice="check the key"))
    assert (line["log_level"], line["check"]) == ("error", "check the key")
    assert "replay" not in line


async def test_and_where_it_may_have_cost_jobs_the_command_that_brings_them_back() -> None:
    line = await opened_by(fault("job"))
    assert line["log_level"] == "warning"
    command, _, since = line["replay"].partition(" --since ")
    assert command == "greenscale-worker dead replay --code http_503"
    assert since.endswith("Z")
    assert "check" not in line
