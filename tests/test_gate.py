"""The gate: nobody sends before the time has come, and a broken endpoint is only probed."""

import asyncio
from collections.abc import Awaitable
from time import monotonic
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from greenscale_worker import gate as gates
from greenscale_worker.errors import TransientError
from greenscale_worker.gate import Gate, jittered
from greenscale_worker.telemetry import Metrics

PAUSE = 0.05


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "FIRST_PAUSE", PAUSE)


def fault(retry_after: float | None = None, *, counted: bool = False, shut: bool = False) -> TransientError:
    return TransientError("http_503", "no", counted=counted, retry_after=retry_after, shut=shut)


def trip(gate: Gate) -> None:
    while not gate.tripped:
        gate.failed(fault())


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


async def drop(lanes: list[asyncio.Task[bool]]) -> None:
    for lane in lanes:
        lane.cancel()
    await asyncio.gather(*lanes, return_exceptions=True)


# --- Retry-After ---


async def test_an_open_gate_lets_every_lane_in() -> None:
    gate = Gate()
    assert gate.remaining() == 0.0
    assert [await gate.enter() for _ in range(20)] == [False] * 20


async def test_no_lane_enters_before_the_time_has_come() -> None:
    gate = Gate()
    asked = monotonic()
    gate.failed(fault(0.1))
    assert gate.remaining() >= 0.09
    assert await soon(asyncio.gather(*enter(gate, 5))) == [False] * 5
    assert monotonic() - asked >= 0.1
    assert gate.remaining() == 0.0


async def test_a_time_that_grows_while_lanes_wait_holds_them() -> None:
    gate = Gate()
    gate.failed(fault(0.05))
    lanes = enter(gate, 3)
    await settle()
    asked = monotonic()
    gate.failed(fault(0.2))
    await soon(asyncio.gather(*lanes))
    assert monotonic() - asked >= 0.2


@pytest.mark.parametrize("second", [0.01, None])
@pytest.mark.parametrize("threshold", [1, 5])
async def test_neither_a_shorter_time_nor_a_success_ends_a_longer_one(threshold: int, second: float | None) -> None:
    gate = Gate(threshold=threshold)
    gate.failed(fault(30.0))
    gate.failed(fault(second))
    gate.succeeded()
    assert gate.remaining() >= 29.0


async def test_a_counted_faults_time_holds_everybody_and_trips_nothing() -> None:
    gate = Gate()
    for _ in range(20):
        gate.failed(fault(30.0, counted=True))
    assert gate.remaining() >= 29.0
    assert not gate.tripped


@given(st.floats(0, 600))
def test_jitter_never_shortens(seconds: float) -> None:
    assert seconds <= jittered(seconds) <= seconds * 1.1 + 1e-9


# --- the breaker ---


async def test_so_many_faults_in_a_row_trip_it() -> None:
    gate = Gate(threshold=3)
    for error in (fault(), fault(), None, fault(), fault()):
        if error:
            gate.failed(error)
        else:
            gate.succeeded()
    assert not gate.tripped
    gate.failed(fault())
    assert gate.remaining() > 0
    assert await soon(gate.enter())


async def test_some_faults_trip_it_at_once_and_the_log_says_what_to_check() -> None:
    with structlog.testing.capture_logs() as lines:
        gate = Gate()
        gate.failed(TransientError("http_401", "check the key", counted=False, shut=True))
    assert gate.tripped
    (line,) = lines
    assert (line["event"], line["log_level"], line["check"]) == ("breaker_opened", "error", "check the key")


async def test_the_log_does_not_quote_the_endpoint() -> None:
    with structlog.testing.capture_logs() as lines:
        gate = Gate(threshold=1)
        gate.failed(TransientError("http_503", "said by the endpoint", counted=False, retry_after=0.01))
        await soon(gate.enter())
        gate.failed(TransientError("http_503", "said by the endpoint", counted=False))
    assert [line["event"] for line in lines] == ["breaker_opened", "gate_open", "probe_failed"]
    assert "said" not in repr(lines)


async def test_one_probe_at_a_time() -> None:
    gate = Gate()
    trip(gate)
    tripped = monotonic()
    lanes = enter(gate, 5)
    await soon(asyncio.wait(lanes, return_when=asyncio.FIRST_COMPLETED))
    assert monotonic() - tripped >= PAUSE * 0.9
    await asyncio.sleep(4 * PAUSE)
    probes = [lane for lane in lanes if lane.done()]
    assert [lane.result() for lane in probes] == [True]
    await drop(lanes)


async def test_a_probe_without_verdict_frees_its_place_at_once() -> None:
    gate = Gate()
    trip(gate)
    assert await soon(gate.enter())
    lanes = enter(gate, 2)
    await settle()
    gate.leave(probe=True)
    await settle()
    assert sorted(lane.done() for lane in lanes) == [False, True]
    await drop(lanes)


async def test_a_lane_that_is_no_probe_frees_nothing() -> None:
    gate = Gate()
    assert not await gate.enter()
    trip(gate)
    assert await soon(gate.enter())
    gate.leave(probe=False)
    lanes = enter(gate, 1)
    await asyncio.sleep(4 * PAUSE)
    assert not lanes[0].done()
    await drop(lanes)


async def test_a_success_heals_and_lets_everybody_in() -> None:
    gate = Gate()
    trip(gate)
    assert await soon(gate.enter())
    lanes = enter(gate, 5)
    await settle()
    gate.succeeded()
    assert await soon(asyncio.gather(*lanes)) == [False] * 5
    gate.leave(probe=True)
    assert gate.remaining() == 0.0
    assert not gate.tripped


async def test_pauses_double_up_to_the_longest_and_start_anew_after_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "LONGEST_PAUSE", 4 * PAUSE)
    gate = Gate()
    trip(gate)
    for factor in (2, 4, 4):
        assert await soon(gate.enter())
        gate.failed(fault())
        assert PAUSE * factor * 0.8 < gate.remaining() <= PAUSE * factor * 1.1
        gate.leave(probe=True)
    gate.succeeded()
    trip(gate)
    assert gate.remaining() <= PAUSE * 1.1


async def test_late_faults_of_earlier_calls_do_not_lengthen_the_pause() -> None:
    gate = Gate()
    trip(gate)
    for _ in range(20):
        gate.failed(fault())
    assert gate.remaining() <= PAUSE * 1.1


async def test_a_longer_retry_after_goes_before_the_pause() -> None:
    gate = Gate()
    trip(gate)
    asked = monotonic()
    gate.failed(fault(6 * PAUSE))
    assert await soon(gate.enter())
    assert monotonic() - asked >= 6 * PAUSE


async def test_only_while_a_probe_is_in_and_has_not_failed_may_anything_be_sent() -> None:
    gate = Gate()
    trip(gate)
    await asyncio.sleep(2 * PAUSE)
    assert gate.remaining() > 0  # the pause is over, but nobody has come in as the probe
    assert await soon(gate.enter())
    assert gate.remaining() == 0.0
    gate.failed(fault())
    assert gate.remaining() > 0
    gate.leave(probe=True)
    assert gate.remaining() > 0


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


async def test_an_old_probe_still_in_keeps_a_second_one_out() -> None:
    gate = Gate()
    trip(gate)
    assert await soon(gate.enter())
    gate.succeeded()  # by another lane's call; the probe is still under way
    trip(gate)
    lanes = enter(gate, 1)
    await asyncio.sleep(4 * PAUSE)
    assert not lanes[0].done()
    gate.leave(probe=True)
    assert await soon(lanes[0])


async def test_whoever_claims_is_told_each_time_the_gate_shuts() -> None:
    told: list[float] = []
    gate = Gate(threshold=2)
    gate.on_shut = lambda: told.append(gate.remaining())
    gate.failed(fault())
    gate.failed(TransientError("timeout", "no", counted=True))
    assert told == []
    gate.failed(fault(0.02, counted=True))
    gate.failed(fault(0.02, counted=True))
    assert len(told) == 1
    await soon(gate.enter())
    gate.failed(fault())
    assert len(told) == 2
    assert all(seconds > 0 for seconds in told)


async def test_the_metrics_show_the_gate() -> None:
    metrics = Metrics()
    gate = Gate(threshold=2, metrics=metrics)
    gate.failed(fault(0.02))
    assert shown(metrics) == (1, 0)
    await soon(gate.enter())
    assert shown(metrics) == (0, 0)
    gate.failed(fault())
    assert shown(metrics) == (1, 1)
    gate.succeeded()
    assert shown(metrics) == (0, 0)
