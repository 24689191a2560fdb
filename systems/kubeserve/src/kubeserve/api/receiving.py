"""Uploads: a form with all files at once, or file by file in parts that can be resumed."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import BadHttpMessage

from kubeserve.api.answers import json_answer
from kubeserve.api.bodies import Finish
from kubeserve.api.call import Call
from kubeserve.api.models import shape_of
from kubeserve.api.shapes import FileShape, VersionShape
from kubeserve.domain import REQUIREMENTS, SAMPLE
from kubeserve.errors import Fault, KubeServeError
from kubeserve.uploads import Received

RANGE: Final = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")
PART_BYTES: Final = 256 * 1024
MOST_FIELDS: Final = 8
FIELD_SECONDS: Final = 30.0
LONGEST_IDENTITY: Final = 256
NAMED: Final = {"requirements": REQUIREMENTS, "sample": SAMPLE}  # fields that say which file they are
FORM: Final = (
    "a form (multipart/form-data) with the model, and requirements.txt and sample.json if there are any, is expected"
)


async def upload(call: Call) -> VersionShape:
    """Take a form with the model, requirements.txt and sample.json, in any order; then prove the version."""
    version_id = call.part("version_id")
    await call.plane.registry.version(call.owner_id, version_id)
    reader = await _form(call.request)
    try:
        for _ in range(MOST_FIELDS):
            async with asyncio.timeout(FIELD_SECONDS):
                field = await reader.next()
            if field is None:
                break
            await _take(call, version_id, field)
        else:
            raise _no_form(f"more than {MOST_FIELDS - 1} fields came")
    except TimeoutError:
        raise KubeServeError(f"nothing came for {FIELD_SECONDS:g} s: send it again", code="silent") from None
    except (ValueError, AssertionError, RuntimeError, LookupError, BadHttpMessage) as error:  # of aiohttp's reader
        raise _no_form("its parts are not as they should be") from error
    return await _finished(call, version_id, {})


async def put_file(call: Call) -> web.Response:
    """Take a file, or with `Content-Range: bytes FIRST-LAST/SIZE` a part of it. 201: it is whole; 200: go on.

    `Upload-Identity` is any text that tells this content from another, such as its hash.
    """
    offset, total = _range(call.request)
    received = await call.plane.uploads.receive(
        call.owner_id,
        call.part("version_id"),
        call.part("name"),
        call.request.content.iter_any(),
        offset=offset,
        total=total,
        identity=call.request.headers.get("Upload-Identity", "")[:LONGEST_IDENTITY],
    )
    told = FileShape.model_validate(received).model_dump(mode="json")
    return json_answer(told, 201 if received.complete else 200, _offset(received))


async def look_at_file(call: Call) -> web.Response:
    """Tell in `Upload-Offset` where to go on, and in `Upload-Length` how many bytes were announced."""
    name = call.part("name")
    offset = await call.plane.uploads.offset(call.owner_id, call.part("version_id"), name)
    held = await call.plane.uploads.received(call.owner_id, call.part("version_id"))
    total = next((file.total for file in held if file.name == name), None)
    length = {} if total is None else {"Upload-Length": str(total)}
    return web.Response(headers={"Upload-Offset": str(offset), **length})


async def remove_file(call: Call) -> None:
    """Forget a file of a version that is not finished."""
    await call.plane.uploads.remove(call.owner_id, call.part("version_id"), call.part("name"))


async def finish(call: Call, body: Finish) -> VersionShape:
    """Say that all files are there: the version is proved now."""
    return await _finished(call, call.part("version_id"), body.sha256)


async def _finished(call: Call, version_id: str, sha256: dict[str, str]) -> VersionShape:
    version = await call.plane.uploads.finish(call.owner_id, version_id, sha256)
    call.plane.intake.submit(version.id)
    return shape_of(version)


async def _form(request: web.Request) -> MultipartReader:
    if request.content_type != "multipart/form-data":
        raise _no_form("its Content-Type is another one")
    try:
        return await request.multipart()
    except (ValueError, AssertionError) as error:
        raise _no_form("its boundary is missing") from error


async def _take(call: Call, version_id: str, field: MultipartReader | BodyPartReader) -> None:
    if not isinstance(field, BodyPartReader) or field.headers.keys() & {
        "Content-Encoding",
        "Content-Transfer-Encoding",
    }:
        raise _no_form("a field is encoded")
    name = NAMED.get(field.name or "", field.filename)
    if not name:
        raise KubeServeError(
            f"{FORM}; a field without a file came", faults=[Fault(field.name or "", "a file is expected")]
        )
    await call.plane.uploads.receive(call.owner_id, version_id, name, _chunks(field, call.request))


async def _chunks(field: BodyPartReader, request: web.Request) -> AsyncIterator[bytes]:
    while chunk := await field.read_chunk(PART_BYTES):
        yield chunk
    if request.content.at_eof():  # the reader takes the end of the request for that of the file
        raise _no_form("its end is missing")


def _range(request: web.Request) -> tuple[int, int | None]:
    """Return where the content begins in the file, and the size of the file, if it is told."""
    length, header = request.content_length, request.headers.get("Content-Range")
    if header is None:
        return 0, length
    found = RANGE.fullmatch(header)
    if found is None:
        raise KubeServeError("Content-Range: `bytes FIRST-LAST/SIZE` is accepted", code="bad_range")
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    if last < first or (total is not None and last >= total) or (length is not None and length != last - first + 1):
        raise KubeServeError("Content-Range does not fit the content, or the size of the file", code="bad_range")
    return first, total


def _offset(received: Received) -> dict[str, str]:
    return {"Upload-Offset": str(received.size)}


def _no_form(why: str) -> KubeServeError:
    return KubeServeError(f"{FORM}; {why}", code="bad_form")
