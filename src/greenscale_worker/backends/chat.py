"""Calls an OpenAI-compatible chat/completions endpoint over HTTP."""

import asyncio
import ssl
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

import orjson
from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientHttpProxyError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from multidict import CIMultiDict
from yarl import URL

from greenscale_worker.backends import ChatOptions
from greenscale_worker.backends.completion import read_completion
from greenscale_worker.backends.faults import SHORT, error_of
from greenscale_worker.backends.request import chat_request
from greenscale_worker.errors import ConfigError, PermanentError, TransientError
from greenscale_worker.job import Job, Output

UNREACHABLE: Final = (ClientConnectorError, ConnectionTimeoutError, ClientHttpProxyError)
ERROR_BODY_BYTES: Final = 64 * 1024
ERROR_BODY_SECONDS: Final = 2.0
OK: Final = 200
SERVER_ERROR: Final = 500
OURS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "User-Agent": "greenscale-worker",
}


class ChatBackend:
    """One session to one endpoint: kept-alive connections, as many as there are lanes.

    No cookies, no redirects, nothing read from the environment or from .netrc: the key goes to the host of
    `url` and nowhere else.
    """

    def __init__(self, options: ChatOptions) -> None:
        """Raises ConfigError where the options cannot work."""
        self._options = options
        self._url = _http_url("endpoint's URL", options.url)
        self._proxy = _http_url("proxy's URL", options.proxy) if options.proxy else None
        self._headers = _headers(options)
        self._tls = _tls(options.ca_file)
        if self._url.user is not None and "Authorization" in self._headers:
            raise ConfigError("the endpoint's URL holds a user beside the key; one of the two is expected")
        path = options.ready_path
        if path is not None and (not path.startswith("/") or path.startswith("//")):
            raise ConfigError("the path to ask for readiness: one that begins with a single / is expected")
        self._defaults = _defaults(options)
        self._secrets = (options.key or "", *options.headers.values())

    async def infer(self, job: Job) -> Output:
        """Ask the endpoint once. What may go wrong is told by the table in `faults`, and by `_lost` here."""
        body = self._request(job)
        headers = {**self._headers, "traceparent": job.traceparent} if job.traceparent else self._headers
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                if response.status == OK:
                    return read_completion(await self._read(response))
                said = await _read_error(response)
        except ClientError as error:
            raise _lost(error) from error
        own_model = job.payload.get("model") is not None
        raise error_of(response.status, response.headers, said, own_model=own_model, secrets=self._secrets)

    async def ready(self) -> bool:
        """Connect to the endpoint's host (the proxy's, where there is one), or GET the path that is set."""
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                return await (self._connects() if self._options.ready_path is None else self._answers())
        except (OSError, TimeoutError, ClientError):
            return False

    async def aclose(self) -> None:
        """Close the session, where there is one."""
        if "_session" in self.__dict__:
            await self._session.close()

    @cached_property
    def _session(self) -> ClientSession:
        return self._open_session(self._options.concurrency)

    def _open_session(self, connections: int) -> ClientSession:
        return ClientSession(
            connector=TCPConnector(limit=connections, ssl=self._tls),
            timeout=ClientTimeout(connect=self._options.connect_timeout),  # the rest is bounded above
            # no `headers` here: those of a session go to the proxy too, the key among them
            cookie_jar=DummyCookieJar(),
            proxy=self._proxy,
        )

    def _request(self, job: Job) -> bytes:
        if self._options.model is None and job.payload.get("model") is None:
            raise PermanentError("no_model", "the job names no model, and no other is set (GREENSCALE_MODEL)")
        try:
            return orjson.dumps(chat_request(job.payload, self._defaults))
        except orjson.JSONEncodeError as error:  # only from a job that was not decoded from JSON
            raise PermanentError("bad_request", f"the payload cannot be written as JSON: {error}") from None

    async def _read(self, response: ClientResponse) -> bytes:
        """Read a body, decompressed, up to the cap; what is left unread closes the connection."""
        chunks: list[bytes] = []
        size, content, most = 0, response.content, self._options.max_response_bytes
        while not content.at_eof():
            chunks.append(await content.readany())
            size += len(chunks[-1])
            if size > most:
                message = f"the answer is longer than {most} bytes"
                raise TransientError("response_too_large", message, counted=True)
        return b"".join(chunks)

    async def _connects(self) -> bool:
        target = self._proxy or self._url
        _, writer = await asyncio.open_connection(target.host, target.port)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True

    async def _answers(self) -> bool:
        """Ask on a connection of its own: those of the session belong to the lanes."""
        url = self._url.join(URL(self._options.ready_path or "/"))
        async with (
            self._open_session(1) as session,
            session.get(url, headers=self._headers, allow_redirects=False) as response,
        ):
            return response.status < SERVER_ERROR


async def _read_error(response: ClientResponse) -> bytes:
    """Read what there is of an error's body; the status stands whatever becomes of the body."""
    said = b""
    with suppress(ClientError, TimeoutError):
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            async for chunk in response.content.iter_any():
                said += chunk
                if len(said) > ERROR_BODY_BYTES:
                    break
    return said


def _lost(error: ClientError) -> TransientError:
    """Classify a connection that failed.

    Not made (name, TCP, TLS, proxy): the endpoint's fault. Lost later: the job's. That holds for a kept-alive
    connection that the server closes before the first byte of the answer too: nobody can tell the harmless
    case (it closed an idle connection just then) from a job that takes its server down, and the second must
    not go round for ever. The first costs one of several tries, and the next attempt connects afresh.
    """
    if isinstance(error, UNREACHABLE):
        cause = getattr(error, "os_error", None) or type(error).__name__
        return TransientError("unreachable", f"cannot connect to the endpoint: {cause}"[:SHORT], counted=False)
    if isinstance(error, ClientResponseError):
        return TransientError("not_http", "the endpoint's answer is not HTTP", counted=True)
    cause = type(error).__name__
    return TransientError("connection_cut", f"the connection was lost during the call: {cause}", counted=True)


def _http_url(name: str, text: str) -> URL:
    """Check a URL; the message does not repeat it, it may hold a password."""
    try:
        url = URL(text)
        (url.host or "").encode("idna")
    except ValueError:
        raise ConfigError(f"the {name} cannot be read; https://host/path is expected") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"the {name} is not complete; http:// or https:// and a host are expected")
    return url


def _headers(options: ChatOptions) -> CIMultiDict[str]:
    headers = CIMultiDict(OURS)
    if options.key:
        headers["Authorization"] = f"Bearer {options.key}"
    headers.update(options.headers)
    for name, value in headers.items():
        if not value.isprintable() or not name.isprintable():
            which = "key" if name == "Authorization" else f"header {name!r}"
            raise ConfigError(f"the {which} holds a line break or another character that no header can carry")
    return headers


def _tls(ca_file: str | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the CA file {ca_file}: {error}; a PEM file is expected") from error


def _defaults(options: ChatOptions) -> dict[str, Any]:
    defaults: dict[str, Any] = {"max_tokens": options.max_tokens}
    if options.model is not None:
        defaults["model"] = options.model
    if options.temperature is not None:
        defaults["temperature"] = options.temperature
    return defaults
