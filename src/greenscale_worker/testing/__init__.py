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
    """A queue to be held to the contract.

    `kind` is what its entry point names, `redis` where Redis is; a queue that is not in Redis ignores it.
    `short_lease` is seconds of a lease that expires while one waits: long enough for five heartbeats on a busy machine.
    """

    kind: QueueKind
    redis: RedisOptions = NOWHERE
    short_lease: float = 0.5
