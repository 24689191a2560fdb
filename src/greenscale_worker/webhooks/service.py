"""All that a gateway needs of webhooks, on one queue."""

from greenscale_worker.queues import QueueClient
from greenscale_worker.webhooks.delivery import Count, Deliveries
from greenscale_worker.webhooks.events import Events
from greenscale_worker.webhooks.registry import Registry
from greenscale_worker.webhooks.sender import Sender


class Webhooks:
    """The endpoints, the events, and the handler of deliveries for a worker of this queue.

    `queue` is the client of the queue of webhooks; it is the caller's to close. `count` is called with outcome and kind
    of each try.
    """

    def __init__(self, queue: QueueClient, *, sender: Sender | None = None) -> None:
        self.queue = queue
        self.count: Count | None = None
        self.sender = sender or Sender()
        self.registry = Registry(queue)
        self.events = Events(queue, self.registry)
        self.deliveries = Deliveries(queue, self.registry, self.sender, count=self._counted)

    async def aclose(self) -> None:
        """Close the connections to receivers."""
        await self.sender.aclose()

    def _counted(self, outcome: str, kind: str) -> None:
        if self.count is not None:
            self.count(outcome, kind)
