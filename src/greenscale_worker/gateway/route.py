"""One route of the gateway: how it is called, who answers, and with what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from greenscale_worker.gateway.core import Handler

Scope = Literal["submit", "read", "cancel", "batch", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
TEXT: Final = "text/plain"
EVENTS: Final = "text/event-stream"
HTML: Final = "text/html"
BINARY: Final = "application/octet-stream"
FORM: Final = "multipart/form-data"
LONGEST_KEY: Final = 255  # characters of an Idempotency-Key
LIMITS: Final[Mapping[str, Mapping[str, int]]] = {"Idempotency-Key": {"minLength": 1, "maxLength": LONGEST_KEY}}
HEADERS: Final[Mapping[str, str]] = {
    "Prefer": "`wait=N`: answer when the job has ended, or after N seconds, 600 at most (RFC 7240).",
    "Idempotency-Key": "The same key with the same body is the same job, however often it is sent.",
    "Accept": "`application/json`: the endpoint's whole answer, if the job's `keep` is `body`.",
    "If-None-Match": "An `ETag`: 304 if nothing has changed since.",
    "Range": "`bytes=0-1023`: only these bytes (RFC 9110).",
    "Last-Event-ID": "The id of the last event that was received: go on behind it.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method and a path. `scope` is what a key must be allowed to do; None: everybody may ask.

    `whole`: it is about the whole queue, so a tenant's key is refused. `answers` are a model, or a media type, by
    status; problems are not listed. `headers` are keys of HEADERS. `also`: a media type that the first of them may
    have instead. `pattern` is aiohttp's form of the path, where it differs. `takes` is the body's media type.
    """

    method: str
    path: str
    handler: "Handler"
    summary: str
    scope: Scope | None
    answers: Mapping[int, type[BaseModel] | str]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    takes: str = "application/json"
    headers: tuple[str, ...] = ()
    whole: bool = False
    also: str = ""
    pattern: str = ""

    @property
    def name(self) -> str:
        """Its name in the metrics."""
        return f"{self.method} {self.path}"
