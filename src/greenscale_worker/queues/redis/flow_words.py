"""What workers and scripts tell each other of the fleet's limit and budgets (flow.lua)."""

from collections.abc import Iterable, Sequence
from typing import Final

from greenscale_worker.job import Failed, Job, Outcome, Rates, Released, Succeeded, Usage
from greenscale_worker.queues import Lease, QueueOptions

MOST_TOKENS: Final = 10**9  # of one call
HELD_BACK: Final = {
    "limit": "as many calls are open as the fleet may have",
    "background": "jobs of the class background wait until fewer calls are open",
    "requests": "the fleet's requests per minute are used up",
    "tokens": "the fleet's tokens per minute are used up",
    "pause": "the endpoint asked the fleet for time",
    "probe": "another worker's probe of the endpoint is out",
}


def bounds_of(options: QueueOptions) -> list[str]:
    """Return what claims and heartbeats declare of the fleet: limit, requests and tokens a minute; empty: no bound."""
    numbers = (options.requests_per_minute, options.tokens_per_minute)
    rates = ["" if number is None else f"{number:f}".rstrip("0").rstrip(".") for number in numbers]
    limit = "" if options.limit is None else str(options.limit)
    if limit == "engine" and options.limit_most is not None:
        limit += f" {options.limit_most}"
    return [limit, *rates]


def excess(lease: Lease, job: Job) -> tuple[int, int] | None:
    """Return what a bound job gives back to the budget: if it is run, and if it is not. None: nothing was charged.

    If it is run, that is what its answer was taken to cost beyond the limit that the job sets.
    """
    if lease.charged is None:
        return None
    limits = [job.payload.get(name) for name in ("max_tokens", "max_completion_tokens")]
    most = min((limit for limit in limits if type(limit) is int and limit >= 0), default=lease.estimated)
    charged, excess = lease.charged, max(0, lease.estimated - most)
    lease.charged -= excess
    lease.estimated -= excess
    return excess, charged


def overcharged(lease: Lease, outcome: Outcome) -> tuple[int, int] | None:
    """Return how many tokens and requests a job gives back to the budgets at its end. None: nothing was charged."""
    if lease.charged is None:
        return None
    if lease.began is None:
        return lease.charged, 1  # no call was made
    usage = Usage() if isinstance(outcome, Released) else _usage_of(outcome)
    if usage.prompt_tokens is None and usage.completion_tokens is None:
        return 0, 0  # what it cost is unknown
    return lease.charged - countable(usage.prompt_tokens) - countable(usage.completion_tokens), 0


def _usage_of(outcome: Succeeded | Failed) -> Usage:
    return outcome.usage if isinstance(outcome, Failed) else outcome.output.usage


def numbers(pairs: Iterable[tuple[int, int] | None]) -> str:
    """Write pairs as one text, empty if there are none."""
    found = list(pairs)
    return " ".join(f"{a} {b}" for a, b in (each or (0, 0) for each in found)) if any(found) else ""


def told(outcomes: Sequence[Succeeded | Failed]) -> str:
    """Write what the endpoint's headers said last."""
    return words_of([outcome.output.rates for outcome in outcomes if isinstance(outcome, Succeeded)])


def words_of(rates: list[Rates | None]) -> str:
    """Write the limits of the latest rates, and the least that is left of any: `-` for what is unknown."""
    known = [each for each in rates if each is not None]
    if not known:
        return ""
    last = known[-1]
    left = [
        min((n for n in ns if n is not None), default=None) for ns in zip(*(_left(each) for each in known), strict=True)
    ]
    words = (last.limit_requests, left[0], last.limit_tokens, left[1])
    return " ".join("-" if number is None else f"{number:g}" for number in words)


def _left(rates: Rates) -> tuple[float | None, float | None]:
    return rates.remaining_requests, rates.remaining_tokens


def countable(tokens: int | None) -> int:
    """Return tokens as a number for a sum; what no endpoint can mean counts as none."""
    return tokens if tokens is not None and tokens <= MOST_TOKENS else 0
