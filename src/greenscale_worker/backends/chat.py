"""Calls an OpenAI-compatible endpoint over HTTP: chat completions, completions, embeddings."""

import asyncio
import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Final

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
from greenscale_worker.backends.completion import Judge, read_completion, read_embeddings
from greenscale_worker.backends.error_body import ErrorBody, read_error
from greenscale_worker.backends.rate_headers import rates_of
from greenscale_worker.backends.request import inputs_of, request_of
from greenscale_worker.backends.status_codes import SHORT, error_of
from greenscale_worker.backends.streamed import read_stream
from greenscale_worker.errors import BadInputError, ConfigError, PermanentError, TransientError
from greenscale_worker.job import CHAT, CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH, PATHS, Job, Output, Path
from greenscale_worker.tls import client_context
from greenscale_worker.wire_json import write

UNREACHABLE: Final = (ClientConnectorError, ConnectionTimeoutError, ClientHttpProxyError)
ERROR_BODY_BYTES: Final = 64 * 1024
ERROR_BODY_SECONDS: Final = 2.0
LINGER_SECONDS: Final = 0.2
SUCCESS: Final = 2
SERVER_ERROR: Final = 500
MOST_HEADER_BYTES: Final = 64 * 1024
MOST_HEADERS: Final = 500
IDLE_SECONDS: Final = 4.0  # uvicorn, which vLLM stands on, closes idle connections after 5 s
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
        self._urls = _urls_of(self._url)
        self._addresses = {path: str(url.with_user(None).with_query(None)) for path, url in self._urls.items()}
        self._proxy = _http_url("proxy's URL", options.proxy) if options.proxy else None
        self._headers = _headers(options)
        https = any(url is not None and url.scheme == "https" for url in (self._url, self._proxy))
        self._tls = _tls(options) if https else True  # to make a context takes 20 ms
        if self._url.user is not None and "Authorization" in self._headers:
            raise ConfigError("the endpoint's URL holds a user beside the key; one of the two is expected")
        path = options.ready_path
        if path is not None and (not path.startswith("/") or path.startswith("//")):
            raise ConfigError("the path to ask for readiness: one that begins with a single / is expected")
        self._model = {"model": options.model}
        self._defaults = _defaults(options)
        self._secrets = (options.key or "", *options.headers.values())
        self.why_not_ready = ""

    async def infer(self, job: Job) -> Output:
        """Call the endpoint once. Errors are classified by `status_codes` and `signs`, and by `_lost` here."""
        url, request = self._url_of(job), self._request(job)
        headers = {**self._headers, "traceparent": job.traceparent} if job.traceparent else self._headers
        body = _written(request)
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                if response.status // 100 == SUCCESS:
                    judge = partial(self._error, job, response)
                    if job.tokens:
                        return _rated(await self._follow(job, response, judge), response)
                    answer = await self._read(response)
                    if job.path == EMBEDDINGS_PATH:
                        return _rated(read_embeddings(answer, judge, inputs=inputs_of(request)), response)
                    return _rated(read_completion(answer, judge, job.path), response)
                said = await _read_error(response)
        except ClientError as error:
            raise _lost(error) from error
        raise self._error(job, response, read_error(said))

    async def ready(self) -> bool:
        """Connect to the endpoint's host (the proxy's, where there is one), or GET the path that is set.

        If that fails, `why_not_ready` says what was asked and what went wrong, in one line without credentials.
        """
        target = self._ready_url()
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                status = await (self._connect(target) if self._options.ready_path is None else self._get(target))
        except TimeoutError:
            why = f"no answer within {self._options.connect_timeout:g} s"
        except (OSError, ClientError) as error:
            why = _cause(error) or str(error) or type(error).__name__
        else:
            why = f"HTTP {status}" if status >= SERVER_ERROR else ""
        shown = target.with_user(None).with_query(None)
        self.why_not_ready = f"{shown}: {' '.join(why.split())[:SHORT]}" if why else ""
        return not why

    async def models(self) -> bytes | None:
        """Return what the endpoint lists at `/models`, as it came; None if it lists nothing, or cannot be asked."""
        base = self._url.raw_path.rstrip("/").removesuffix(CHAT)
        if base == self._url.raw_path.rstrip("/"):
            return None
        url = self._url.with_path(f"{base}/models", encoded=True, keep_query=True)
        try:
            async with (
                asyncio.timeout(self._options.connect_timeout),
                self._session.get(url, headers=self._headers, allow_redirects=False) as response,
            ):
                return await self._read(response) if response.status // 100 == SUCCESS else None
        except (TimeoutError, OSError, ClientError, TransientError):
            return None

    def peers(self, job: Job) -> str:
        """Name what answers this job, URL with path and model, without credentials."""
        model = job.payload.get("model") or self._options.model
        return f"{self._addresses.get(job.path, job.path)} {model}"

    async def aclose(self) -> None:
        """Close the session, if there is one."""
        if "_session" in self.__dict__:
            await self._session.close()

    @cached_property
    def _session(self) -> ClientSession:
        return self._open_session(self._options.concurrency or 0)  # 0: without a bound

    def _open_session(self, connections: int) -> ClientSession:
        return ClientSession(
            connector=TCPConnector(limit=connections, ssl=self._tls, keepalive_timeout=IDLE_SECONDS),
            timeout=ClientTimeout(connect=self._options.connect_timeout),  # the rest is bounded above
            # no `headers` here: a session sends them to the proxy too, with the key
            cookie_jar=DummyCookieJar(),
            proxy=self._proxy,
            max_line_size=MOST_HEADER_BYTES,
            max_field_size=MOST_HEADER_BYTES,
            max_headers=MOST_HEADERS,
        )

    def _url_of(self, job: Job) -> URL:
        url = self._urls.get(job.path)
        if url is None:
            reason = f"{job.path} cannot be reached: the endpoint's URL does not end in {CHAT}"
            raise BadInputError("path_not_served", reason)
        return url

    def _request(self, job: Job) -> dict[str, Any]:
        request = request_of(job, self._defaults_for(job))
        if request.get("model") is None:
            raise BadInputError("no_model", "the job names no model, and GREENSCALE_MODEL is not set; one is expected")
        if job.tokens:
            options = request.get("stream_options")
            options = {**options, "include_usage": True} if isinstance(options, dict) else {"include_usage": True}
            request |= {"stream": True, "stream_options": options}
        return request

    def _defaults_for(self, job: Job) -> Mapping[str, Any]:
        return self._model if job.verbatim else self._defaults[job.path]

    def _error(
        self, job: Job, response: ClientResponse, said: ErrorBody, **otherwise: Any
    ) -> TransientError | PermanentError:
        """Classify the endpoint's error; some parameters of the request may come from the configuration."""
        payload, defaults = job.payload, self._defaults_for(job)
        sent = request_of(job, defaults)
        ours = [name for name in defaults if payload.get(name) is None and name in sent]
        return error_of(response.status, response.headers, said, defaulted=ours, secrets=self._secrets, **otherwise)

    async def _follow(self, job: Job, response: ClientResponse, judge: Judge) -> Output:
        """Read an answer that comes as a stream."""
        chunks, most = response.content.iter_any(), self._options.max_response_bytes
        output = await read_stream(chunks, job.path, judge, emit=job.emit, most=most)
        with suppress(ClientError, TimeoutError):  # the end of the body, so that the connection can be used again
            async with asyncio.timeout(LINGER_SECONDS):
                async for _ in chunks:
                    pass
        return output

    async def _read(self, response: ClientResponse) -> bytes:
        """Read a body, decompressed, up to the cap. A body not read to its end closes the connection."""
        chunks: list[bytes] = []
        size, content, most = 0, response.content, self._options.max_response_bytes
        while not content.at_eof():
            chunks.append(await content.readany())
            size += len(chunks[-1])
            if size > most:
                message = f"the answer is longer than {most} bytes"
                raise TransientError("response_too_large", message)
        return b"".join(chunks)

    def _ready_url(self) -> URL:
        if self._options.ready_path is None:
            target = self._proxy or self._url
            return target.origin()
        return self._url.join(URL(self._options.ready_path))

    async def _connect(self, target: URL) -> int:
        _, writer = await asyncio.open_connection(target.host, target.port)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return 0

    async def _get(self, target: URL) -> int:
        """Send a GET on a separate connection: those of the session belong to the lanes. Return the status."""
        async with (
            self._open_session(1) as session,
            session.get(target, headers=self._headers, allow_redirects=False) as response,
        ):
            return response.status


async def _read_error(response: ClientResponse) -> bytes:
    """Read what there is of an error's body; the status counts even if the body cannot be read."""
    said = b""
    with suppress(ClientError, TimeoutError):
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            async for chunk in response.content.iter_any():
                said += chunk
                if len(said) > ERROR_BODY_BYTES:
                    break
    return said


def _cause(error: OSError | ClientError) -> str:
    """Return the system's own message, such as `Connection refused`; asyncio gives number and address instead."""
    cause = getattr(error, "os_error", error)
    if not isinstance(cause, OSError):
        return ""
    if cause.errno and cause.errno > 0 and "Connect call failed" in str(cause):
        return os.strerror(cause.errno)
    return cause.strerror or str(cause)


def _lost(error: ClientError) -> TransientError:
    """Classify a connection that failed.

    Not made (name, TCP, TLS, proxy): the endpoint's fault. Lost later: unknown. So is a kept-alive connection that the
    server closes before the first byte of the answer: the harmless case (it closed an idle connection just then)
    cannot be distinguished from a job that takes its server down.
    """
    if isinstance(error, UNREACHABLE):
        cause = _cause(error) or type(error).__name__
        return TransientError("unreachable", f"cannot connect to the endpoint: {cause}"[:SHORT], prior="endpoint")
    if isinstance(error, ClientResponseError):
        return TransientError("not_http", "the endpoint's answer is not HTTP")
    cause = type(error).__name__
    return TransientError("connection_cut", f"the connection was lost during the call: {cause}")


def _http_url(name: str, text: str) -> URL:
    """Parse a URL. Raises ConfigError, without the URL, which may hold a password."""
    try:
        url = URL(text)
        (url.host or "").encode("idna")
    except ValueError:
        raise ConfigError(f"the {name} cannot be read; https://host/path is expected") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"the {name} is not complete; http:// or https:// and a host are expected")
    return url


def _rated(output: Output, response: ClientResponse) -> Output:
    """Add to an answer what its headers say of the rate that the endpoint allows."""
    rates = rates_of(response.headers)
    return output if rates is None else replace(output, rates=rates)


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


def _tls(options: ChatOptions) -> ssl.SSLContext:
    if options.key_file is not None and options.cert_file is None:
        raise ConfigError("the endpoint's client certificate is missing; expected beside its key")
    files = {"CA": options.ca_file, "certificate": options.cert_file, "key": options.key_file}
    try:
        return client_context(ca_file=options.ca_file, cert_file=options.cert_file, key_file=options.key_file)
    except (OSError, ValueError) as error:
        named = ", ".join(f"{what} file {file}" for what, file in files.items() if file is not None)
        raise ConfigError(f"the {named}: {error}; PEM files are expected, a key without a password") from error


def _defaults(options: ChatOptions) -> dict[Path, dict[str, Any]]:
    """Return what is added to requests for each path. Only chat knows the newer name of the limit."""

    def filled(**defaults: Any) -> dict[str, Any]:
        return {"model": options.model, **{name: value for name, value in defaults.items() if value is not None}}

    temperature, most = options.temperature, options.max_tokens
    return {
        CHAT_PATH: filled(temperature=temperature, **{options.max_tokens_parameter: most}),
        COMPLETIONS_PATH: filled(temperature=temperature, max_tokens=most),
        EMBEDDINGS_PATH: filled(),
    }


def _urls_of(url: URL) -> dict[Path, URL]:
    """Return the URL for each path that can be reached: beside another than that of chats nothing is known."""
    base = url.raw_path.rstrip("/").removesuffix(CHAT)
    if base == url.raw_path.rstrip("/"):
        return {CHAT_PATH: url}
    others = {path: url.with_path(base + path.removeprefix("/v1"), encoded=True, keep_query=True) for path in PATHS}
    return {**others, CHAT_PATH: url}


def _written(request: dict[str, Any]) -> bytes:
    try:
        return write(request)
    except (TypeError, ValueError) as error:  # only from a job that was not decoded from JSON
        raise BadInputError("bad_request", f"the payload cannot be written as JSON: {type(error).__name__}") from None
