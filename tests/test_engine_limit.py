"""What engines say of themselves, and the limit that follows from it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenscale_worker.engine_limit import CAUTIOUS, Aim, few, next_aim, unseen_aim
from greenscale_worker.engine_metrics import Load, read_load, total

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B"} 14.0
vllm:num_requests_running{engine="1",model_name="meta-llama/Llama-3.1-8B"} 2.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B"} 3.0
vllm:num_requests_waiting{engine="1",model_name="meta-llama/Llama-3.1-8B"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="meta-llama/Llama-3.1-8B",reason="capacity"} 7.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B"} 0.97
vllm:kv_cache_usage_perc{engine="1",model_name="meta-llama/Llama-3.1-8B"} 0.25
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="meta-llama/Llama-3.1-8B"} 0.0
"""
OLD_VLLM = """\
vllm:num_requests_running{model_name="m"} 3.0
vllm:num_requests_waiting{model_name="m"} 0.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
"""
SGLANG = """\
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="0"} 162.0
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="1"} 162.0
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="5",tp_rank="0"} 100.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="0"} 2826.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",pp_rank="0",priority="",tp_rank="1"} 2826.0
sglang:token_usage{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 0.28
"""
LLAMA = """\
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 4
llamacpp:requests_deferred 46
"""


@pytest.mark.parametrize(
    ("page", "load"),
    [
        (VLLM, Load(16, 3, 0.97)),
        (OLD_VLLM, Load(3, 0, 0.5)),
        (SGLANG, Load(162, 2826, 0.28)),
        (LLAMA, Load(4, 46)),
    ],
)
def test_engines_are_read_under_their_own_names(page: str, load: Load) -> None:
    assert read_load(page) == load


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("", "does not tell how many requests run and wait"),
        ("<html>It works!</html>", "does not tell"),
        ("vllm:num_requests_running 3\n", "does not tell"),
        ("vllm:num_requests_running 3\nvllm:num_requests_waiting NaN\n", "a number from 0 to 1e"),
        ("vllm:num_requests_running 3\nvllm:num_requests_waiting -1\n", "a number from 0 to 1e"),
        ("vllm:num_requests_running 3\nvllm:num_requests_waiting 1e308\n", "a number from 0 to 1e"),
        ("vllm:num_requests_running 3\nvllm:num_requests_waiting many\n", "cannot be read"),
        ("vllm:num_requests_running 3\n" + 'vllm:num_requests_waiting{engine="0"} 1\n' * 8000, "characters"),
    ],
)
def test_a_page_that_does_not_tell_is_refused(page: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_load(page)


def test_several_engines_are_one_load() -> None:
    assert total([Load(1, 2, 0.5), Load(10, 20, 0.1)]) == Load(11, 22, 0.5)


@dataclass
class Engine:
    """Slots, calls of others, and a fleet with more work than it may send. A look sees it as it has settled."""

    slots: int
    others: int = 0
    work: int = 1_000_000
    cache: float = 0.0
    aim: Aim = field(default_factory=Aim)
    in_flight: int = 0

    def load(self) -> Load:
        inside = self.others + self.in_flight
        return Load(min(inside, self.slots), max(0, inside - self.slots), self.cache)

    def look(self, most: int | None = None) -> Aim:
        self.in_flight = min(self.aim.limit, self.work)
        self.aim = next_aim(self.aim, self.load(), self.in_flight, most=most)
        return self.aim

    def until(self, condition: Callable[[], bool], looks: int) -> int:
        """Look until the condition holds; return how many looks it took."""
        for taken in range(looks + 1):
            if condition():
                return taken
            self.look()
        raise AssertionError(f"not within {looks} looks: {self}")

    def is_found(self) -> bool:
        self.in_flight = min(self.aim.limit, self.work)
        return self.slots - self.others <= self.in_flight <= self.slots - self.others + few(self.load())


@pytest.mark.parametrize("slots", [1, 4, 16, 64, 256, 1000])
def test_the_slots_of_an_engine_are_found_and_kept(slots: int) -> None:
    engine = Engine(slots)
    engine.until(engine.is_found, looks=60)
    for _ in range(200):
        engine.look()
        assert engine.aim.limit >= 0.95 * slots
        assert engine.load().waiting <= max(few(engine.load()), 0.05 * slots + 1)


def test_half_an_engine_is_found_with_the_next_look() -> None:
    engine = Engine(256)
    engine.until(engine.is_found, looks=60)
    engine.slots = 128
    engine.until(engine.is_found, looks=2)
    engine.slots = 256
    engine.until(engine.is_found, looks=30)


def test_work_in_the_queue_yields_to_others_and_returns_when_they_have_gone() -> None:
    engine = Engine(64)
    engine.until(engine.is_found, looks=60)
    engine.others = 40
    engine.until(engine.is_found, looks=3)
    engine.others = 100  # more than its slots: they wait, and so may no call of ours
    engine.until(lambda: engine.aim.limit == 1, looks=20)
    engine.others = 0
    engine.until(engine.is_found, looks=60)


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    engine = Engine(256, work=5)
    for _ in range(50):
        engine.look()
    assert engine.aim.limit == CAUTIOUS


def test_a_full_cache_stops_growth() -> None:
    engine = Engine(256, cache=0.96)
    for _ in range(50):
        engine.look()
    assert engine.aim.limit == CAUTIOUS


def test_an_engine_that_is_seen_in_part_may_lower_the_limit_but_not_raise_it() -> None:
    assert next_aim(Aim(20), Load(20, 0), 20, blind=True).limit == 20
    assert next_aim(Aim(20), Load(10, 8), 20, blind=True).limit == 14


def test_an_engine_that_is_not_seen_keeps_the_limit_for_a_while_and_then_lowers_it_to_a_cautious_one() -> None:
    aim, limits = Aim(256), []
    for looks in range(1, 80):
        aim = unseen_aim(aim, looks)
        limits.append(aim.limit)
    assert limits[:10] == [256] * 10
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == CAUTIOUS
    assert unseen_aim(Aim(3), 100).limit == 3


@given(
    limit=st.integers(1, 10_000),
    calm=st.integers(0, 10),
    running=st.integers(0, 10_000),
    waiting=st.integers(0, 100_000),
    in_flight=st.integers(0, 20_000),
    most=st.none() | st.integers(1, 500),
)
def test_whatever_is_seen_the_limit_is_at_least_one_and_grows_only_while_nothing_waits(  # noqa: PLR0913
    *, limit: int, calm: int, running: int, waiting: int, in_flight: int, most: int | None
) -> None:
    load = Load(running, waiting)
    aim = next_aim(Aim(limit, calm), load, in_flight, most=most)
    assert aim.limit >= 1
    assert most is None or aim.limit <= most
    if waiting or in_flight < 0.8 * limit:
        assert aim.limit <= limit
    assert aim.limit <= 1.5 * limit + 1
