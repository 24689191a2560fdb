"""Reads a form with a file (RFC 7578) as it comes, in constant memory, whatever the order of its fields."""

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Final

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import ValidationError

from greenscale_worker.files.objects import Content, FileObjects
from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import Problem, of_validation
from greenscale_worker.gateway.file_schemas import FileRequest
from greenscale_worker.gateway.limits import check_bytes
from greenscale_worker.gateway.upload_places import LARGE

MOST_BYTES: Final = 200 * 1024 * 1024  # of a file
MOST_OF_FIELDS: Final = 64 * 1024  # bytes of all that is around it
LONGEST_FIELD: Final = 1024
FIELDS: Final = tuple(each.alias or name for name, each in FileRequest.model_fields.items())
CHUNK: Final = 64 * 1024
IDLE_SECONDS: Final = 60.0  # without a byte
LEAST_RATE: Final = 1024  # bytes a second, on average: a slow line has more, and a connection is not for ever
UNNAMED: Final = "file"
CLOSE: Final = {"Connection": "close"}


async def read_upload(call: Call, objects: FileObjects) -> tuple[FileRequest, Content]:
    """Store the file of a form; return its fields and its content, which is no file yet. Raises Problem."""
    reader = await _reader(call)
    fields, content = dict[str, str](), None
    try:
        while (part := await _next_part(reader)) is not None:
            name = _name(part, fields)
            if name == "file":
                fields[name] = _file_name(part)
                _request({"purpose": "batch", **fields})  # what came before it is wrong: say so before it is read
                content = await _stored(call, part, objects)
            else:
                fields[name] = await _text(part)
        request = _request(fields)
    except BaseException:
        if content is not None:
            await objects.discard(call.caller.tenant, content)
        raise
    assert content is not None  # noqa: S101  FileRequest needs the file
    return request, content


async def _stored(call: Call, part: BodyPartReader, objects: FileObjects) -> Content:
    tenant, account = call.caller.tenant, call.caller.account
    async with (
        AsyncExitStack() as place,
        aclosing(call.stored.counted(tenant, account, _chunks(call, part, place))) as chunks,
    ):
        return await objects.store(tenant, chunks)


async def _reader(call: Call) -> MultipartReader:
    """Check what can be known before the body is read. Raises Problem."""
    call.check_encoding()
    length = call.request.content_length
    if length is not None and length > MOST_BYTES + MOST_OF_FIELDS:
        raise _too_large()
    if call.request.content_type != "multipart/form-data":
        raise Problem("bad_request", "Content-Type: multipart/form-data is expected", param="Content-Type")
    if length is not None and call.caller.account is not None:
        check_bytes(call.caller.account, length)
    await call.stored.check(call.caller.account, max(0, (length or 0) - MOST_OF_FIELDS))
    with _problems():
        return await call.request.multipart()


async def _next_part(reader: MultipartReader) -> BodyPartReader | None:
    with _problems():
        async with asyncio.timeout(IDLE_SECONDS):
            part = await reader.next()
    if part is not None and not isinstance(part, BodyPartReader):
        raise Problem("bad_request", "a form within the form is not accepted", headers=CLOSE)
    return part


async def _chunks(call: Call, part: BodyPartReader, place: AsyncExitStack) -> AsyncIterator[bytes]:
    """Yield a file as it comes; a large one waits for its place. Raises Problem."""
    loop = asyncio.get_running_loop()
    size, begun_at, has_place = 0, loop.time(), False
    while chunk := await _chunk(part):
        size += len(chunk)
        if size > MOST_BYTES:
            raise _too_large()
        if loop.time() - begun_at > IDLE_SECONDS + size / LEAST_RATE:
            raise _too_slow()
        if call.request.content_length is None and call.caller.account is not None:
            check_bytes(call.caller.account, len(chunk))
        if size >= LARGE and not has_place:
            asked_at, has_place = loop.time(), True
            await place.enter_async_context(call.gateway.upload_places.place(call.caller.tenant))
            begun_at += loop.time() - asked_at
        yield chunk


async def _chunk(part: BodyPartReader) -> bytes:
    with _problems():
        async with asyncio.timeout(IDLE_SECONDS):
            while not part.at_eof():
                if chunk := await part.read_chunk(CHUNK):
                    return chunk
    return b""


async def _text(part: BodyPartReader) -> str:
    text = b""
    while chunk := await _chunk(part):
        text += chunk
        if len(text) > LONGEST_FIELD:
            name = (part.name or "")[:200]
            raise Problem("bad_field", f"{name}: at most {LONGEST_FIELD} bytes are accepted", param=name, headers=CLOSE)
    with _problems():
        return text.decode()


def _name(part: BodyPartReader, known: Collection[str]) -> str:
    with _problems():
        name = (part.name or "")[:200]
    if name not in FIELDS:
        said = f"{name or 'a part without a name'}: there is no such one; {', '.join(FIELDS)} are accepted"
        raise Problem("bad_field", said, param=name or None, headers=CLOSE)
    if name in known:
        raise Problem("bad_field", f"{name}: it is there twice", param=name, headers=CLOSE)
    return name


def _file_name(part: BodyPartReader) -> str:
    """Return the name without folders and control characters."""
    with _problems():
        name = re.split(r"[/\\]", part.filename or "")[-1]
    return "".join(char for char in name if char.isprintable())[:255] or UNNAMED


def _request(fields: dict[str, str]) -> FileRequest:
    try:
        return FileRequest.model_validate(fields)
    except ValidationError as error:
        raise of_validation(error) from None


@contextmanager
def _problems() -> Iterator[None]:
    """Raise what is wrong with a form, or with its arrival, as Problem."""
    try:
        yield
    except TimeoutError:
        raise _too_slow() from None
    except web.RequestPayloadError:
        raise Problem("bad_request", "the body breaks off", headers=CLOSE) from None
    except (ValueError, LookupError, RuntimeError, HttpProcessingError, web.HTTPRequestEntityTooLarge):
        raise Problem(
            "bad_request", "the body is cut short, or is not the form that Content-Type says", headers=CLOSE
        ) from None


def _too_large() -> Problem:
    return Problem("too_large", f"file: at most {MOST_BYTES} bytes are accepted", param="file", headers=CLOSE)


def _too_slow() -> Problem:
    said = f"the body did not arrive: no byte for {IDLE_SECONDS:g} s, or less than {LEAST_RATE} bytes a second"
    return Problem("request_timeout", said, headers=CLOSE)
