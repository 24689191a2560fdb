"""Limits of keys: what is over them is answered 429, with the limit's name and when to come again."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, time
from typing import Final

from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.keys import Limits
from greenscale_worker.gateway.shared import Shared
from greenscale_worker.queues import OPEN, QueueClient

MINUTE: Final = 60.0
LOOK_SECONDS: Final = 1.0  # between two looks at the jobs of a key that has too many
TOKENS_SECONDS: Final = 2.0


class Bucket:
    """So many in any minute, and as many at once."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._level, self._at = float(per_minute), monotonic()

    def left(self) -> float:
        """Return how many may come now."""
        now = monotonic()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / MINUTE)
        self._at = now
        return self._level

    def take(self, number: int) -> float:
        """Take some. Return 0, or in how many seconds they may come again, if there are too few.

        More than there are in a minute are taken from a full bucket, and leave it empty for longer.
        """
        missing = min(number, self.per_minute) - self.left()
        if missing > 0:
            return missing * MINUTE / self.per_minute
        self._level -= number
        return 0.0


@dataclass(slots=True)
class Account:
    """What one key uses at this gateway. `headers` are for the next answer."""

    limits: Limits
    tenant: str | None
    in_flight: int = 0
    jobs: dict[QueueClient, set[str]] = field(default_factory=dict)
    looked_at: float = float("-inf")
    requests: Bucket | None = None
    bytes: Bucket | None = None

    def __post_init__(self) -> None:
        if self.limits.requests_per_minute is not None:
            self.requests = Bucket(self.limits.requests_per_minute)
        if self.limits.bytes_per_minute is not None:
            self.bytes = Bucket(self.limits.bytes_per_minute)

    @property
    def waiting(self) -> int:
        """How many of its jobs have not ended, as far as is known; a batch is one."""
        return sum(map(len, self.jobs.values()))

    def submitted(self, queue: QueueClient, job_id: str) -> None:
        """Count a job that has not ended."""
        if self.limits.waiting is not None:
            self.jobs.setdefault(queue, set()).add(job_id)


class Accounts:
    """The accounts of all keys that have limits."""

    def __init__(self, queue: QueueClient, shared: Shared) -> None:
        self._queue = queue
        self._shared = shared
        self._accounts: dict[str, Account] = {}

    def of(self, key_id: str, limits: Limits, tenant: str | None) -> Account | None:
        """Return the account of a key, None if it has no limits. It begins anew where they have changed."""
        if limits == Limits():
            return None
        account = self._accounts.get(key_id)
        if account is None or account.limits != limits:
            account = self._accounts[key_id] = Account(limits, tenant)
        return account

    async def check_submission(self, account: Account) -> dict[str, str]:
        """Raise Problem if the key may not submit a job now. Return headers on what is left."""
        most = account.limits.waiting
        if most is not None and account.waiting >= most:
            await self._forget_ended(account)
            if account.waiting >= most:
                raise too_many("waiting", f"{most} jobs that have not ended", LOOK_SECONDS)
        budget = account.limits.tokens_per_minute
        if budget is None:
            return {}
        read = partial(_tokens_of, self._queue, account.tenant)
        used: float = await self._shared.get(("tokens", account.tenant), TOKENS_SECONDS, read)
        headers = headers_of("tokens", budget, budget - used, min(MINUTE, MINUTE * used / budget))
        if used >= budget:
            raise too_many("tokens_per_minute", f"{budget} tokens a minute", MINUTE * (used / budget - 1) + 1, headers)
        return headers

    async def _forget_ended(self, account: Account) -> None:
        now = monotonic()
        if now - account.looked_at < LOOK_SECONDS:
            return
        account.looked_at = now
        for queue, jobs in list(account.jobs.items()):
            ids = list(jobs)
            found = await queue.look_up(ids)
            jobs -= {name for name, (record, _) in zip(ids, found, strict=True) if record.get("state") not in OPEN}


@contextmanager
def request_of(account: Account) -> Iterator[dict[str, str]]:
    """Count a request while it lasts; yields headers on what is left. Raises Problem."""
    most = account.limits.in_flight
    if most is not None and account.in_flight >= most:
        raise too_many("in_flight", f"{most} requests at a time", 1.0)
    headers: dict[str, str] = {}
    if account.requests is not None:
        number = account.requests.per_minute
        seconds = account.requests.take(1)
        left = account.requests.left()
        headers = headers_of("requests", number, left, (number - left) * MINUTE / number)
        if seconds:
            raise too_many("requests_per_minute", f"{number} requests a minute", seconds, headers)
    account.in_flight += 1
    try:
        yield headers
    finally:
        account.in_flight -= 1


def check_bytes(account: Account, number: int) -> None:
    """Count the bytes of a body. Raises Problem."""
    if account.bytes is not None and (seconds := account.bytes.take(number)):
        raise too_many("bytes_per_minute", f"{account.bytes.per_minute} bytes a minute", seconds)


async def _tokens_of(queue: QueueClient, tenant: str | None) -> float:
    """Return the tokens of the last minute, as if those of a minute of the clock were spent evenly."""
    now = time()
    begun = now // MINUTE * MINUTE
    found = {minute.at: minute for minute in await queue.ledger(begun - MINUTE, tenant=tenant)}
    spent = [0, 0]
    for place, at in enumerate((begun - MINUTE, begun)):
        if (minute := found.get(at)) is not None:
            spent[place] = minute.prompt_tokens + minute.completion_tokens
    return spent[0] * (1 - (now - begun) / MINUTE) + spent[1]


def too_many(
    limit: str, said: str, seconds: float, headers: dict[str, str] | None = None, *, whose: str = "key"
) -> Problem:
    """Return what is said of a limit that is reached, for so many seconds."""
    after = {"Retry-After": str(max(1, math.ceil(seconds)))}
    detail = f"{limit}: the {whose}'s limit is {said}; try again in {after['Retry-After']} s"
    return Problem("rate_limit_exceeded", detail, param=limit, headers={**(headers or {}), **after})


def headers_of(what: str, limit: int, left: float, seconds: float) -> dict[str, str]:
    """Return OpenAI's headers."""
    told = {"limit": str(limit), "remaining": str(max(0, int(left))), "reset": f"{max(0.0, seconds):.3f}s"}
    return {f"x-ratelimit-{name}-{what}": value for name, value in told.items()}
