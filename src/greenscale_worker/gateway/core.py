"""What all routes share: the queue's client, who waits, the counts; and one call with its caller."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

from aiohttp import web

from greenscale_worker.batches.creating import Creator
from greenscale_worker.batches.store import Batches
from greenscale_worker.errors import BadInputError
from greenscale_worker.files import Files
from greenscale_worker.files.objects import FileObjects
from greenscale_worker.gateway.attending import Attending
from greenscale_worker.gateway.budgets import Budgets
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.following import Following
from greenscale_worker.gateway.keys import Keyring
from greenscale_worker.gateway.limits import Account, Accounts, check_bytes
from greenscale_worker.gateway.metrics import GatewayMetrics
from greenscale_worker.gateway.notices import Notices
from greenscale_worker.gateway.shared import Shared
from greenscale_worker.gateway.stored import StoredBytes
from greenscale_worker.gateway.tokens import TokenReader
from greenscale_worker.gateway.upload_places import UploadPlaces
from greenscale_worker.job import JOB_ID_ACCEPTED, is_job_id
from greenscale_worker.queues import QueueClient
from greenscale_worker.telemetry import log
from greenscale_worker.webhooks.service import Webhooks
from greenscale_worker.wire_json import fault_of, read

BODY_SECONDS: Final = 30.0
LEFT: Final = web.RequestKey("LEFT", dict[str, str])  # headers on what is left of limits
SAY_AGAIN_SECONDS: Final = 60.0
Handler = Callable[["Call"], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """`queue` is its name for people. `chat`: jobs go to an endpoint, and are checked as its worker will check them.

    `max_bytes` is the largest payload that the workers take, `drain` for how many seconds those who wait may go on
    waiting when the gateway is being stopped. `key` is the operator's, from the settings; `open_without_keys`: while
    there are none, everybody who reaches the gateway may call. `model` is the endpoint's default one, `list_models`
    returns what the endpoint lists, None if it lists nothing. `max_tokens_parameter` is its name of the most tokens.
    """

    queue: str
    max_bytes: int = 1024 * 1024
    chat: bool = True
    drain: float = 25.0
    key: str | None = field(default=None, repr=False)
    model: str | None = None
    list_models: Callable[[], Awaitable[bytes | None]] | None = None
    open_without_keys: bool = True
    max_tokens_parameter: str = "max_tokens"


class Gateway:
    """One gateway. `aclose` ends what waits; client, store of files and webhooks are the caller's to close.

    Without a store, what needs one is refused. `batch_jobs` is the queue of batches.
    """

    def __init__(
        self,
        queue: QueueClient,
        options: GatewayOptions,
        files: Files | None = None,
        *,
        webhooks: Webhooks | None = None,
        batch_jobs: QueueClient | None = None,
    ) -> None:
        self.queue = queue
        self.files = files
        self.file_objects = None if files is None else FileObjects(files)
        self.batching = None if files is None or batch_jobs is None else Creator(Batches(files), batch_jobs)
        self.shared = Shared()
        self.stored = None
        if files is not None and self.file_objects is not None:
            self.stored = StoredBytes(self.shared, self.file_objects, Batches(files))
        self.options = options
        self.webhooks = webhooks
        self.metrics = GatewayMetrics()
        if webhooks is not None:
            webhooks.count = self.metrics.webhook
        self.following = Following(queue, on_away=self.queue_is_away)
        self._queue_is_away = False
        self._files_away_said_at = float("-inf")
        self.keyring = Keyring(queue, own=options.key, open_without=options.open_without_keys)
        self.attending = Attending(queue)
        self.tokens = TokenReader(queue)
        self.notices = Notices(queue, on_files_away=self.files_are_away)
        self.accounts = Accounts(queue, self.shared)
        self.budgets = Budgets(queue, self.shared)
        self.upload_places = UploadPlaces()
        self.document, self.page = b"", ""
        self.draining, self.hurry = asyncio.Event(), asyncio.Event()

    def queue_is_away(self, reason: str) -> None:
        """Log it, once until `queue_is_back`."""
        if not self._queue_is_away:
            log.warning("queue_unavailable", error=reason)
        self._queue_is_away = True

    def queue_is_back(self) -> None:
        """Log it, if it was away."""
        if self._queue_is_away:
            log.info("queue_back")
        self._queue_is_away = False

    def files_are_away(self, reason: str) -> None:
        """Log it, once a minute."""
        now = asyncio.get_running_loop().time()
        if now - self._files_away_said_at > SAY_AGAIN_SECONDS:
            self._files_away_said_at = now
            log.warning("files_unavailable", error=reason)

    async def drain(self) -> None:
        """Let those who wait go on for `drain` seconds, or until `hurry` is set; then tell them where to look."""
        self.draining.set()
        self.following.leave()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.options.drain):
                await self.hurry.wait()
        await self.aclose()

    async def aclose(self) -> None:
        """End all that waits: callers are told where to look."""
        self.hurry.set()
        await self.following.close()
        await self.tokens.aclose()
        await self.attending.aclose()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Jobs of a tenant `a` have queue ids that begin with `a:`; its callers see no prefix, and no others.

    `key_id` is the id of the key, empty where none is needed; `account` what the key uses, None if it has no limits.
    """

    tenant: str | None = None
    key_id: str = ""
    account: Account | None = None

    @property
    def prefix(self) -> str:
        """What the ids of this caller's jobs begin with in the queue."""
        return "" if self.tenant is None else f"{self.tenant}:"

    def queue_id(self, job_id: str) -> str:
        """Return a job's id in the queue. Raises BadInputError for one that no job can have."""
        queue_id = f"{self.prefix}{job_id}"
        if not is_job_id(job_id) or not is_job_id(queue_id):
            accepted = JOB_ID_ACCEPTED.replace("128", str(128 - len(self.prefix)))
            raise BadInputError("bad_job_id", f"job_id: {job_id[:200]!r} is no job id; {accepted}")
        return queue_id

    def owns(self, queue_id: str | None) -> bool:
        """Return whether a job is this caller's to see."""
        return queue_id.startswith(self.prefix) if queue_id is not None else not self.prefix

    def public_id(self, queue_id: str) -> str:
        """Return a job's id without the prefix."""
        return queue_id.removeprefix(self.prefix)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a route; `query` is an instance of the route's model."""

    gateway: Gateway
    request: web.Request
    caller: Caller = field(default_factory=Caller)
    query: Any = None

    @property
    def queue(self) -> QueueClient:
        """The queue's client."""
        return self.gateway.queue

    @property
    def file_objects(self) -> FileObjects:
        """The files of all tenants. Raises Problem `files_not_configured`."""
        if self.gateway.file_objects is None:
            raise _no_files()
        return self.gateway.file_objects

    @property
    def stored(self) -> StoredBytes:
        """What tenants store. Raises Problem `files_not_configured`."""
        if self.gateway.stored is None:
            raise _no_files()
        return self.gateway.stored

    @property
    def id(self) -> str:
        """The id in the path, as the caller knows it."""
        return self.request.match_info["id"]

    @property
    def queue_id(self) -> str:
        """The queue's id of the job in the path. Raises Problem `not_found` for an id that no job can have."""
        try:
            return self.caller.queue_id(self.id)
        except BadInputError:
            raise no_such_job(self.id) from None

    def check_client(self) -> None:
        """Raise ConnectionResetError if the client has left.

        A handler is cancelled then, but Python 3.11 may lose a CancelledError while redis-py reads: to be called before
        a long wait.
        """
        if self.request.transport is None:
            raise ConnectionResetError("the client has left")

    def hang_up(self) -> None:
        """Cut the connection, so that nobody takes what was sent for a whole answer."""
        if self.request.transport is not None:
            self.request.transport.close()

    @property
    def batching(self) -> Creator:
        """The batches of all tenants. Raises Problem `files_not_configured`."""
        if self.gateway.batching is None:
            raise _no_files()
        return self.gateway.batching

    def check_encoding(self) -> None:
        """Raise Problem `compressed` for a body that is."""
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Problem(
                "compressed", "Content-Encoding: only bodies as they are are accepted", param="Content-Encoding"
            )

    async def body(self) -> bytes:
        """Read the body. Raises Problem `compressed`, `too_large`, `request_timeout` or `bad_request`."""
        self.check_encoding()
        most = self.gateway.options.max_bytes
        too_large = Problem("too_large", f"at most {most} bytes are accepted (GREENSCALE_MAX_PAYLOAD_BYTES)")
        if (self.request.content_length or 0) > most:
            raise too_large
        try:
            async with asyncio.timeout(BODY_SECONDS):
                raw = await self.request.read()
        except TimeoutError:
            said = f"the body did not arrive within {BODY_SECONDS:g} s"
            raise Problem("request_timeout", said, headers={"Connection": "close"}) from None
        except web.HTTPRequestEntityTooLarge:
            raise too_large from None
        except web.RequestPayloadError:
            raise Problem("bad_request", "the body breaks off", headers={"Connection": "close"}) from None
        if self.caller.account is not None:
            check_bytes(self.caller.account, len(raw))
        return raw

    async def object(self) -> dict[str, Any]:
        """Read the body as a JSON object. Raises Problem."""
        return object_of(await self.body())


def _no_files() -> Problem:
    said = "this gateway keeps no files; its operator has to set GREENSCALE_FILES"
    return Problem("files_not_configured", said, headers={"x-should-retry": "false"})


def object_of(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises Problem `not_json` or `not_an_object`."""
    try:
        value = read(raw)
    except ValueError as error:
        raise Problem("not_json", f"not JSON: {fault_of(error, raw)}") from None
    if not isinstance(value, dict):
        raise Problem("not_an_object", "a JSON object is expected")
    return value


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address, or can be meant by a name."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def no_such_job(job_id: str) -> Problem:
    """Return what is said of an id of which there is no record."""
    said = f"there is no job {job_id[:200]!r}: unknown, expired, or pushed to the list by hand and not claimed yet"
    return Problem("not_found", said, param="id")
