"""What every queue promises (queues/queue.py and client.py, docs/queue-protocol.md). No queue may leave a promise out.

A module of tests imports everything from here and has a fixture `queue_under_test`, which returns a QueueUnderTest.
"""

from greenscale_worker.testing.queue_contract.attending import *
from greenscale_worker.testing.queue_contract.binding import *
from greenscale_worker.testing.queue_contract.blame import *
from greenscale_worker.testing.queue_contract.cancelling import *
from greenscale_worker.testing.queue_contract.classes import *
from greenscale_worker.testing.queue_contract.dead_letters import *
from greenscale_worker.testing.queue_contract.engine import *
from greenscale_worker.testing.queue_contract.flow import *
from greenscale_worker.testing.queue_contract.forgetting import *
from greenscale_worker.testing.queue_contract.going_back import *
from greenscale_worker.testing.queue_contract.heartbeats import *
from greenscale_worker.testing.queue_contract.keeping import *
from greenscale_worker.testing.queue_contract.leasing import *
from greenscale_worker.testing.queue_contract.ledger import *
from greenscale_worker.testing.queue_contract.notices import *
from greenscale_worker.testing.queue_contract.pause_and_depth import *
from greenscale_worker.testing.queue_contract.scheduling import *
from greenscale_worker.testing.queue_contract.settling import *
from greenscale_worker.testing.queue_contract.submitting import *
from greenscale_worker.testing.queue_contract.telling import *
from greenscale_worker.testing.queue_contract.tenants import *
from greenscale_worker.testing.queue_contract.tokens import *
from greenscale_worker.testing.rig import open_rig, rig, short

__all__ = [name for name in dir() if name.startswith("test_")]
__all__ += ["open_rig", "rig", "short"]
