"""Runs deliveries: the handler of the queue of webhooks. A try that fails makes the next one, due later."""

import random
from collections.abc import Callable
from time import time
from typing import Final

from pydantic import ValidationError

from greenscale_worker.errors import BadInputError, PermanentError, QueueUnavailableError, Snooze
from greenscale_worker.execution import Policy
from greenscale_worker.job import Job
from greenscale_worker.queues import QueueClient
from greenscale_worker.shares import Shares
from greenscale_worker.telemetry import log
from greenscale_worker.webhooks.addresses import receiver_of
from greenscale_worker.webhooks.events import Delivery
from greenscale_worker.webhooks.registry import Endpoint, Registry
from greenscale_worker.webhooks.sender import GONE, SILENT, Answer, Sender

MINUTE: Final = 60
HOUR: Final = 3600
# Seconds before each try, as Standard Webhooks proposes.
SCHEDULE: Final = (
    *(0, 5, 5 * MINUTE, 30 * MINUTE),
    *(2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
)
JITTER: Final = 0.1
LANES: Final = 32
LANES_OF_ONE: Final = LANES // 4  # for one receiver
LANES_OF_TENANT: Final = LANES // 2  # for all receivers of one tenant
AWAY_SECONDS: Final = 2.0  # until a delivery is tried again that the queue kept from being made
THROTTLED_SECONDS: Final = 5.0  # in which nothing is sent to a receiver that is overloaded and does not say how long
OVERLOADED: Final = frozenset({429, 502, 503, 504})
POLICY: Final = Policy(timeout=MINUTE, max_age=30 * 24 * HOUR)  # one that is put off has no age
Count = Callable[[str, str], None]


class Deliveries:
    """Runs one delivery for each job. `count` is called with what came of it, in two words: outcome and kind."""

    def __init__(  # noqa: PLR0913  the parts
        self,
        queue: QueueClient,
        registry: Registry,
        sender: Sender,
        *,
        count: Count = lambda _outcome, _kind: None,
        clock: Callable[[], float] = time,
        receivers: Shares | None = None,
    ) -> None:
        self._queue = queue
        self._registry = registry
        self._sender = sender
        self._count = count
        self._clock = clock
        self._receivers = receivers or Shares(LANES_OF_ONE)
        self._tenants = Shares(LANES_OF_TENANT)

    async def __call__(self, job: Job) -> str:
        """Make one try. Return what came of it; raises PermanentError for the last one, which is a dead letter."""
        try:
            delivery = Delivery.model_validate(job.payload)
        except ValidationError:
            raise BadInputError("bad_field", "this is no delivery of a webhook", job_id=job.job_id) from None
        try:
            endpoint = (await self._registry.read()).get(delivery.endpoint)
            if endpoint is None:
                return self._ended("dropped", "deleted")
            if endpoint.off is not None:
                self._ended("dead", "disabled")
                raise PermanentError("webhook_disabled", f"the endpoint is disabled: {endpoint.off.why}")
            return await self._send(endpoint, delivery)
        except QueueUnavailableError:
            raise Snooze(AWAY_SECONDS) from None

    async def _send(self, endpoint: Endpoint, delivery: Delivery) -> str:
        tenant, host = endpoint.chosen.tenant or "", receiver_of(endpoint.chosen.url)
        with self._receivers.place(host) as receiver, self._tenants.place(tenant):
            answer = await self._sender.send(endpoint, delivery.event)
            receiver.silent = answer.kind in SILENT
            if answer.status in OVERLOADED:
                receiver.rest(self._receivers.clock() + (answer.wait or THROTTLED_SECONDS))
        if answer.delivered:
            return self._ended("delivered", answer.kind)
        if answer.status == GONE:
            await self._registry.disable(endpoint, "the receiver answered 410 (gone)")
            log.warning("webhook_disabled", endpoint=endpoint.id, tenant=endpoint.chosen.tenant)
        elif delivery.number < len(SCHEDULE):
            return await self._again(delivery, answer)
        self._ended("dead", answer.kind)
        log.warning("webhook_failed", **_facts(delivery, answer), last=True)
        raise PermanentError(answer.code, answer.message)

    async def _again(self, delivery: Delivery, answer: Answer) -> str:
        """Make the next try. A crash before this one is recorded makes it once more, and the next only once."""
        wait = SCHEDULE[delivery.number] * random.uniform(1, 1 + JITTER)  # noqa: S311  jitter, not a secret
        wait = max(wait, answer.wait)
        following = delivery.model_copy(update={"number": delivery.number + 1})
        await self._queue.put([following.job], once=True, not_before=self._clock() + wait)
        log.info("webhook_failed", **_facts(delivery, answer), delay=round(wait, 3))
        return self._ended("retried", answer.kind)

    def _ended(self, outcome: str, kind: str) -> str:
        self._count(outcome, kind)
        return outcome


def _facts(delivery: Delivery, answer: Answer) -> dict[str, object]:
    """Return what may be logged: never a URL, whose query may hold a token."""
    event = delivery.event
    return {
        "endpoint": delivery.endpoint,
        "event_id": event.id,
        "type": event.type,
        "number": delivery.number,
        "code": answer.code,
    }
