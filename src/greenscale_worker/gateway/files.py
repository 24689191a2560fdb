"""`/v1/files`: files for batches, as OpenAI's clients upload, list, read and delete them."""

from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

from aiohttp import hdrs, web

from greenscale_worker.errors import FilesUnavailableError
from greenscale_worker.files.objects import LONGEST, FileObject
from greenscale_worker.gateway import sse
from greenscale_worker.gateway.core import Call
from greenscale_worker.gateway.errors import Problem
from greenscale_worker.gateway.file_schemas import FileDeleted, FileDescription, FileList, FileRequest, FilesQuery
from greenscale_worker.gateway.job_objects import json
from greenscale_worker.gateway.route import BINARY, FORM, Route
from greenscale_worker.gateway.uploads import read_upload

SLICE: Final = 64 * 1024  # bytes that a client has a minute to take


async def upload_file(call: Call) -> web.Response:
    """POST /v1/files."""
    objects = call.file_objects
    asked, content = await read_upload(call, objects)
    file = await objects.create(
        call.caller.tenant,
        content,
        filename=asked.file,
        purpose=asked.purpose,
        expires_after=LONGEST if asked.seconds is None else asked.seconds,
    )
    return json(told(file))


async def list_files(call: Call) -> web.Response:
    """GET /v1/files."""
    query: FilesQuery = call.query
    found, more = await call.file_objects.list(
        call.caller.tenant, after=query.after, limit=query.limit, order=query.order, purpose=query.purpose
    )
    first, last = (found[0].id, found[-1].id) if found else (None, None)
    data = [told(file) for file in found]
    return json({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more})


async def show_file(call: Call) -> web.Response:
    """GET /v1/files/{id}."""
    return json(told(await file_of(call, call.id)))


async def delete_file(call: Call) -> web.Response:
    """DELETE /v1/files/{id}."""
    file = await call.file_objects.delete(call.caller.tenant, call.id)
    if file is None:
        raise _no_such_file(call.id)
    call.stored.freed(call.caller.tenant, file.bytes)
    return json({"id": call.id, "object": "file", "deleted": True})


async def read_file(call: Call) -> web.StreamResponse:
    """GET /v1/files/{id}/content."""
    file = await file_of(call, call.id)
    start, end, status = _range(call, file)
    headers = {
        "Content-Type": BINARY,
        "Content-Length": str(end - start),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
    }
    if status == web.HTTPPartialContent.status_code:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.bytes}"
    chunks = call.file_objects.chunks(call.caller.tenant, file, start=start, end=end)
    return await stream(call, web.StreamResponse(status=status, headers=headers), chunks)


async def file_of(call: Call, file_id: str, param: str = "id") -> FileObject:
    """Return a file of the caller. Raises Problem `not_found`."""
    file = await call.file_objects.get(call.caller.tenant, file_id)
    if file is None:
        raise _no_such_file(file_id, param)
    return file


def told(file: FileObject) -> dict[str, Any]:
    """Return what is told of a file."""
    names = ("id", "bytes", "created_at", "expires_at", "filename", "purpose")
    return {**{name: getattr(file, name) for name in names}, "object": "file", "status": "processed"}


async def stream(call: Call, response: web.StreamResponse, chunks: AsyncIterator[bytes]) -> web.StreamResponse:
    """Send the bytes, the first of them read before the status is said. What fails later cuts the connection."""
    try:
        first = b"" if call.request.method == hdrs.METH_HEAD else await anext(chunks, b"")
    except KeyError:
        raise _no_such_file(call.id) from None
    await response.prepare(call.request)
    if call.request.method == hdrs.METH_HEAD:
        return response
    try:
        await _send(response, first)
        async for chunk in chunks:
            await _send(response, chunk)
    except (KeyError, FilesUnavailableError) as error:
        if isinstance(error, FilesUnavailableError):
            call.gateway.files_are_away(str(error))
        call.hang_up()
        raise ConnectionResetError("the rest cannot be read") from error
    await response.write_eof()
    return response


async def _send(response: web.StreamResponse, chunk: bytes) -> None:
    for start in range(0, len(chunk), SLICE):
        await sse.put(response, chunk[start : start + SLICE])


def _range(call: Call, file: FileObject) -> tuple[int, int, int]:
    """Return which bytes are asked for, and the status. A range that cannot be read is all of them (RFC 9110)."""
    whole = (0, file.bytes, web.HTTPOk.status_code)
    if "Range" not in call.request.headers:
        return whole
    try:
        asked = call.request.http_range
    except ValueError:
        return whole
    start, end, _ = asked.indices(file.bytes)
    if start >= end:
        headers = {"Content-Range": f"bytes */{file.bytes}"}
        raise Problem("range_not_satisfiable", f"Range: the file has {file.bytes} bytes", headers=headers)
    return start, end, web.HTTPPartialContent.status_code


def _no_such_file(file_id: str, param: str = "id") -> Problem:
    return Problem(
        "not_found", f"{param}: there is no file {file_id[:200]!r}: unknown, expired or deleted", param=param
    )


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/files",
        handler=upload_file,
        summary="Upload a file of 200 MiB at most, such as the lines of a batch.",
        scope="batch",
        body=FileRequest,
        takes=FORM,
        answers={200: FileDescription},
    ),
    Route(
        method="GET",
        path="/v1/files",
        handler=list_files,
        summary="List files, the latest first.",
        scope="batch",
        query=FilesQuery,
        answers={200: FileList},
    ),
    Route(
        method="GET",
        path="/v1/files/{id}",
        handler=show_file,
        summary="Show a file.",
        scope="batch",
        answers={200: FileDescription},
    ),
    Route(
        method="GET",
        path="/v1/files/{id}/content",
        handler=read_file,
        summary="Read a file's bytes.",
        scope="batch",
        headers=("Range",),
        answers={200: BINARY, 206: BINARY},
    ),
    Route(
        method="DELETE",
        path="/v1/files/{id}",
        handler=delete_file,
        summary="Delete a file and its bytes.",
        scope="batch",
        answers={200: FileDeleted},
    ),
)
