"""Tests that a queue or a backend of one's own has to pass, as ours do (docs/plugins.md); they ask for pytest.

    from greenscale_worker.testing.queue_contract import *      # and a fixture `queue_kind`
    from greenscale_worker.testing.backend_contract import *    # and a fixture `backend`

The mode of pytest-asyncio must be `auto`.
"""

import pytest

for _name in ("rig", "queue_contract", "backend_contract"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")
