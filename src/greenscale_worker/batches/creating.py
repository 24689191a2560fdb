"""Makes batches, each once, however often a client asks for it."""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final

from pydantic import ValidationError

from greenscale_worker.batches.objects import Frozen, Request
from greenscale_worker.batches.store import Batches, day_of
from greenscale_worker.errors import BadInputError
from greenscale_worker.queues import QueueClient
from greenscale_worker.wire_json import write

RETRY_SECONDS: Final = 600  # after which an equal request of a client that retries is one of its own


class _Kept(Frozen):
    """The batch that was made of a request, and the digest of that request; `retried_at`: when a retry came first."""

    digest: str
    request: Request
    retried_at: float | None = None


@dataclass(frozen=True, slots=True)
class Alike:
    """What identifies a repeated request: its tenant and key, what it asks, and whether its client calls it a retry.

    With an `idempotency_key`, it is known again for a day at least, whatever it says of itself.
    """

    tenant: str | None
    caller: str
    asked: bytes
    idempotency_key: str | None = None
    is_retry: bool = False

    @property
    def digest(self) -> str:
        """Return a digest, equal for requests that ask the same."""
        return sha256(b"\0".join((self.caller.encode(), self.asked))).hexdigest()

    @property
    def name(self) -> str:
        """Return the name under which it is kept."""
        if self.idempotency_key is None:
            return f"asked-{self.digest}"
        return "key-" + sha256(self.idempotency_key.encode(errors="surrogateescape")).hexdigest()


class Creator:
    """Puts batches into their queue, `jobs`, and writes what was asked."""

    def __init__(self, batches: Batches, jobs: QueueClient) -> None:
        self.batches = batches
        self.jobs = jobs

    async def earlier(self, alike: Alike, now: float) -> Request | None:
        """Return what was made of this request before. Raises BadInputError `idempotency_key_reuse`."""
        if alike.idempotency_key is None and not alike.is_retry:
            return None
        for days in (0, -1, 1):  # the clock of the gateway that kept it may be ahead, at midnight
            key = _key(alike, now + timedelta(days=days).total_seconds())
            kept = _read(await self.batches.files.read(key))
            if kept is None:
                continue
            if kept.digest != alike.digest:
                raise BadInputError("idempotency_key_reuse", "the Idempotency-Key was sent with another body before")
            if alike.idempotency_key is not None or now - kept.request.created_at < RETRY_SECONDS:
                return kept.request
        return None

    async def create(self, request: Request, alike: Alike, now: float) -> Request:
        """Make a batch, unless that was done of this request before; return it. Raises as `earlier`.

        What it writes first makes each later try the same batch; the job comes before the batch, so that there is no
        batch without a job.
        """
        earlier = await self.earlier(alike, now)
        request = earlier or await self._keep(request, alike, now)
        if earlier is None or not (await self.batches.state(request)).is_final:  # else its end would be told again
            await self.ensure(request)
        await self.batches.create(request)
        return request

    async def ensure(self, request: Request) -> None:
        """Put the job of a batch that has not ended, unless it is there."""
        fields = {"job_id": request.queue_id, "batch": request.model_dump()}
        if request.tenant is not None:
            fields["tenant"] = request.tenant
        await self.jobs.put([(request.queue_id, write(fields))], fold=True, tenant=request.tenant or "")

    async def put_again(self, request: Request) -> bool:
        """Put the job of a batch whose state is not final, unless it is there; return whether there is the batch.

        To be called after the state was read: a sweep deletes the request first.
        """
        if await self.batches.request(request.tenant, request.id) is None:
            return False
        await self.ensure(request)
        return True

    async def sweep(self, now: float) -> None:
        """Forget requests that are older than yesterday."""
        yesterday = day_of(now - timedelta(days=1).total_seconds())
        kept = await self.batches.files.list("alike")
        await self.batches.files.delete([each.key for each in kept if each.key.split("/")[1] < yesterday])

    async def _keep(self, request: Request, alike: Alike, now: float) -> Request:
        """Let the request be known again. Return what another call has made of it at the same time, if one has."""
        files, key = self.batches.files, _key(alike, now)
        kept = _Kept(digest=alike.digest, request=request, retried_at=now if alike.is_retry else None)
        data = kept.model_dump_json().encode()
        if await files.create(key, data):
            return request
        if alike.idempotency_key is not None or alike.is_retry:
            earlier = await self.earlier(alike, now)
        else:
            earlier = await self._overtaken_by(key, now)
        if earlier is not None:
            return earlier
        await files.delete([key])  # it is another one, and retries are of this one
        await files.create(key, data)
        return request

    async def _overtaken_by(self, key: str, now: float) -> Request | None:
        """Return what was made of a retry that has come after `now`: it is one of the request that came then."""
        kept = _read(await self.batches.files.read(key))
        return kept.request if kept is not None and (kept.retried_at or 0) > now else None


def _read(data: bytes | None) -> _Kept | None:
    if data is None:
        return None
    try:
        return _Kept.model_validate_json(data)
    except ValidationError:
        return None


def _key(alike: Alike, now: float) -> str:
    return f"alike/{day_of(now)}/{alike.tenant or '_'}/{alike.name}"
