"""Writes answers: JSON, and refusals that say what is wrong."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from kubeserve.errors import KubeServeError, LimitedError, UnauthenticatedError, UnavailableError
from kubeserve.uploads import OffsetError

RETRY_SECONDS: Final = 1.0
JSON: Final[Mapping[str, str]] = {"Content-Type": "application/json; charset=utf-8"}  # parsed by none
CODES: Final[Mapping[int, tuple[str, str]]] = {  # of what aiohttp refuses by itself
    404: ("not_found", "there is nothing at this path; /openapi.json tells what there is"),
    405: ("method_not_allowed", "this path does not know that method"),
    413: ("too_large", "that is more than is accepted"),
    417: ("bad_request", "the expectation cannot be met; 100-continue is accepted"),
}


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with JSON."""
    told = JSON if headers is None else {**JSON, **headers}
    return web.Response(body=orjson.dumps(value), status=status, headers=told)


def refusal(error: KubeServeError) -> web.Response:
    """Answer with what is wrong, and where it helps with when to come again."""
    headers = dict[str, str]()
    if isinstance(error, OffsetError):
        headers["Upload-Offset"] = str(error.offset)
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    wait = error.retry_after if isinstance(error, LimitedError) else None
    if isinstance(error, UnavailableError):
        wait = RETRY_SECONDS
    if wait is not None:
        headers["Retry-After"] = str(max(1, math.ceil(wait)))
    faults = [dataclasses.asdict(fault) for fault in error.faults]
    return json_answer({"error": error.message, "code": error.code, "faults": faults}, error.status, headers)


def http_refusal(error: web.HTTPException) -> web.Response:
    """Answer with what aiohttp refuses."""
    code, message = CODES.get(error.status, ("bad_request", "this is no request that is understood"))
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return json_answer({"error": message, "code": code, "faults": []}, error.status, headers)
