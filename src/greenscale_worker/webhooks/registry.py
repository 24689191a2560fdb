"""The endpoints, as the queue of webhooks keeps them, so that every gateway can sign.

An endpoint is three documents beside each other, each written by calls of one kind, so that none undoes another:
`<id>` is what its owner chose, `<id>:secrets` its secrets, `<id>:off` says since when and why nothing is sent to it.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from greenscale_worker.grouping import Grouper
from greenscale_worker.queues import QueueClient
from greenscale_worker.webhooks.signature import hint_of, new_secret

KEPT_SECONDS: Final = 86_400  # an old secret, where the owner asks for it
MOST_SECRETS: Final = 4  # that sign at a time: the newest
ID_BYTES: Final = 12
MOST_AT_ONCE: Final = 1000  # callers who get one reading


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    def written(self) -> bytes:
        return self.model_dump_json().encode()


class Chosen(_Document):
    """What the owner of an endpoint chose; times are seconds since the epoch."""

    tenant: str | None
    name: str
    url: str = Field(repr=False)  # its query may hold a token
    event_types: tuple[str, ...]
    created_at: float
    updated_at: float


class Secret(_Document):
    """A secret that signs, until a time if it is an old one."""

    value: str = Field(repr=False)
    until: float | None = None


class Secrets(_Document):
    """The secrets of an endpoint, the newest first."""

    secrets: tuple[Secret, ...]
    updated_at: float


class Off(_Document):
    """Since when and why nothing is sent."""

    at: float
    why: str


class Endpoint(BaseModel):
    """Where events are sent. Without a tenant, it gets the events of those who have none."""

    model_config = ConfigDict(frozen=True)

    id: str
    chosen: Chosen
    secrets: Secrets
    off: Off | None = None

    @property
    def secret(self) -> str:
        """The newest secret."""
        return self.secrets.secrets[0].value

    @property
    def hint(self) -> str:
        """What may be shown of the newest secret."""
        return hint_of(self.secret)

    @property
    def updated_at(self) -> float:
        """When its owner last changed it."""
        return max(self.chosen.updated_at, self.secrets.updated_at)

    def signing(self, now: float) -> list[str]:
        """Return the secrets that sign now."""
        return [each.value for each in self.secrets.secrets if each.until is None or now < each.until]


class Registry:
    """The endpoints of all tenants. Every call raises QueueUnavailableError while the queue is away."""

    def __init__(self, queue: QueueClient, clock: Callable[[], float] = time) -> None:
        self._queue = queue
        self._clock = clock
        self._read: Grouper[None, Mapping[str, Endpoint]] = Grouper(self._read_for, most=MOST_AT_ONCE, most_bytes=0)

    async def read(self) -> Mapping[str, Endpoint]:
        """Return all endpoints by id, as they are after this call: no clock says what an older reading has missed.

        Those who call at the same time get the same reading.
        """
        return await self._read(None)

    async def _read_for(self, callers: Sequence[None]) -> list[Mapping[str, Endpoint]]:
        documents = await self._queue.keys()
        found = {name: _endpoint(name, documents) for name in documents if ":" not in name}
        return [{name: endpoint for name, endpoint in found.items() if endpoint is not None}] * len(callers)

    async def add(self, tenant: str | None, name: str, url: str, event_types: tuple[str, ...]) -> Endpoint:
        """Keep a new endpoint."""
        now = self._clock()
        endpoint_id = f"we_{secrets.token_hex(ID_BYTES)}"
        chosen = Chosen(tenant=tenant, name=name, url=url, event_types=event_types, created_at=now, updated_at=now)
        own = Secrets(secrets=(Secret(value=new_secret()),), updated_at=now)
        await self._queue.set_key(f"{endpoint_id}:secrets", own.written())
        await self._queue.set_key(endpoint_id, chosen.written())
        return Endpoint(id=endpoint_id, chosen=chosen, secrets=own)

    async def change(self, endpoint: Endpoint, fields: Mapping[str, Any]) -> Endpoint:
        """Change name, url or event types of an endpoint, if one of them differs."""
        chosen = endpoint.chosen.model_copy(update=dict(fields))
        if chosen == endpoint.chosen:
            return endpoint
        chosen = chosen.model_copy(update={"updated_at": self._clock()})
        await self._queue.set_key(endpoint.id, chosen.written())
        return endpoint.model_copy(update={"chosen": chosen})

    async def rotate(self, endpoint: Endpoint, *, keep_old: bool) -> Endpoint:
        """Give an endpoint a new secret. The old ones sign beside it for a day, or no longer."""
        now = self._clock()
        until = now + KEPT_SECONDS
        old = [
            Secret(value=each.value, until=min(until, each.until or until))
            for each in endpoint.secrets.secrets
            if keep_old and (each.until is None or now < each.until)
        ]
        own = Secrets(secrets=(Secret(value=new_secret()), *old)[:MOST_SECRETS], updated_at=now)
        await self._queue.set_key(f"{endpoint.id}:secrets", own.written())
        return endpoint.model_copy(update={"secrets": own})

    async def disable(self, endpoint: Endpoint, why: str) -> Endpoint:
        """Send nothing more to an endpoint, until `enable`."""
        off = Off(at=self._clock(), why=why)
        await self._queue.set_key(f"{endpoint.id}:off", off.written())
        return endpoint.model_copy(update={"off": off})

    async def enable(self, endpoint: Endpoint) -> Endpoint:
        """Send to an endpoint again."""
        await self._queue.set_key(f"{endpoint.id}:off", None)
        return endpoint.model_copy(update={"off": None})

    async def remove(self, endpoint: Endpoint) -> None:
        """Forget an endpoint."""
        for part in ("", ":secrets", ":off"):
            await self._queue.set_key(endpoint.id + part, None)


def _endpoint(name: str, documents: Mapping[str, bytes]) -> Endpoint | None:
    """Return an endpoint of its documents; None if they are not ours to read, or one is missing."""
    try:
        off = documents.get(f"{name}:off")
        return Endpoint(
            id=name,
            chosen=Chosen.model_validate_json(documents[name]),
            secrets=Secrets.model_validate_json(documents[f"{name}:secrets"]),
            off=None if off is None else Off.model_validate_json(off),
        )
    except (KeyError, ValidationError):
        return None
