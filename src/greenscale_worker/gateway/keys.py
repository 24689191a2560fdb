"""API keys: `gs_<id>_<secret>`. Only the SHA-256 of a secret is kept, with the queue, so that all gateways know it."""

import asyncio
import re
import secrets
from hashlib import sha256
from hmac import compare_digest
from time import time
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, PositiveInt, StringConstraints, ValidationError

from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.route import SCOPES, Scope
from greenscale_worker.job import TENANT
from greenscale_worker.queues import QueueClient

TOKEN: Final = re.compile(r"gs_([a-z0-9]{1,32})_([A-Za-z0-9]{32,128})")
STALE_SECONDS: Final = 5.0  # after which a key is no longer believed: it may have been revoked
SECRET_BYTES: Final = 32
ID_BYTES: Final = 5
NO_SECRET: Final = "0" * 64  # is compared with where no key has the id, so that both take the same time


class Limits(BaseModel):
    """What one key may use. Each gateway counts for itself, but tokens: they are those of the tenant, by the ledger.

    `in_flight` are requests at a time, `waiting` jobs that have not ended, `stored_bytes` those of the tenant's files;
    the others are for any minute.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_flight: PositiveInt | None = None
    waiting: PositiveInt | None = None
    stored_bytes: PositiveInt | None = None
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    bytes_per_minute: PositiveInt | None = None


class Key(BaseModel):
    """What is kept of a key. Times are seconds since the epoch. Without a tenant, it sees all jobs, with their ids."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...]
    tenant: Annotated[str, StringConstraints(pattern=f"^{TENANT.pattern}$")] | None = None
    note: str = ""
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    limits: Limits = Limits()

    def state(self, now: float) -> str:
        """Return `active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or now < self.expires_at else "expired"

    def may(self, scope: Scope) -> bool:
        """Return whether the key is for this; `admin` is for all."""
        return scope in self.scopes or "admin" in self.scopes


def new_key(**fields: Any) -> tuple[str, str, Key]:
    """Make a key. Return its id, the token that its owner needs, which is kept nowhere, and what is kept of it."""
    key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES)
    return key_id, f"gs_{key_id}_{secret}", Key(hash=hash_of(secret), created_at=time(), **fields)


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a secret, in hex: for 256 random bits no slower hash is needed."""
    return sha256(secret.encode()).hexdigest()


def read_key(document: bytes) -> Key | None:
    """Return the key of a document, None for one that is none."""
    try:
        return Key.model_validate_json(document)
    except ValidationError:
        return None


class Keyring:
    """The keys of a queue, as they were some seconds ago at most.

    `own` is a key from the gateway's settings, for its operator. `open_without`: while there has never been a key,
    everybody may call.
    """

    def __init__(self, queue: QueueClient, *, own: str | None = None, open_without: bool = True) -> None:
        self._queue = queue
        self._keys: dict[str, Key | None] = {}
        self._read_at = float("-inf")
        self._open_without = open_without
        self._own: dict[str, Key] = {}
        if own is not None and (found := TOKEN.fullmatch(own)) is not None:
            self._own = {found[1]: Key(hash=hash_of(found[2]), scopes=SCOPES)}

    async def refresh(self) -> None:
        """Read the keys. Raises QueueUnavailableError."""
        asked_at = asyncio.get_running_loop().time()
        self._keys = {key_id: read_key(document) for key_id, document in (await self._queue.keys()).items()}
        self._read_at = asked_at

    @property
    def exists(self) -> bool:
        """Whether there is any key, be it revoked: then nobody may call without one."""
        return bool(self._own or self._keys)

    async def find(self, request: web.Request) -> tuple[str, Key] | None:
        """Return the id and the key of a request, None if none is needed.

        Raises Problem `invalid_api_key`, QueueUnavailableError if the keys cannot be read.
        """
        if asyncio.get_running_loop().time() - self._read_at > STALE_SECONDS:
            await self.refresh()
        if not self.exists and self._open_without:
            return None
        sent = request.headers.get("Authorization", "")
        scheme, _, token = sent.partition(" ")
        found = TOKEN.fullmatch(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            said = "this is not a key of a gateway" if sent else "a key is needed"
            raise _refused(f"{said}: `Authorization: Bearer gs_<id>_<secret>` is expected")
        key = self._own.get(found[1]) or self._keys.get(found[1])
        fits = compare_digest(hash_of(found[2]), NO_SECRET if key is None else key.hash)
        if key is None or not fits:
            raise _refused("there is no such key")
        if (state := key.state(time())) != "active":
            raise _refused(f"the key is {state}")
        return found[1], key


def _refused(said: str) -> Problem:
    return Problem("invalid_api_key", said, headers={"WWW-Authenticate": "Bearer"})
