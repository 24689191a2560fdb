"""Contract tests that every queue and backend must pass: yours as ours (docs/plugins.md). They need pytest.

    from greenscale_worker.testing.queue_contract import *      # beside a fixture `queue_under_test`
    from greenscale_worker.testing.backend_contract import *    # beside two fixtures, `backend` and `payload`

The mode of pytest-asyncio must be `auto`.
"""

from dataclasses import dataclass
from typing import Final

import pytest

from greenscale_worker.queues import RedisOptions
from greenscale_worker.queues.registry import QueueKind

NOWHERE: Final = RedisOptions(url="redis://say-where-in-queue-under-test.invalid")

for _name in ("rig", "queue_contract", "backend_contract"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueUnderTest:
    """A queue to run the contract tests on.

    `kind` is what its entry point names, `redis` the address of Redis, which other queues ignore.
    `short_lease` is the seconds of a lease that a test lets expire: long enough for five heartbeats on a busy machine.
    """

    kind: QueueKind
    redis: RedisOptions = NOWHERE
    short_lease: float = 0.5
