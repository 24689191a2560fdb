"""The API server, as the place needs it: every error is one of ours, and what passes by itself is waited for."""

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final, Self, TypeVar

import httpx2
import structlog
from greenscale_worker import ConfigError
from lightkube import AsyncClient, KubeConfig
from lightkube.config.client_adapter import AsyncClient as open_http  # noqa: N813  a function
from lightkube.config.client_adapter import ConnectionParams
from lightkube.config.kubeconfig import SingleConfig
from lightkube.core.exceptions import ConfigError as KubeConfigError
from lightkube.core.resource import api_info
from lightkube.types import CascadeType

from kubeserve.errors import ForbiddenError, KubeServeError, NotFoundError, UnavailableError
from kubeserve.manifests import Manifest
from kubeserve.manifests.names import PLATFORM
from kubeserve.places.cluster.kinds import KINDS

ANSWER_SECONDS: Final = 10.0  # of silence
REQUEST_SECONDS: Final = 20.0
TRIES: Final = 3
FIRST_PAUSE: Final = 0.1
LONGEST_WAIT: Final = 2.0  # for a server that asks to come later; beyond it the caller is told
LONGEST_CLOSED: Final = 60.0
LONGEST_REASON: Final = 300
LONGEST_LINE: Final = 16 * 1024
BAD, FORBIDDEN, NOT_FOUND, GONE, INVALID = 400, 403, 404, 410, 422
AWAY: Final = "the cluster does not answer"
UNKNOWN: Final = "the server could not find the requested resource"
UNKNOWN_GROUP: Final = "404 page not found"  # in plain text, where nothing of the group is installed
SERVERS_OWN: Final = "Audit-Id"  # a header of all that the API server itself answers
# A namespace that goes may be made again. Rights may be given; and a server that has just started knows of none.
LATER: Final = re.compile('is being terminated|is forbidden: User "[^"]*" cannot ')
LAPSED: Final = "this control plane stalled, and another one may have taken over; it waits for the database's word"
ALL: Final = "*"
BACKGROUND: Final[Any] = CascadeType.BACKGROUND
log = structlog.get_logger()

Result = TypeVar("Result")
Event = tuple[str, Manifest]


class RefusedError(KubeServeError):
    """The cluster does not take it, and would not take it later. The message is the cluster's own."""

    status = 502
    code = "refused"


class UnknownKindError(NotFoundError):
    """The cluster knows no such kind of objects: what brings it is not installed."""


class Cluster:
    """One API server. Every call raises UnavailableError while it does not serve us, RefusedError where it refuses.

    While `lapsed` holds nothing is written: another control plane may have taken over.
    """

    def __init__(self, config: SingleConfig, lapsed: Callable[[], bool] = lambda: False) -> None:
        self._lapsed = lapsed
        timeout = httpx2.Timeout(ANSWER_SECONDS)
        self._client = AsyncClient(config, field_manager=PLATFORM, timeout=timeout)
        self._http = open_http(config, ConnectionParams(timeout=timeout))  # for logs: lines of any length
        self._opens = 0.0  # when a server that asked to come later may be asked again

    @classmethod
    def open(cls, lapsed: Callable[[], bool] = lambda: False) -> Self:
        """Open the cluster that this process is a pod of, else that of KUBECONFIG. Raises ConfigError."""
        try:
            config = KubeConfig.from_env().get()
            if config is None:
                raise KubeConfigError("it names no cluster")  # noqa: TRY301  told as the other errors of the file are
            return cls(config, lapsed)
        except (KubeConfigError, OSError, LookupError, ValueError, TypeError, AssertionError) as error:
            raise ConfigError(
                f"KUBESERVE_PLACE: no cluster can be reached: {error}; run in a pod, or let KUBECONFIG name the file"
            ) from error

    async def apply(self, manifest: Manifest) -> Manifest:
        """Make an object what `manifest` says, by server-side apply; what others set beside it stays."""
        made = KINDS[manifest["kind"]](manifest)
        applied: Manifest = await self._ask(lambda: self._client.apply(made, force=True), writes=True)
        return applied

    async def list(self, kind: str, selector: Mapping[str, str]) -> tuple[list[Manifest], str]:
        """Return the objects of all namespaces with these labels, and the version at which they were so."""

        async def every() -> tuple[list[Manifest], str]:
            found = self._client.list(KINDS[kind], labels=dict(selector), chunk_size=500, **_everywhere(kind))
            return [{"kind": kind, **each} async for each in found], str(found.resourceVersion)

        return await self._ask(every)

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object, and what belongs to it. One that is not there is fine."""
        inside: dict[str, Any] = {"namespace": namespace} if namespace else {}
        try:
            await self._ask(lambda: self._client.delete(KINDS[kind], name, cascade=BACKGROUND, **inside), writes=True)
        except NotFoundError:
            return

    async def watch(self, kind: str, selector: Mapping[str, str], version: str) -> AsyncGenerator[Event]:
        """Yield what happens to these objects after `version`, until the server ends it, as it may at any time.

        Raises NotFoundError if that is too old. lightkube's own would ask on at once, without a pause.
        """
        labels = ",".join(f"{name}={value}" for name, value in selector.items())
        query = {"watch": "true", "resourceVersion": version, "labelSelector": labels}
        silent = httpx2.Timeout(ANSWER_SECONDS, read=None)
        try:
            async with self._http.stream("GET", _path(kind), params=query, timeout=silent) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    yield _event(kind, line)
        except Exception as error:
            raise _told(error) from error

    async def log(self, namespace: str, pod: str, query: Mapping[str, str]) -> AsyncGenerator[str]:
        """Yield the lines of a pod's log, as the query of the API asks. What is longer than 16 KiB comes in pieces."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        silent = httpx2.Timeout(ANSWER_SECONDS, read=None if query.get("follow") == "true" else ANSWER_SECONDS)
        try:
            async with self._http.stream("GET", path, params=dict(query), timeout=silent) as answer:
                answer.raise_for_status()
                rest = b""
                async for piece in answer.aiter_bytes():
                    *lines, rest = (rest + piece).split(b"\n")
                    if len(rest) > LONGEST_LINE:
                        lines, rest = [*lines, rest], b""
                    for line in lines:
                        yield line.decode(errors="replace")
                if rest:
                    yield rest.decode(errors="replace")
        except (httpx2.HTTPError, OSError) as error:
            raise _told(error) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()
        await self._http.aclose()

    async def _ask(self, what: Callable[[], Awaitable[Result]], *, writes: bool = False) -> Result:
        """Ask, again after a conflict, an error of the server's or a cut. Each try takes 20 s at most."""
        for left in reversed(range(TRIES)):
            await self._opened()
            if writes and self._lapsed():
                raise UnavailableError(LAPSED)
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    return await what()
            except Exception as error:
                self._close_for(_retry_after(error))
                told = _told(error)
                if left == 0 or not isinstance(told, UnavailableError):
                    raise told from error
            await asyncio.sleep(FIRST_PAUSE * 2 ** (TRIES - left - 1) * random.uniform(0.5, 1))  # noqa: S311  jitter
        raise AssertionError("unreachable")

    async def _opened(self) -> None:
        wait = self._opens - asyncio.get_running_loop().time()
        if wait > LONGEST_WAIT:
            raise UnavailableError(f"the cluster asks to wait for {wait:.0f} s")
        await asyncio.sleep(max(0.0, wait))

    def _close_for(self, seconds: float) -> None:
        if seconds:
            self._opens = asyncio.get_running_loop().time() + min(seconds, LONGEST_CLOSED)


def _path(kind: str) -> str:
    """Return where the objects of all namespaces are."""
    about = api_info(KINDS[kind])
    group, version = about.resource.group, about.resource.version
    return f"{f'/apis/{group}' if group else '/api'}/{version}/{about.plural}"


def _event(kind: str, line: str) -> Event:
    event = json.loads(line)
    about = event["object"]
    if event["type"] != "ERROR":
        return event["type"], {"kind": kind, **about}
    if about.get("code") == GONE:
        raise NotFoundError(f"not in the cluster: {about.get('message')}")
    raise UnavailableError(f"{AWAY}: {about.get('message')}")


def _everywhere(kind: str) -> dict[str, Any]:
    return {} if kind == "Namespace" else {"namespace": ALL}


def _retry_after(error: Exception) -> float:
    response = error.response if isinstance(error, httpx2.HTTPStatusError) else None
    text = response.headers.get("Retry-After", "") if response is not None else ""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _told(error: Exception) -> KubeServeError:
    """Say what an error of the client means. Not all of them have a class: a proxy may answer with a page of HTML."""
    if isinstance(error, KubeServeError):
        return error
    code, message = _status(error)
    why = " ".join(message.split())[:LONGEST_REASON]
    if code == GONE or (code == NOT_FOUND and why):
        absent = UnknownKindError if why == UNKNOWN else NotFoundError
        return absent(f"not in the cluster: {why}")
    if LATER.search(why):
        return UnavailableError(f"the cluster does not take it yet: {why}")
    if code == FORBIDDEN:
        return ForbiddenError(f"the cluster forbids it: {why}")
    if why and code in {BAD, INVALID}:
        return RefusedError(f"the cluster refuses it: {why}")
    log.info("cluster_away", error=type(error).__name__, code=code, why=why)
    return UnavailableError(AWAY if code is None else f"{AWAY} as it should (status {code})")


def _status(error: Exception) -> tuple[int | None, str]:
    """Return code and message of what the API server answered; no message if it was somebody else that answered."""
    status = getattr(error, "status", None)
    if status is not None:
        return status.code, status.message or ""
    if not isinstance(error, httpx2.HTTPStatusError):
        return None, ""
    response = error.response
    try:
        text = response.text
        body = response.json()
    except (httpx2.HTTPError, httpx2.StreamError):  # a stream's, that nobody reads
        text, body = "", None
    except ValueError:
        body = None
    if isinstance(body, dict) and body.get("kind") == "Status":
        return response.status_code, str(body.get("message", ""))
    # A page of a proxy that does not know the way would make what is there seem to be gone.
    is_unknown_group = text.strip() == UNKNOWN_GROUP and SERVERS_OWN in response.headers
    return response.status_code, UNKNOWN if is_unknown_group else ""
