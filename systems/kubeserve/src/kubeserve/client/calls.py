"""Calls of the API: what it refuses is raised as it was there; what may succeed later is called again."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import requests
from urllib3.exceptions import NameResolutionError, NewConnectionError

from kubeserve.errors import (
    ConflictError,
    Fault,
    ForbiddenError,
    KubeServeError,
    LimitedError,
    NotFoundError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnprocessableError,
)

KINDS: Final = {
    kind.status: kind
    for kind in (
        UnauthenticatedError,
        ForbiddenError,
        NotFoundError,
        ConflictError,
        TooLargeError,
        UnprocessableError,
        UnavailableError,
    )
}
CONNECT: Final = 5.0  # seconds
FIRST_PAUSE: Final = 0.2  # seconds; each is twice the last
LONGEST_PAUSE: Final = 5.0
REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
AWAY: Final = "away"  # nobody answered a call that may have been carried out
UNREACHABLE: Final = "unreachable"
END: Final = "end"  # the last event of a stream
LONGEST_TEXT: Final = 200  # characters of an answer that is not the API's own


class Patience:
    """How long something is tried again: `seconds` since it last got on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """It got on: all of the patience is there again."""
        self._ends = time.monotonic() + self._seconds
        self._pause = FIRST_PAUSE

    def pause(self, error: KubeServeError, least: float = 0.0) -> None:
        """Wait, each time longer, at least `least` seconds. Raises the error if that takes too long."""
        pause = max(least, self._pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads calls, guards nothing
        if time.monotonic() + pause > self._ends:
            raise error
        time.sleep(pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


class Calls:
    """A connection to one API as one caller. `timeout` is the seconds without a byte after which a call has failed.

    `first` is the patience with a server that has never answered and cannot be reached.
    """

    def __init__(self, url: str, credential: str | None, *, timeout: float, patience: float, first: float) -> None:
        self._url = f"{url.rstrip('/')}/api/v1"
        self._timeout = timeout
        self._first = first
        self._reached = False
        self._session = requests.Session()
        self.patience = patience
        if credential is not None:
            self.authorize(credential)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def authorize(self, credential: str) -> None:
        """Call with this token or key from now on."""
        self._session.headers["Authorization"] = f"Bearer {credential}"

    def ask(self, method: str, path: str, body: Any = None, *, again: bool | None = None, **more: Any) -> Any:
        """Return the answer's JSON, None if it has no content. See `call`."""
        response = self.call(method, path, again=again, json=body, **more)
        return response.json() if response.content else None

    def pages(self, path: str) -> Iterator[Any]:
        """Yield what a list has, page by page."""
        path += "?limit=1000"
        while path:
            response = self.call("GET", path)
            yield from response.json()
            _, _, path = response.links.get("next", {}).get("url", "").partition("/api/v1")

    def events(self, path: str) -> Iterator[tuple[str, Any]]:
        """Yield server-sent events, name and JSON, until `end`. Raises UnavailableError if they break off."""
        name = ""
        with self.call("GET", path, stream=True) as response:
            try:
                for line in response.iter_lines(chunk_size=1):
                    field, _, value = line.partition(b": ")
                    if field == b"event":
                        name = value.decode()
                    elif field == b"data":
                        yield name, json.loads(value)
            except requests.RequestException as error:
                raise _away(self._url, error) from error
        if name != END:
            raise UnavailableError(f"{self._url} does not answer any more", code=AWAY)

    def call(self, method: str, path: str, *, again: bool | None = None, **more: Any) -> requests.Response:
        """Call, and again while nobody answers, or 503 or 429 with a time to wait, for as long as the patience lasts.

        A call that may have been carried out is repeated only with `again` (None: if the method allows it).
        """
        patience = Patience(self.patience)
        given_up = time.monotonic() + self._first
        repeatable = method in REPEATABLE if again is None else again
        while True:
            try:
                return self.once(method, path, **more)
            except UnavailableError as error:
                if error.code == AWAY and not repeatable:
                    raise
                if error.code == UNREACHABLE and not self._reached and time.monotonic() > given_up:
                    raise
                patience.pause(error)
            except LimitedError as error:
                if error.retry_after is None:
                    raise
                patience.pause(error, error.retry_after)

    def once(self, method: str, path: str, **more: Any) -> requests.Response:
        """Call once. Raises the kind of KubeServeError that the API answers; UnavailableError if nobody answers."""
        waits = (CONNECT, more.pop("timeout", self._timeout))
        try:
            response = self._session.request(method, f"{self._url}{path}", timeout=waits, allow_redirects=False, **more)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _away(self._url, error) from error
        except requests.RequestException as error:
            raise KubeServeError(f"{self._url} cannot be called: {error}") from error
        self._reached = True
        if response.status_code >= requests.codes.bad_request:
            raise refusal(response)
        return response


def refusal(response: requests.Response) -> KubeServeError:
    """Return what an answer refuses, in the server's words."""
    said = _said(response)
    message = str(said.get("error") or f"the answer is {response.status_code} {response.reason}")
    code = said.get("code")
    if response.status_code == LimitedError.status:
        return LimitedError(message, code=code, retry_after=_seconds(response.headers.get("Retry-After")))
    faults = [Fault(str(fault.get("field")), str(fault.get("message"))) for fault in said.get("faults") or ()]
    error = KINDS.get(response.status_code, KubeServeError)(message, code=code, faults=faults)
    error.status = response.status_code
    return error


def _said(response: requests.Response) -> Mapping[str, Any]:
    """Return the body of a refusal. One that is not the API's, as a proxy's page, is its own message."""
    try:
        said = response.json()
    except requests.JSONDecodeError:
        return {"error": " ".join(response.text.split())[:LONGEST_TEXT]}
    return said if isinstance(said, dict) else {}


def _away(url: str, error: requests.RequestException) -> UnavailableError:
    """Say that nobody answers; the code is `unreachable` if the call cannot have been carried out."""
    reason = getattr(error.args[0], "reason", error.args[0]) if error.args else error
    untouched = isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError)
    if untouched:
        where = f"nothing answers at {url.removesuffix('/api/v1')}"
        unknown = isinstance(reason, NameResolutionError)
        return UnavailableError(f"{where}: its name is unknown" if unknown else where, code=UNREACHABLE)
    return UnavailableError(f"{url} does not answer: {reason}", code=AWAY)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None
