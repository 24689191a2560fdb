"""Webhooks on a real queue, and receivers that verify what they get as the openai client does."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from openai import OpenAI

from greenscale_worker import Metrics, QueueOptions, RedisOptions, Worker, open_client, open_queue
from greenscale_worker.job import Job, decode
from greenscale_worker.webhooks.delivery import LANES, POLICY
from greenscale_worker.webhooks.events import EVENT_TYPES, Delivery, EventType
from greenscale_worker.webhooks.registry import Endpoint as Hook
from greenscale_worker.webhooks.sender import Sender
from greenscale_worker.webhooks.service import Webhooks
from tests.support.api import own_options
from tests.support.endpoint import Endpoint, Received

VERIFIER: Final = OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none")
AT: Final = 1_900_000_000.25


def event_in(received: Received, secret: str) -> Any:
    """The event, as the openai client unwraps it. Raises InvalidWebhookSignatureError."""
    return VERIFIER.webhooks.unwrap(received.body, dict(received.headers), secret=secret)


def job_of(delivery: Delivery) -> Job:
    """The job as a worker gets it."""
    return decode(delivery.job[1], max_bytes=20 * 1024)


@dataclass
class Hooks:
    """The webhooks of a gateway."""

    webhooks: Webhooks
    redis: RedisOptions
    options: QueueOptions

    async def add(self, where: Endpoint | str, *types: EventType, tenant: str | None = None) -> Hook:
        url = where if isinstance(where, str) else where.url
        return await self.webhooks.registry.add(tenant, "a hook", url, types or EVENT_TYPES)

    async def tell(
        self, kind: EventType = "batch.completed", name: str = "b1", tenant: str | None = None, at: float = AT
    ) -> int:
        return await self.webhooks.events.tell(tenant, kind, name, at)

    @asynccontextmanager
    async def delivering(self, lanes: int = LANES) -> AsyncIterator[None]:
        """Run deliveries, as a gateway does."""
        queue = await open_queue("list", self.redis, self.options, Metrics())
        async with Worker(queue, self.webhooks.deliveries, concurrency=lanes, drain=0.5, policy=POLICY):
            yield

    async def states(self) -> list[str]:
        """The states of all deliveries."""
        return sorted([job.state async for job in self.webhooks.queue.jobs()])


@asynccontextmanager
async def hooks_on(url: str, sender: Sender | None = None) -> AsyncIterator[Hooks]:
    """Open the webhooks of one gateway."""
    redis, options = (
        RedisOptions(url=url),
        replace(own_options("jobs", "webhooks"), lease=1.0),
    )  # a heartbeat every 0.2 s
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(aclosing(await open_client("list", redis, options)))
        webhooks = Webhooks(client, sender=sender or Sender(allow_private=True))
        await stack.enter_async_context(aclosing(webhooks))
        yield Hooks(webhooks, redis, options)
