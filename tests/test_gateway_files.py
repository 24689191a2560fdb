"""Files at the gateway, with the `openai` client as it is and with callers that are less polite."""

import asyncio
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from openai.types import FileDeleted, FileObject

from greenscale_worker.errors import FilesUnavailableError
from greenscale_worker.files import Files, Stored, by_obstore
from greenscale_worker.files.objects import HOUR, LONGEST, Content, FileObjects, new_id
from greenscale_worker.files.store import open_files
from greenscale_worker.gateway import upkeep, upload_places, uploads
from harness.eventually import PATIENCE, eventually
from tests.support.api import Answer, Api, a_gateway
from tests.support.front import a_front
from tests.support.front import client_of as client_at
from tests.test_gateway_keys import holder
from tests.test_openai_client import strict

MIB: Final = 1024 * 1024
LINES: Final = b'{"custom_id": "a", "body": {}}\n'
FORM: Final = "multipart/form-data; boundary=b"


class Desk:
    """A gateway with files, and a client."""

    def __init__(self, api: Api, client: AsyncOpenAI, files: Files) -> None:
        self.api = api
        self.client = client
        self.files = files

    async def stored(self) -> list[str]:
        """All keys but those of expiry."""
        return [stored.key for prefix in ("files", "content") for stored in await self.files.list(prefix)]

    async def marks(self) -> list[str]:
        return [stored.key for stored in await self.files.list("expires")]


@asynccontextmanager
async def a_desk(redis_url: str, url: str = "memory:") -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        files = await stack.enter_async_context(aclosing(open_files(url)))
        api = await stack.enter_async_context(a_gateway(redis_url, files=files))
        client = await stack.enter_async_context(AsyncOpenAI(base_url=f"{api.url}/v1", api_key="unused"))
        yield Desk(api, client, files)


@pytest.fixture(params=["memory", "directory"])
async def desk(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with a_desk(redis_url, "memory:" if request.param == "memory" else str(tmp_path / "files")) as desk:
        yield desk


@pytest.fixture
async def quick(redis_url: str) -> AsyncIterator[Desk]:
    async with a_desk(redis_url) as desk:
        yield desk


async def upload(desk: Desk, content: bytes = LINES, name: str = "in.jsonl", **options: Any) -> FileObject:
    return await desk.client.files.create(file=(name, content), purpose="batch", **options)


async def test_a_file_is_uploaded_listed_read_and_deleted(desk: Desk) -> None:
    content = os.urandom(6 * MIB) + b"\r\n--b\r\n"
    file = await upload(desk, content)
    strict(FileObject, file)
    assert (file.bytes, file.filename, file.purpose, file.object) == (len(content), "in.jsonl", "batch", "file")
    assert file.expires_at == file.created_at + LONGEST
    assert await desk.client.files.retrieve(file.id) == file
    assert await desk.client.files.wait_for_processing(file.id) == file
    assert [each async for each in desk.client.files.list()] == [file]
    answer = await desk.client.files.content(file.id)
    assert answer.content == content
    async with desk.client.files.with_streaming_response.content(file.id) as streamed:
        assert b"".join([chunk async for chunk in streamed.iter_bytes()]) == content
    deleted = await desk.client.files.delete(file.id)
    strict(FileDeleted, deleted)
    assert deleted.deleted
    for gone in (desk.client.files.retrieve, desk.client.files.content, desk.client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await gone(file.id)
    assert await desk.stored() == await desk.marks() == [], "nothing is left of it"


async def test_an_empty_file_and_one_with_a_strange_name(quick: Desk) -> None:
    for name, kept in (
        ('ä/../b\\c "d\n.jsonl', "c %22d%0A.jsonl"),
        ("Zeile.jsonl", "Zeile.jsonl"),
        ("x" * 300, "x" * 255),
    ):
        file = await upload(quick, b"", name)
        assert (file.bytes, file.filename) == (0, kept)
        answer = await quick.api.get(f"/v1/files/{file.id}/content")
        assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")
        assert "\n" not in answer.headers["Content-Disposition"]


async def test_pages_of_many_files(quick: Desk) -> None:
    ids = [(await upload(quick, b"%d" % number)).id for number in range(25)]
    assert ids == sorted(ids)
    listed = quick.client.files.list
    assert [file.id async for file in listed(limit=4, order="asc")] == ids
    assert [file.id async for file in listed(limit=4)] == ids[::-1], "the latest first"
    assert [file.id async for file in listed(after=ids[20], order="asc")] == ids[21:]
    assert [file.id async for file in listed(purpose="batch_output")] == []
    page = await listed(limit=24, purpose="batch", order="asc")
    assert (page.has_more, len(page.data)) == (True, 24)
    assert not (await listed(limit=25)).has_more
    await quick.client.files.delete(ids[10])
    assert [file.id async for file in listed(limit=5, after=ids[11])] == ids[:10][::-1], "a cursor may be deleted, too"
    for query in ("limit=0", "limit=10001", "order=up", "before=x"):
        assert (await quick.api.get(f"/v1/files?{query}")).status == 400


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-4", 206, slice(0, 5)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-3", 206, slice(-3, None)),
        ("bytes=2-999999", 206, slice(2, None)),
        ("bytes=0-1,3-4", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=4-2", 200, slice(None)),
        ("bytes=999-", 416, None),
    ],
)
async def test_a_range(quick: Desk, asked: str, status: int, part: slice | None) -> None:
    file = await upload(quick)
    answer = await quick.api.get(f"/v1/files/{file.id}/content", headers={"Range": asked})
    assert answer.status == status
    if part is not None:
        assert answer.body == LINES[part]
        assert ("Content-Range" in answer.headers) == (status == 206)
    else:
        assert answer.headers["Content-Range"] == f"bytes */{len(LINES)}"
    async with quick.api.session.head(f"{quick.api.url}/v1/files/{file.id}/content") as head:
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(LINES)))


def field(name: str, value: str) -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def file_field(content: bytes = LINES, name: str = "file") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="in.jsonl"\r\n'
    return head.encode() + b"Content-Type: application/jsonl\r\n\r\n" + content + b"\r\n"


async def send(desk: Desk, body: Any) -> Answer:
    data = io.BytesIO(body) if isinstance(body, bytes) else body
    return await desk.api.call("POST", "/v1/files", data=data, headers={"Content-Type": FORM})


END: Final = b"--b--\r\n"
PURPOSE: Final = field("purpose", "batch")


async def test_fields_come_in_any_order_and_a_file_lives_as_long_as_they_say(desk: Desk) -> None:
    span = field("expires_after[anchor]", "created_at") + field("expires_after[seconds]", "3600")
    for body in (
        file_field(bytes(6 * MIB)) + span + PURPOSE + END,
        PURPOSE + span + file_field() + END,
        span + file_field() + PURPOSE + b"--b--",
    ):
        answer = await send(desk, body)
        assert answer.status == 200
        assert answer.json["expires_at"] == answer.json["created_at"] + HOUR
    after: Any = {"anchor": "created_at", "seconds": 7200}
    file = await upload(desk, expires_after=after)
    assert file.expires_at == file.created_at + 2 * HOUR


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (PURPOSE + END, "file: Field required"),
        (file_field() + END, "purpose: Field required"),
        (file_field() + field("purpose", "fine-tune") + END, "purpose: Input should be 'batch'"),
        (field("purpose", "vision") + file_field() + END, "purpose: Input should be 'batch'"),
        (PURPOSE + file_field() + file_field() + END, "file: it is there twice"),
        (PURPOSE + file_field() + PURPOSE + END, "purpose: it is there twice"),
        (PURPOSE + file_field() + field("colour", "red") + END, "colour: there is no such one"),
        (file_field() + field("purpose", "b" * 2000) + END, "purpose: at most 1024 bytes"),
        (file_field() + PURPOSE + field("expires_after[seconds]", "5") + END, "expires_after[seconds]: "),
        (file_field() + PURPOSE + field("expires_after[seconds]", "soon") + END, "expires_after[seconds]: "),
        (file_field() + PURPOSE + field("expires_after[anchor]", "now") + END, "expires_after[anchor]: "),
        (PURPOSE + file_field(), "is cut short"),
        (file_field() + PURPOSE, "is cut short"),
        (PURPOSE + file_field()[:-20], "is cut short"),
        (PURPOSE + file_field(bytes(6 * MIB))[:-20], "is cut short"),
        (b"", "is cut short"),
        (b"--c\r\n", "is cut short"),
        (LINES, "is cut short"),
        (PURPOSE + b"--b\r\nContent-Disposition: form-data; name=x\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n"
         b"--c\r\n\r\nx\r\n--c--\r\n" + END, "a form within the form"),
    ],
)  # fmt: skip
async def test_a_form_that_is_wrong_is_refused_and_leaves_nothing(desk: Desk, body: bytes, said: str) -> None:
    answer = await send(desk, body)
    assert (answer.status, said in answer.json["detail"]) == (400, True), answer
    assert await desk.stored() == await desk.marks() == []


def of_latin(name: str) -> bytes:
    return field(name, "x").replace("é".encode(), b"\xe9")


@pytest.mark.parametrize(
    "body",
    [
        of_latin("é") + END,
        file_field().replace(b"in.jsonl", b"\xff.jsonl") + of_latin("é") + END,
        b"".join(field(f"f{number}", "x" * 1000) for number in range(10_000)) + END,
        PURPOSE + file_field() + b"".join(field(f"f{number}", "x" * 1000) for number in range(10_000)) + END,
        file_field() + b"--b\r\n" + b"X: y\r\n" * 5000 + b"\r\nx\r\n" + END,
        file_field() + b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\nx\r\n" + END,
    ],
    ids=["no UTF-8", "no UTF-8 behind a file", "10,000 fields", "10,000 fields behind a file", "headers", "a header"],
)
async def test_a_form_is_read_no_further_than_what_is_wrong_with_it(
    quick: Desk, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = 0
    next_part = uploads._next_part  # noqa: SLF001  what is read of the form is counted

    async def counted(reader: Any) -> Any:
        nonlocal parts
        parts += 1
        return await next_part(reader)

    monkeypatch.setattr(uploads, "_next_part", counted)
    answer = await send(quick, body)
    assert answer.status == 400, answer
    assert parts <= 3
    assert await quick.stored() == await quick.marks() == []


async def test_slow_uploads_of_a_tenant_keep_neither_others_nor_the_store_waiting(
    quick: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = [await holder(quick.api, tenant=tenant, scopes=("batch",)) for tenant in ("a", "b")]
    large = PURPOSE + file_field(bytes(7 * MIB)) + END
    form = {"Content-Type": FORM}
    async with AsyncExitStack() as stack:
        for kib in (*(6 * 1024,) * upload_places.MOST_OF_ONE, *(400,) * 10):
            await stack.enter_async_context(half_sent(quick, large[: kib * 1024], len(large), **a.headers))
        places = quick.api.gateway.upload_places
        await eventually(lambda: places.waiting("a") == 10)
        answer = await quick.api.call("POST", "/v1/files", data=io.BytesIO(large), headers=b.headers | form)
        assert answer.status == 200
        small = PURPOSE + file_field() + END
        answer = await quick.api.call("POST", "/v1/files", data=small, headers=a.headers | form)
        assert answer.status == 200, "a small one needs no place"
        assert await quick.files.write("parts/a", _large()) == 7 * MIB, "nor do the outputs of batches"
        monkeypatch.setattr(upload_places, "PATIENCE_SECONDS", 0.01)
        answer = await quick.api.call("POST", "/v1/files", data=io.BytesIO(large), headers=a.headers | form)
        assert (answer.status, answer.json["error"]["param"]) == (429, "uploads")
    await eventually(lambda: places.waiting("a") == 0)
    answer = await quick.api.call("POST", "/v1/files", data=io.BytesIO(large), headers=a.headers | form)
    assert answer.status == 200, "who leaves gives its place back"
    assert upload_places.MOST < by_obstore.WRITERS


async def _large() -> AsyncIterator[bytes]:
    yield bytes(7 * MIB)


async def test_what_is_no_form_or_compressed_is_refused(quick: Desk) -> None:
    for headers, status in (
        ({"Content-Type": "application/json"}, 400),
        ({"Content-Type": "multipart/form-data"}, 400),
        ({"Content-Type": f"multipart/form-data; boundary={'b' * 80}"}, 400),
        ({"Content-Type": FORM, "Content-Encoding": "gzip"}, 415),
    ):
        answer = await quick.api.call("POST", "/v1/files", data=PURPOSE + file_field() + END, headers=headers)
        assert answer.status == status, headers
    assert await quick.stored() == []


@pytest.mark.parametrize("length", [True, False])
async def test_a_file_that_is_too_large_is_refused(
    quick: Desk, monkeypatch: pytest.MonkeyPatch, *, length: bool
) -> None:
    monkeypatch.setattr(uploads, "MOST_BYTES", 6 * MIB)
    exact = await upload(quick, bytes(6 * MIB))
    assert exact.bytes == 6 * MIB
    body = PURPOSE + file_field(bytes(6 * MIB + 1)) + END

    async def chunked() -> AsyncIterator[bytes]:
        yield body

    data: Any = body if length else chunked()
    answer = await send(quick, data)
    assert (answer.status, answer.code) == (413, "too_large")
    assert await quick.stored() == [f"files/_/{exact.id}", f"content/_/{exact.id}"]


@asynccontextmanager
async def half_sent(desk: Desk, sent: bytes, length: int, **headers: str) -> AsyncIterator[asyncio.StreamReader]:
    """Send a part of a body; leave without the rest."""
    port = int(desk.api.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: {length}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    writer.write(head.encode() + sent)
    await writer.drain()
    yield reader
    writer.transport.abort()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110  the store is asked
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kib", [200, 7 * 1024])
async def test_an_upload_that_is_cut_in_the_middle_leaves_nothing(desk: Desk, kib: int) -> None:
    async def begun() -> bool:
        return bool(await desk.marks())

    async def nothing() -> bool:
        return not await desk.stored() and not await desk.marks()

    sent = PURPOSE + file_field(bytes(kib * 1024))[:-2]
    async with half_sent(desk, sent, len(sent) + 1000):
        await until(begun)
    await until(nothing)


async def test_an_upload_that_is_slow_is_taken_and_one_that_stops_is_not(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(uploads, "LEAST_RATE", 1)

    async def slowly() -> AsyncIterator[bytes]:
        body = PURPOSE + file_field(LINES * 10) + END
        for start in range(0, len(body), 16):
            yield body[start : start + 16]
            await asyncio.sleep(0.05)  # the whole takes longer than it may be silent

    answer = await send(desk, slowly())
    assert (answer.status, answer.json["bytes"]) == (200, 10 * len(LINES))
    async with half_sent(desk, PURPOSE + file_field()[:-2], 10_000) as reader, asyncio.timeout(PATIENCE):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(uploads, "LEAST_RATE", 10_000)
    answer = await send(desk, slowly())
    assert (answer.status, answer.code) == (408, "request_timeout")
    assert len(await desk.stored()) == 2


async def test_a_reader_that_leaves_and_content_that_vanishes(quick: Desk) -> None:
    file = await upload(quick, bytes(20 * MIB))
    async with quick.api.session.get(f"{quick.api.url}/v1/files/{file.id}/content") as response:
        await response.content.readexactly(MIB)
        await quick.files.delete([f"content/_/{file.id}"])
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert (await quick.api.get(f"/v1/files/{file.id}/content")).status == 404
    other = await upload(quick, bytes(20 * MIB))
    async with quick.api.session.get(f"{quick.api.url}/v1/files/{other.id}/content") as response:
        await response.content.readexactly(MIB)
    assert (await quick.client.files.content(other.id)).content == bytes(20 * MIB), "the gateway goes on"


async def test_nobody_sees_the_files_of_another_tenant(quick: Desk) -> None:
    a, b = (
        await holder(quick.api, scopes=("batch",), tenant="a"),
        await holder(quick.api, scopes=("batch",), tenant="b"),
    )
    none = await holder(quick.api, scopes=("admin",))
    form = {"Content-Type": FORM}
    body = PURPOSE + file_field() + END
    answer = await quick.api.call("POST", "/v1/files", data=body, headers=a.headers | form)
    path = f"/v1/files/{answer.json['id']}"
    for stranger in (b, none):
        assert (await stranger.call("GET", path)).status == 404
        assert (await stranger.call("GET", f"{path}/content")).status == 404
        assert (await stranger.call("DELETE", path)).status == 404
        assert (await stranger.call("GET", "/v1/files")).json["data"] == []
        assert (await stranger.call("GET", f"/v1/files?after={answer.json['id']}")).json["data"] == []
    assert (await a.call("GET", path)).json == answer.json
    assert (await a.call("GET", f"{path}/content")).body == LINES
    reader = await holder(quick.api, scopes=("read",), tenant="a")
    assert (await reader.call("GET", path)).code == "missing_scope"
    assert (await quick.api.get(path)).code == "invalid_api_key"
    assert (await a.call("DELETE", path)).status == 200


@pytest.mark.parametrize("bad", ["..", "file-1", "_", f"file-{'g' * 32}", f"../b/file-{'0' * 32}", "a%2Fb", "%00"])
async def test_an_id_that_no_file_has(quick: Desk, bad: str) -> None:
    for path in (f"/v1/files/{bad}", f"/v1/files/{bad}/content"):
        answer = await quick.api.get(path)
        assert answer.status in (404, 405), answer


async def test_a_limit_on_bytes_holds_for_uploads(quick: Desk) -> None:
    key = await holder(quick.api, scopes=("batch",), limits={"bytes_per_minute": 1000})
    form = {"Content-Type": FORM}
    body = PURPOSE + file_field(bytes(800)) + END
    assert (await quick.api.call("POST", "/v1/files", data=body, headers=key.headers | form)).status == 200
    refused = await quick.api.call("POST", "/v1/files", data=body, headers=key.headers | form)
    assert (refused.status, refused.json["error"]["param"]) == (429, "bytes_per_minute")

    async def chunked() -> AsyncIterator[bytes]:
        yield body

    refused = await quick.api.call("POST", "/v1/files", data=chunked(), headers=key.headers | form)
    assert refused.status == 429
    assert len(await quick.stored()) == 2


@asynccontextmanager
async def a_quota(desk: Desk, **limits: int) -> AsyncIterator[AsyncOpenAI]:
    """A client of the tenant `a`."""
    key = await holder(desk.api, scopes=("batch",), tenant="a", limits=limits)
    token = key.headers["Authorization"].removeprefix("Bearer ")
    async with AsyncOpenAI(base_url=f"{desk.api.url}/v1", api_key=token) as client:
        yield client


async def test_a_tenant_stores_no_more_than_its_key_allows(desk: Desk) -> None:
    async with a_quota(desk, stored_bytes=1000) as client, a_quota(desk) as unlimited:
        small = await client.files.create(file=("a", bytes(300)), purpose="batch")
        await client.files.create(file=("a", bytes(700)), purpose="batch")
        with pytest.raises(openai.RateLimitError, match="1000 are stored already; delete") as refused:
            await client.files.create(file=("a", b"1"), purpose="batch")
        assert (refused.value.code, refused.value.param) == ("insufficient_quota", "stored_bytes")
        assert refused.value.response.request.headers["x-stainless-retry-count"] == "0", "trying again does not help"
        assert len(await desk.stored()) == 4
        await client.files.delete(small.id)
        await client.files.create(file=("a", bytes(300)), purpose="batch")
        await unlimited.files.create(file=("a", bytes(300)), purpose="batch")
        with pytest.raises(openai.RateLimitError, match="1300 are stored"):
            await client.batches.create(
                input_file_id=small.id, endpoint="/v1/chat/completions", completion_window="24h"
            )


async def test_what_was_stored_before_and_by_batches_counts_and_is_counted_now_and_then(
    quick: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, looks = FileObjects(quick.files), list[str]()
    await objects.store("a", content(bytes(400)))
    await quick.files.create("parts/a/batch_1/output/1.jsonl", bytes(500))
    await quick.files.create("parts/ab/batch_1/output/1.jsonl", bytes(5000))
    look = quick.files.list

    async def counted(prefix: str, **options: Any) -> list[Stored]:
        looks.append(prefix)
        return await look(prefix, **options)

    monkeypatch.setattr(quick.files, "list", counted)
    async with a_quota(quick, stored_bytes=1000) as client:
        for _ in range(10):
            await client.files.create(file=("a", bytes(10)), purpose="batch")
        with pytest.raises(openai.RateLimitError, match="1000 are stored"):
            await client.files.create(file=("a", b"1"), purpose="batch")
    assert looks.count("content/a") == 1
    assert looks.count("parts/a") == 1


async def test_uploads_at_the_same_time_count_together(quick: Desk) -> None:
    key = await holder(quick.api, scopes=("batch",), tenant="a", limits={"stored_bytes": MIB})
    stored, more, body = quick.api.gateway.stored, asyncio.Event(), PURPOSE + file_field(bytes(600 * 1024)) + END
    assert stored is not None

    async def slowly() -> AsyncIterator[bytes]:
        yield body[: 590 * 1024]
        await more.wait()
        yield body[590 * 1024 :]

    async def has_arrived() -> bool:
        return stored._arriving["a"] >= 500 * 1024  # noqa: SLF001  shown to nobody

    async def whole() -> AsyncIterator[bytes]:
        yield body

    form = key.headers | {"Content-Type": FORM}
    first = asyncio.create_task(quick.api.call("POST", "/v1/files", data=slowly(), headers=form))
    await until(has_arrived)
    for data in (io.BytesIO(body), whole()):
        refused = await quick.api.call("POST", "/v1/files", data=data, headers=form)
        assert (refused.status, refused.code) == (429, "insufficient_quota")
    more.set()
    assert (await first).status == 200
    assert not stored._arriving  # noqa: SLF001  shown to nobody
    assert len(await quick.stored()) == 2


async def test_without_a_store_files_are_refused_and_not_asked_for_again(redis_url: str) -> None:
    async with a_gateway(redis_url) as api, AsyncOpenAI(base_url=f"{api.url}/v1", api_key="x") as client:
        with pytest.raises(openai.InternalServerError, match="GREENSCALE_FILES") as raised:
            await client.files.create(file=("a", LINES), purpose="batch")
        assert (raised.value.status_code, raised.value.code) == (501, "files_not_configured")
        assert raised.value.response.request.headers["x-stainless-retry-count"] == "0"
        for path in ("/v1/files", f"/v1/files/{new_id(0)}", f"/v1/files/{new_id(0)}/content"):
            assert (await api.get(path)).code == "files_not_configured"


@pytest.mark.parametrize(("full", "status", "code"), [(False, 503, "files_unavailable"), (True, 507, "files_full")])
async def test_a_store_that_is_away_or_full(  # noqa: PLR0913  fixtures
    quick: Desk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    code: str,
    *,
    full: bool,
) -> None:
    async def away(*_args: object, **_options: object) -> None:
        raise FilesUnavailableError("a word of the store", full=full)

    for name in ("create", "write", "read", "list", "delete"):
        monkeypatch.setattr(quick.files, name, away)
    answers = [
        await quick.api.call("POST", "/v1/files", data=PURPOSE + file_field() + END, headers={"Content-Type": FORM}),
        await quick.api.get("/v1/files"),
        await quick.api.get(f"/v1/files/{new_id(0)}"),
        await quick.api.call("DELETE", f"/v1/files/{new_id(0)}"),
    ]
    for answer in answers:
        assert (answer.status, answer.code) == (status, code)
        assert "a word of the store" not in answer.json["detail"]
        assert int(answer.headers["Retry-After"]) > 0
    told = capsys.readouterr()
    assert (told.out + told.err).count("files_unavailable") == 1, "once a minute"


class Clock:
    """Says what time it is."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def content(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_what_has_expired_is_gone_at_once_and_is_swept_later(clock: Clock) -> None:
    async with aclosing(open_files("memory:")) as files:
        objects = FileObjects(files, clock=clock)
        stored = await objects.store("a", content(b"12", b"3"))
        short = await objects.create("a", stored, filename="f", purpose="batch", expires_after=HOUR)
        long = await objects.create("a", await objects.store("a", content(b"4")), filename="g", purpose="batch")
        assert b"".join([chunk async for chunk in objects.chunks("a", short, start=1)]) == b"23"
        await objects.store("a", content(b"of an upload that was killed"))
        clock.now += HOUR - 1
        assert await objects.get("a", short.id) == short
        assert await objects.sweep() == 0
        clock.now += 1
        assert await objects.get("a", short.id) is None
        assert (await objects.list("a"))[0] == [long]
        assert not await objects.delete("a", short.id)
        clock.now += HOUR
        assert await objects.sweep() == 1
        assert len(await files.list("content")) == 2
        assert await objects.get("a", long.id) == long
        clock.now += LONGEST
        assert await objects.sweep() == 1
        assert [await files.list(prefix) for prefix in ("files", "content", "expires")] == [[], [], []]


async def test_a_file_of_parts_is_their_bytes_and_takes_them_with_it(clock: Clock) -> None:
    async with aclosing(open_files("memory:")) as files:
        objects = FileObjects(files, clock=clock)
        for number, data in enumerate((b"one\n", b"", b"three\n")):
            await files.create(f"out/batch/{number}", data)
        parts = await files.list("out/batch")
        file_id = new_id(clock())
        file = await objects.create_of_parts(None, file_id, parts, filename="o", purpose="batch_output")
        clock.now += 5
        again = await objects.create_of_parts(None, file_id, parts[:1], filename="p", purpose="batch_output")
        assert again == file == await objects.get(None, file_id), "the first one counts"
        assert file.bytes == 10
        for start, end in ((0, None), (0, 10), (3, 5), (4, 4), (2, 10), (9, 99)):
            data = b"".join([chunk async for chunk in objects.chunks(None, file, start=start, end=end)])
            assert data == b"one\nthree\n"[start:end]
        assert await objects.delete(None, file_id)
        assert [await files.list(prefix) for prefix in ("files", "out", "expires")] == [[], [], []]


async def _old_file(files: Files) -> Content:
    """Make a file that has expired. Its mark comes last: a sweep that finds the mark alone takes it for a leftover."""
    async with aclosing(open_files("memory:")) as aside:
        objects = FileObjects(aside, clock=lambda: 1_600_000_000.0)
        old = await objects.store("a", content(LINES))
        await objects.create("a", old, filename="f", purpose="batch")
        for kind in ("content", "files", "expires"):
            for stored in await aside.list(kind):
                await files.create(stored.key, await aside.read(stored.key) or b"")
    return old


async def test_a_gateway_sweeps_at_its_start_and_again(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SWEEP_SECONDS", 0.05)
    async with a_desk(redis_url, str(tmp_path)) as desk:
        for _ in range(2):
            old = await _old_file(desk.files)
            kept = await upload(desk)
            await desk.files.create(f"ends/20200101/_/batch_{'0' * 24}", b"")

            async def swept(file_id: str = old.id) -> bool:
                left = any(file_id in key for key in [*await desk.stored(), *await desk.marks()])
                return not left and not await desk.files.list("ends")

            await until(swept)
            assert (await desk.client.files.content(kept.id)).content == LINES


@pytest.mark.parametrize("mib", [40, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process there")
async def test_a_large_upload_and_download_take_little_memory(tmp_path: Path, redis_url: str, mib: int) -> None:
    """The promise is 80 MiB for 200; so that 40 MiB prove something, they may take less than they are."""
    most = min(80, mib * 3 // 4) * MIB
    async with a_front(tmp_path, redis_url) as front:
        door = await front.gateway(GREENSCALE_FILES=tmp_path / "files")
        async with client_at(door.port) as client:
            await client.files.create(file=("small", bytes(6 * MIB)), purpose="batch")
            idle = door.peak
            path = tmp_path / "large.jsonl"
            with path.open("wb") as file:
                for _ in range(mib):
                    file.write(os.urandom(MIB))
            uploaded = await client.files.create(file=path, purpose="batch")
            assert uploaded.bytes == mib * MIB
            async with client.files.with_streaming_response.content(uploaded.id) as response:
                with path.open("rb") as file:
                    async for chunk in response.iter_bytes():
                        assert file.read(len(chunk)) == chunk
                    assert file.read() == b""
            assert door.peak - idle < most
