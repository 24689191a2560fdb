"""How many calls an inference engine can work on, by what its own /metrics say.

Requests that wait inside an engine gain nothing: its slots are full. So the limit of a fleet follows them: it grows
while nothing waits and what is allowed is used, and falls at once by what waits beyond a few, whoever sent it. Work in
a queue thereby yields to requests that come to the engine on another way.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

RUNNING: Final = ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing")
WAITING: Final = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred")
CACHE: Final = (
    *("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),  # vLLM from 0.10 on, and before
    *("sglang:token_usage", "llamacpp:kv_cache_usage_ratio"),  # llama.cpp no longer tells
)
KNOWN: Final = re.compile(rf"^(?:{'|'.join((*RUNNING, *WAITING, *CACHE))})[ {{][^\r\n]*", re.MULTILINE)
MOST_KNOWN: Final = 256 * 1024  # characters; the parser takes a second for a MiB, in which the worker stands still
MOST: Final = 1e9
RANKS: Final = frozenset({"tp_rank", "pp_rank", "moe_ep_rank"})  # of one SGLang engine: each says the same
EXPECTED: Final = "the metrics of vLLM, SGLang (--enable-metrics) or llama.cpp (--metrics) are expected"

CAUTIOUS: Final = 8  # calls, before the engine was seen, and in the end when it is no longer
FEW: Final = 2  # requests that may wait inside, so that a slot is filled as soon as it is free;
FEW_OF: Final = 64  # and one more for so many that run
USED: Final = 0.8
FULL_CACHE: Final = 0.95
FAST: Final = 0.5
FAST_CALLS: Final = 16  # more at once would wait, all of them, until the engine's next step
FAST_SHARE: Final = 0.1
SLOW: Final = 0.05
CALM: Final = 10
PATIENT: Final = 10
FALL: Final = 0.9


@dataclass(frozen=True, slots=True)
class Load:
    """What engines hold: requests that run and that wait inside, and the share of the fullest KV cache in use."""

    running: float
    waiting: float
    cache: float = 0.0


@dataclass(frozen=True, slots=True)
class Aim:
    """The limit of the fleet, and in how many looks in a row nothing was waiting inside."""

    limit: int = CAUTIOUS
    calm: int = CALM


def read_load(page: str) -> Load:
    """Read an engine's metrics; those of several ranks or replicas of data are one load.

    Raises ValueError that says what is missing.
    """
    known = "\n".join(KNOWN.findall(page)) + "\n"
    if len(known) > MOST_KNOWN:
        raise ValueError(f"it tells of requests and caches in {len(known):,} characters; {MOST_KNOWN:,} are read")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
    for name, labels, value in _samples(text_string_to_metric_families(known)):
        if not 0 <= value <= MOST:
            raise ValueError(f"{name} is {value:g}; a number from 0 to {MOST:g} is expected")
        if labels.get("priority"):
            continue  # a part of the sample that has none
        part = tuple(sorted((label, text) for label, text in labels.items() if label not in RANKS))
        found[name][part] = max(value, found[name].get(part, 0.0))
    running, waiting = ([found[name].values() for name in names if name in found] for names in (RUNNING, WAITING))
    if not running or not waiting:
        raise ValueError(f"it does not tell how many requests run and wait; {EXPECTED}")
    caches = [value for name in CACHE for value in found[name].values()]
    return Load(sum(map(sum, running)), sum(map(sum, waiting)), max(caches, default=0.0))


def _samples(families: Iterable[Metric]) -> Iterator[tuple[str, dict[str, str], float]]:
    try:
        for family in families:
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value
    except (ValueError, LookupError) as error:
        raise ValueError(f"it cannot be read ({error}); {EXPECTED}") from None


def total(loads: Iterable[Load]) -> Load:
    """Add up the loads of several engines behind one address. Raises ValueError if there is none."""
    running, waiting, caches = zip(*((load.running, load.waiting, load.cache) for load in loads), strict=True)
    return Load(sum(running), sum(waiting), max(caches))


def few(load: Load) -> int:
    """How many requests may wait inside."""
    return FEW + int(load.running) // FEW_OF


def next_aim(aim: Aim, load: Load, in_flight: int, *, blind: bool = False, most: int | None = None) -> Aim:
    """Decide once for the whole fleet, after a look. `in_flight` are its calls, `blind`: some engine was not seen.

    More than a few waiting: what is in flight less the rest of them, 1 at least. None waiting, and 80 % of the limit
    used: half as much again, until requests first wait; from then on 5 %. Never above `most`.
    """
    allowed = few(load)
    if load.waiting > allowed:
        lowered = in_flight - math.ceil(load.waiting - allowed)
        return _within(Aim(min(aim.limit, lowered), calm=0), most)
    if load.waiting:
        return _within(replace(aim, calm=0), most)
    calm = min(CALM, aim.calm + 1)
    if blind or load.cache >= FULL_CACHE or in_flight < USED * aim.limit:
        return _within(Aim(aim.limit, calm), most)
    fast = min(FAST * aim.limit, max(FAST_CALLS, FAST_SHARE * aim.limit))
    step = fast if aim.calm >= CALM else SLOW * aim.limit
    return _within(Aim(aim.limit + max(1, int(step)), calm), most)


def unseen_aim(aim: Aim, looks: int, *, most: int | None = None) -> Aim:
    """Decide where no engine could be seen in so many looks in a row.

    The limit stays for ten of them, then falls by a tenth each, down to 8. It grows slowly afterwards.
    """
    if looks <= PATIENT:
        return _within(replace(aim, calm=0), most)
    return _within(Aim(max(min(aim.limit, CAUTIOUS), int(FALL * aim.limit)), calm=0), most)


def _within(aim: Aim, most: int | None) -> Aim:
    limit = aim.limit if most is None else min(aim.limit, most)
    return replace(aim, limit=max(1, limit))
