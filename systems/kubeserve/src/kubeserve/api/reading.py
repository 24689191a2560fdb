"""Reads what a request says, within bounds of size and time."""

import asyncio
from typing import Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from kubeserve.errors import Fault, KubeServeError, TooLargeError

LARGEST_JSON: Final = 64 * 1024
BODY_SECONDS: Final = 20.0
MOST_FAULTS: Final = 20
Shape = TypeVar("Shape", bound=BaseModel)


class SlowError(KubeServeError):
    """A request that does not come to its end."""

    status = 408
    code = "slow"


async def read_body(request: web.Request, largest: int) -> bytes:
    """Read the content, of at most `largest` bytes. Raises TooLargeError, SlowError, or KubeServeError if it breaks."""
    if request.content_length is not None and request.content_length > largest:
        raise _too_large(largest)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > largest:
                    raise _too_large(largest)
    except TimeoutError:
        raise SlowError(f"the content was not here after {BODY_SECONDS:g} s: send it faster, or in parts") from None
    except web.RequestPayloadError:
        raise KubeServeError("the content broke off, or is not as its headers say", code="broken_body") from None
    return bytes(body)


async def read_shape(request: web.Request, shape: type[Shape]) -> Shape:
    """Read JSON. No content at all is an empty object. Raises KubeServeError with a fault for each field."""
    body = await read_body(request, LARGEST_JSON)
    try:
        return shape.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise _refusal(error) from None


def read_query(request: web.Request, shape: type[Shape]) -> Shape:
    """Read the parameters of the query. Raises KubeServeError with a fault for each."""
    try:
        return shape.model_validate_strings(dict(request.query))
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> KubeServeError:
    told = error.errors(include_url=False, include_input=False, include_context=False)
    if told[0]["type"] == "json_invalid":
        return KubeServeError(f"the content is not JSON: {told[0]['msg']}", code="bad_json")
    faults = [
        Fault(".".join(str(part)[:100] for part in each["loc"]) or "body", each["msg"].removeprefix("Value error, "))
        for each in told[:MOST_FAULTS]
    ]
    return KubeServeError("; ".join(f"{fault.field}: {fault.message}" for fault in faults[:3]), faults=faults)


def _too_large(largest: int) -> TooLargeError:
    return TooLargeError(f"at most {largest // 1024} KiB of content are accepted here")
