"""Events: what has happened to a batch, a response or a job, and one delivery of it for each endpoint."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final, Literal, get_args

from pydantic import BaseModel, ConfigDict

from greenscale_worker.queues import Notice, QueueClient, State
from greenscale_worker.webhooks.registry import Endpoint, Registry
from greenscale_worker.wire_json import write

EventType = Literal[
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)
OF_RESPONSES: Final[Mapping[State, EventType]] = {
    "succeeded": "response.completed",
    "failed": "response.failed",
    "cancelled": "response.cancelled",
}
OF_JOBS: Final[Mapping[State, EventType]] = {
    "succeeded": "job.succeeded",
    "failed": "job.failed",
    "cancelled": "job.cancelled",
}
RESPONSE: Final = "resp_"
FILTERED: Final = "content_filter"
CUT_SHORT: Final = ("length", "max_tokens", FILTERED)  # finish reasons of an answer that lacks its end


class Event(BaseModel):
    """What is sent. `created_at` is when it happened, in whole seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    id: str
    object: Literal["event"] = "event"
    created_at: int
    type: EventType
    data: dict[str, str]


class Delivery(BaseModel):
    """A job of the queue of webhooks: one try to send an event to an endpoint. The first is number 1."""

    model_config = ConfigDict(frozen=True)

    endpoint: str
    number: int
    event: Event

    @property
    def job_id(self) -> str:
        """The id, equal for the same try, so that it is put only once."""
        return f"{self.event.id}.{self.endpoint}.{self.number}"

    @property
    def job(self) -> tuple[str, bytes]:
        """Id and payload."""
        return self.job_id, write({"job_id": self.job_id, **self.model_dump()})


def event_of(tenant: str | None, kind: EventType, object_id: str, at: float) -> Event:
    """Return the event of something that happened `at` a time; equal calls give equal events."""
    known_by = write([tenant or "", kind, object_id, at])
    return Event(id=f"evt_{sha256(known_by).hexdigest()[:32]}", created_at=int(at), type=kind, data={"id": object_id})


class Events:
    """Makes deliveries of events."""

    def __init__(self, queue: QueueClient, registry: Registry) -> None:
        self._queue = queue
        self._registry = registry

    async def tell(self, tenant: str | None, kind: EventType, object_id: str, at: float) -> int:
        """Put a delivery for each endpoint of the tenant that wants events of this kind. Return for how many.

        `object_id` is what the tenant calls the object, `at` when it happened, in seconds since the epoch. The same
        call made again, also by another gateway, changes nothing. Raises QueueUnavailableError: then call it again.
        """
        wanted = [each for each in (await self._registry.read()).values() if _wants(each, tenant, kind)]
        if wanted:
            event = event_of(tenant, kind, object_id, at)
            jobs = [Delivery(endpoint=endpoint.id, number=1, event=event).job for endpoint in wanted]
            await self._queue.put(jobs, once=True)
        return len(wanted)

    async def told(self, notice: Notice, record: Mapping[str, str]) -> None:
        """Tell the end of a job: that of a response by `resp_…`, or of a job. `notice` is one of the queue's.

        Raises QueueUnavailableError: then the notice is not to be acknowledged.
        """
        tenant = record.get("tenant")
        prefix = f"{tenant}:" if tenant else ""
        if not notice.job_id.startswith(prefix):  # a job that only says whose it is
            tenant, prefix = None, ""
        name = notice.job_id.removeprefix(prefix)
        kind = (OF_RESPONSES if name.startswith(RESPONSE) else OF_JOBS).get(notice.state)
        if _is_incomplete(kind, notice, record):
            kind = "response.incomplete"
        if kind is not None:
            await self.tell(tenant or None, kind, name, notice.at)


def _is_incomplete(kind: EventType | None, notice: Notice, record: Mapping[str, str]) -> bool:
    """Return whether a response is what OpenAI calls incomplete: cut short, or kept back by a filter."""
    cut_short = kind == "response.completed" and record.get("finish_reason") in CUT_SHORT
    return cut_short or (kind == "response.failed" and notice.code == FILTERED)


def _wants(endpoint: Endpoint, tenant: str | None, kind: EventType) -> bool:
    chosen = endpoint.chosen
    return endpoint.off is None and chosen.tenant == (tenant or None) and kind in chosen.event_types
