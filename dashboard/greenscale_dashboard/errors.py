"""What can go wrong between the page and the gateway, in words for the person who reads the page."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, Literal, NamedTuple

Kind = Literal["away", "key", "queue", "unknown", "refused", "strange"]
MAKE_A_KEY: Final = "Make one with `greenscale-worker keys create`, and set GREENSCALE_GATEWAY_KEY."
RETRY: Final = "Is Redis up? Jobs that were accepted are kept."
REFUSALS: Final[Mapping[int, tuple[Kind, str, str]]] = {
    HTTPStatus.UNAUTHORIZED: (
        "key",
        "The gateway refuses the key of this page.",
        f"It may be revoked or expired, or a slip. {MAKE_A_KEY}",
    ),
    HTTPStatus.FORBIDDEN: (
        "key",
        "The gateway does not let this page do this.",
        "Does the key in GREENSCALE_GATEWAY_KEY have the scope for it?",
    ),
    HTTPStatus.NOT_FOUND: (
        "unknown",
        "The gateway knows nothing of it.",
        "It may have expired, or the id is a slip.",
    ),
    HTTPStatus.NOT_IMPLEMENTED: (
        "refused",
        "The gateway keeps no files, which batches need.",
        "Set GREENSCALE_FILES where the gateway runs: a directory, or s3://bucket/prefix.",
    ),
    HTTPStatus.TOO_MANY_REQUESTS: ("refused", "The gateway's limit is reached.", "Try again later."),
}
LONGEST: Final = 500  # characters of what somebody else says about an error


class Told(NamedTuple):
    """What the gateway tells with a status: a problem of RFC 9457, and a header."""

    title: str = ""
    detail: str = ""
    retry_after: str = ""


class GatewayError(Exception):
    """A call that failed. `problem` says what is wrong, `remedy` what to do; `detail` is the other side's own words.

    `away`: no gateway answers. `key`: the key is missing, refused or may not do this. `queue`: the gateway is there,
    but its queue is not, or is full. `unknown`: there is no such thing (any more). `refused`: it does not accept what
    was asked. `strange`: what answers does not speak as a gateway does.
    """

    def __init__(self, kind: Kind, problem: str, remedy: str, detail: str = "") -> None:
        super().__init__(problem)
        self.kind, self.problem, self.remedy = kind, problem, remedy
        self.detail = detail if len(detail) <= LONGEST else f"{detail[:LONGEST]} …"


def away(url: str, why: str) -> GatewayError:
    """Nothing answers at this address, or not in time."""
    remedy = "Start it with `greenscale-worker serve`, or set GREENSCALE_GATEWAY_URL to where it is."
    return GatewayError("away", f"No gateway answers at {url} ({why}).", remedy)


def strange(url: str, what: str) -> GatewayError:
    """Something answers, but not as a gateway does."""
    remedy = "Does GREENSCALE_GATEWAY_URL name a gateway, and is it as new as this page?"
    return GatewayError("strange", f"What answers at {url} does not speak as a gateway does: {what}.", remedy)


def refusal(status: int, told: Told, *, has_key: bool) -> GatewayError:
    """Turn a status that is no success, and what the gateway told with it, into an error."""
    if status == HTTPStatus.UNAUTHORIZED and not has_key:
        return GatewayError("key", "The gateway asks for a key, and this page has none.", MAKE_A_KEY, told.detail)
    if status == HTTPStatus.TOO_MANY_REQUESTS and told.retry_after.isdecimal():
        when = f"Try again in {told.retry_after} s."
        return GatewayError("refused", "The gateway's limit is reached.", when, told.detail)
    if status in REFUSALS:
        detail = "" if status == HTTPStatus.NOT_IMPLEMENTED else told.detail  # the gateway's words are the same
        return GatewayError(*REFUSALS[status], detail)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        problem = told.title or "The gateway is there, but cannot reach its queue"
        return GatewayError("queue", f"{problem}.", RETRY, told.detail)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return GatewayError("strange", f"The gateway failed (HTTP {status}).", "Its log says why.", told.detail)
    problem = told.title or "The gateway does not accept this"
    return GatewayError("refused", f"{problem} (HTTP {status}).", "Nothing was done.", told.detail)
