"""What an inference engine holds, by its own /metrics: vLLM's, SGLang's or llama.cpp's."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Load:
    """What engines hold: requests that run and that wait inside, and the share of the fullest KV cache in use."""

    running: float
    waiting: float
    cache: float = 0.0


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
