"""The gateway's HTTP interface, as far as the page needs it: one request per call, bounded in time and size.

requests rather than httpx: Streamlit brings it, so the image holds nothing more, and a page that runs top to bottom has
no use for async.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal
from urllib.parse import quote

import requests
import urllib3

from greenscale_dashboard.errors import GatewayError, Told, away, refusal, strange
from greenscale_dashboard.events import Event, read_events
from greenscale_dashboard.reading import count, fields, rows, text
from greenscale_dashboard.records import Batch, DeadLetter, History, Job, Page, Stats

URL: Final = "GREENSCALE_GATEWAY_URL"
KEY: Final = "GREENSCALE_GATEWAY_KEY"
DEFAULT_URL: Final = "http://127.0.0.1:8400"
CONNECT_SECONDS: Final = 3.0
ANSWER_SECONDS: Final = 10.0  # for a whole answer, however slowly it drips
LARGEST: Final = 16 * 1024 * 1024  # bytes of an answer; the endpoint's largest is 8 MiB
LARGEST_FILE: Final = 64 * 1024 * 1024  # bytes of a file of answers that the page passes on
UPLOAD_SECONDS: Final = 120.0  # for a file of 200 MiB
PIECE: Final = 64 * 1024
PAGE: Final = 20

Query = Mapping[str, str | int | float | None]


class Gateway:
    """Calls one gateway. Every method raises GatewayError. May be used by many threads at once."""

    def __init__(self, url: str = DEFAULT_URL, key: str = "") -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._session = requests.Session()
        self._session.auth = self._sign  # also keeps a .netrc from being used instead

    def submit(self, body: Mapping[str, Any]) -> Job:
        """Hand in a job. The same id again, while the first is known, is the same job."""
        return Job.read(self._ask("POST", "/v1/jobs", body=body))

    def job(self, job_id: str) -> Job:
        """Look a job up, with its answer if it has one."""
        return Job.read(self._ask("GET", f"/v1/jobs/{_segment(job_id)}", {"include": "result"}))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended."""
        return Job.read(self._ask("DELETE", f"/v1/jobs/{_segment(job_id)}"))

    def jobs(self, *, state: str | None, code: str | None, after: str | None, limit: int = PAGE) -> Page[Job]:
        """List jobs, those that are open first."""
        query: Query = {"state": state, "code": code, "after": after, "limit": limit}
        answer = fields(self._ask("GET", "/v1/jobs", query))
        return Page([Job.read(each) for each in rows(answer.get("data"))], _next(answer))

    def events(self, job_id: str, after: str, seconds: float) -> list[Event]:
        """Return the events of a job since the one with the id `after`, and those of the next few seconds."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        path = f"/v1/jobs/{_segment(job_id)}/events"
        try:
            with self._send("GET", path, headers=headers, patience=seconds) as reply:
                self._check(reply, b"")
                return list(read_events(_until(reply, time.monotonic() + seconds)))
        except requests.RequestException as error:
            raise away(self.url, _why(error)) from None

    def dead(self, *, code: str | None, after: str | None, limit: int = PAGE) -> Page[DeadLetter]:
        """List dead letters."""
        answer = fields(self._ask("GET", "/v1/dead", {"code": code, "after": after, "limit": limit}))
        return Page([DeadLetter.read(each) for each in rows(answer.get("data"))], _next(answer))

    def dead_letter(self, letter_id: str) -> DeadLetter:
        """Return a dead letter with its payload."""
        return DeadLetter.read(self._ask("GET", f"/v1/dead/{_segment(letter_id)}"))

    def dead_codes(self) -> dict[str, int]:
        """Count dead letters by code."""
        found = rows(fields(self._ask("GET", "/v1/dead/codes")).get("data"))
        return {code: count(each.get("count")) or 0 for each in found if (code := text(each.get("code")))}

    def replay(self, letter_id: str) -> None:
        """Let the job of a dead letter run again."""
        self._ask("POST", f"/v1/dead/{_segment(letter_id)}/replay")

    def replay_code(self, code: str) -> int | None:
        """Let the jobs of all dead letters with this code run again. Returns how many, if the gateway says so."""
        return count(fields(self._ask("POST", "/v1/dead/replay", body={"code": code})).get("replayed"))

    def create_batch(self, content: bytes, name: str, *, endpoint: str, window: str, key: str) -> Batch:
        """Upload a file of lines and begin a batch of it. The same `key` again is the same batch."""
        form = {"purpose": (None, "batch"), "file": (name, content, "application/jsonl")}
        file = fields(self._ask("POST", "/v1/files", files=form, patience=UPLOAD_SECONDS))
        asked = {"input_file_id": text(file.get("id")) or "", "endpoint": endpoint, "completion_window": window}
        return Batch.read(self._ask("POST", "/v1/batches", body=asked, headers={"Idempotency-Key": key}))

    def batches(self, *, after: str | None, limit: int = PAGE) -> Page[Batch]:
        """List batches, the latest first."""
        answer = fields(self._ask("GET", "/v1/batches", {"after": after, "limit": limit}))
        return Page([Batch.read(each) for each in rows(answer.get("data"))], _next(answer))

    def batch(self, batch_id: str) -> Batch:
        """Look a batch up."""
        return Batch.read(self._ask("GET", f"/v1/batches/{_segment(batch_id)}"))

    def cancel_batch(self, batch_id: str) -> Batch:
        """Cancel a batch that has not ended."""
        return Batch.read(self._ask("POST", f"/v1/batches/{_segment(batch_id)}/cancel"))

    def resubmit(self, batch_id: str) -> Batch:
        """Begin a batch of the lines that failed in another one."""
        return Batch.read(self._ask("POST", f"/v1/batches/{_segment(batch_id)}/resubmit"))

    def lines(self, batch_id: str, part: Literal["output", "errors"]) -> bytes:
        """Return the lines of output or of errors that a batch has so far."""
        return self._bytes(
            "GET", f"/v1/batches/{_segment(batch_id)}/{part}", most=LARGEST_FILE, patience=UPLOAD_SECONDS
        )

    def stats(self) -> Stats:
        """Return the queue as it is now."""
        return Stats.read(self._ask("GET", "/v1/stats"))

    def history(self, since: str, step: int, *, replicas: float | None = None, price: float | None = None) -> History:
        """Return the past since so long ago (`24h`), in steps of so many seconds."""
        query: Query = {"since": since, "step": step, "replicas": replicas, "price": price}
        return History.read(self._ask("GET", "/v1/stats/history", query))

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _ask(self, method: str, path: str, query: Query | None = None, body: Any = None, **more: Any) -> Any:
        return self._parse(*self._whole(method, path, query=query, body=body, **more))

    def _bytes(self, method: str, path: str, **more: Any) -> bytes:
        return self._whole(method, path, **more)[1]

    def _whole(
        self, method: str, path: str, *, most: int | None = None, patience: float | None = None, **more: Any
    ) -> tuple[requests.Response, bytes]:
        most, patience = most or LARGEST, patience or ANSWER_SECONDS
        try:
            with self._send(method, path, patience=patience, **more) as reply:
                said = b"".join(_whole(reply, time.monotonic() + patience, most))
        except requests.RequestException as error:
            raise away(self.url, _why(error)) from None
        except OverflowError:
            raise strange(self.url, f"an answer of more than {most // 1024 // 1024} MiB") from None
        self._check(reply, said)
        return reply, said

    def _send(  # noqa: PLR0913  what a request consists of
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        files: Any = None,
        headers: Mapping[str, str] | None = None,
        patience: float = ANSWER_SECONDS,
    ) -> requests.Response:
        try:
            return self._session.request(
                method,
                self.url + path,
                params={name: value for name, value in (query or {}).items() if value is not None},
                json=body,
                files=files,
                headers=headers,
                timeout=(CONNECT_SECONDS, patience),
                stream=True,
                allow_redirects=False,  # the key is for this gateway alone
            )
        except (requests.RequestException, ValueError) as error:  # ValueError: an address that is none
            raise away(self.url, _why(error)) from None

    def _check(self, reply: requests.Response, said: bytes) -> None:
        """Raise what a status that is no success means."""
        if reply.is_redirect:
            raise strange(self.url, f"it sends us elsewhere (HTTP {reply.status_code})")
        if not reply.ok:
            raise refusal(reply.status_code, _told(reply, said), has_key=bool(self._key))

    def _parse(self, reply: requests.Response, said: bytes) -> Any:
        if not said:
            return {}
        with suppress(ValueError, RecursionError):
            if isinstance(answer := json.loads(said), dict):
                return answer
        kind = reply.headers.get("Content-Type", "no type").partition(";")[0]
        raise strange(self.url, f"{kind} instead of a JSON object")


def from_environment() -> Gateway:
    """Return the gateway that the environment names."""
    return Gateway(os.environ.get(URL) or DEFAULT_URL, (os.environ.get(KEY) or "").strip())


def _segment(name: str) -> str:
    """Write an id as one segment of a path. A dot or two would name another path, however they are written."""
    if name in {"", ".", ".."}:
        raise GatewayError("unknown", "No job can be looked up by this id.", "Look for it in the list.", name)
    return quote(name, safe="")


def _whole(reply: requests.Response, ends: float, most: int) -> Iterator[bytes]:
    """Read an answer. Raises OverflowError where it is too large, ReadTimeout where it takes too long."""
    size = 0
    for piece in _pieces(reply):
        yield piece
        size += len(piece)
        if size > most:
            raise OverflowError
        if time.monotonic() > ends:
            raise requests.ReadTimeout


def _until(reply: requests.Response, ends: float) -> Iterator[bytes]:
    """Read what comes before the time is over; an answer that is cut, or pauses, has ended."""
    with suppress(requests.RequestException):
        for piece in _pieces(reply):
            yield piece
            if time.monotonic() > ends:
                return


def _pieces(reply: requests.Response) -> Iterator[bytes]:
    """Read an answer as it comes. `iter_content` would wait until a piece is full, however slowly its bytes drip."""
    try:
        while piece := reply.raw.read1(PIECE, decode_content=True):
            yield piece
    except urllib3.exceptions.ReadTimeoutError:
        raise requests.ReadTimeout from None
    except urllib3.exceptions.HTTPError:
        raise requests.ConnectionError from None


def _told(reply: requests.Response, said: bytes) -> Told:
    """Read what the gateway says of an error; nothing where it is not in the form of one."""
    try:
        problem = fields(json.loads(said))
    except (ValueError, RecursionError):
        problem = {}
    detail = text(problem.get("detail")) or text(fields(problem.get("error")).get("message"))
    return Told(text(problem.get("title")) or "", detail or "", reply.headers.get("Retry-After", ""))


def _next(answer: Mapping[str, Any]) -> str | None:
    return text(answer.get("last_id")) if answer.get("has_more") is True else None


def _why(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted, or it speaks no TLS"
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema | ValueError):
        return "this is no address such as http://127.0.0.1:8400"
    if "Name or service not known" in str(error) or "NameResolutionError" in str(error):
        return "no such host"
    return "connection refused" if "refused" in str(error) else "the connection broke"
