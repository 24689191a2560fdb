"""Stores of files: in memory, in a directory and in a real S3, all of them the same."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import aclosing, suppress
from itertools import count
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from greenscale_worker.errors import ConfigError, FilesUnavailableError
from greenscale_worker.files import Files, Stored, by_obstore, marker, store
from greenscale_worker.files.store import open_files
from harness.certificates import certify_localhost
from harness.eventually import PATIENCE, eventually
from harness.redis_server import free_port
from harness.s3_server import BUCKET, S3Server
from harness.tcp_proxy import TcpProxy

MIB: Final = 1024 * 1024
SIZES: Final = (0, 1, by_obstore.PART - 1, by_obstore.PART, by_obstore.PART + 1, 12 * MIB + 5)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["memory", "directory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store."""
    if request.param == "memory":
        return store.MEMORY
    if request.param == "directory":
        return str(tmp_path / "made" / "files")
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid4().hex}/deeper"


@pytest.fixture
async def files(url: str) -> AsyncIterator[Files]:
    async with aclosing(open_files(url)) as files:
        yield files


async def blocks(size: int, error: Exception | None = None) -> AsyncIterator[bytes]:
    """Yield so many bytes, in chunks of many sizes; then raise."""
    left, length = size, 1
    while left > 0:
        yield bytes([length % 251]) * min(length, left)
        left -= length
        length = length * 2 % 300_007
    if error is not None:
        raise error


async def whole(size: int) -> bytes:
    return b"".join([chunk async for chunk in blocks(size)])


async def keys_of(files: Files, prefix: str) -> list[str]:
    return [stored.key for stored in await files.list(prefix)]


async def test_of_twenty_writers_of_a_key_one_writes_and_the_others_find_what_it_wrote(files: Files, url: str) -> None:
    others = [files] if url == store.MEMORY else [files, open_files(url), open_files(url)]
    for number in range(2):  # each takes this S3 server seconds
        key = f"batches/a/state/{number}"

        async def create(writer: int, key: str = key) -> tuple[bool, bytes | None]:
            own = others[writer % len(others)]
            return await own.create(key, b"%d" % writer), await own.read(key)

        told = await asyncio.gather(*map(create, range(20)))
        assert [written for written, _ in told].count(True) == 1
        winner = next(writer for writer, (written, _) in enumerate(told) if written)
        assert {found for _, found in told} == {b"%d" % winner}
    for each in others[1:]:
        await each.aclose()


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_written_is_read_whole_and_in_ranges(files: Files, size: int) -> None:
    expected = await whole(size)
    assert await files.write("content/a", blocks(size)) == size
    assert await files.read("content/a") == expected
    near = max(size - 1, 0)
    for start, end in ((0, None), (0, 0), (0, size), (1, 2), (size // 2, size // 2 + 5), (near, None), (size, None)):
        expected_here = expected[start:end]
        assert await files.read("content/a", start=start, end=end) == expected_here
        assert b"".join([chunk async for chunk in files.chunks("content/a", start=start, end=end)]) == expected_here
    assert await files.read("content/a", start=size + 10) == b""
    assert await files.read("content/a", start=max(size - 2, 0), end=size + 10) == expected[max(size - 2, 0) :]
    assert await files.list("content") == [Stored("content/a", size)]
    assert await files.write("content/a", blocks(7)) == 7, "in place of it"
    assert await files.read("content/a") == await whole(7)


async def test_what_is_not_there(files: Files) -> None:
    assert await files.read("a/b") is None
    assert await files.read("a/b", start=5, end=9) is None
    with pytest.raises(KeyError):
        await anext(aiter(files.chunks("a/b")))
    assert await files.list("a") == []
    await files.create("a/c", b"")
    await files.delete(["a/b", "a/c", "a/d"])
    assert await files.list("a") == []


@pytest.mark.parametrize("size", SIZES)
async def test_an_object_whose_chunks_end_in_an_error_is_not_written(files: Files, url: str, size: int) -> None:
    await files.write("content/b", blocks(3))
    for key in ("content/a", "content/b"):
        with pytest.raises(ConnectionResetError, match="the client has left"):
            await files.write(key, blocks(size, ConnectionResetError("the client has left")))
    assert await files.list("content") == [Stored("content/b", 3)]
    assert await files.read("content/b") == await whole(3)
    if "/made/" in url:
        assert left_in(url) == ["content/b"]


@pytest.mark.parametrize("size", [1, 12 * MIB])
async def test_a_writer_that_is_cancelled_writes_nothing(files: Files, url: str, size: int) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        async for block in blocks(size):
            yield block
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(files.write("content/a", endless()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await files.list("content") == []
    if "/made/" in url:
        await eventually(lambda: left_in(url) == [])  # the thread that wrote tidies up once it notices


async def test_a_writer_is_cancelled_before_its_thread_knows_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, cancelled, calls = asyncio.Event(), threading.Event(), count(1)
    submit = asyncio.run_coroutine_threadsafe

    def slow(coroutine: Coroutine[None, None, bytes], loop: asyncio.AbstractEventLoop) -> Future[bytes]:
        future = submit(coroutine, loop)
        if next(calls) == 2:  # the first one gives what was read already
            assert cancelled.wait(PATIENCE)
        return future

    async def endless() -> AsyncIterator[bytes]:
        async for block in blocks(by_obstore.PART):
            yield block
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", slow)
    async with aclosing(open_files(str(tmp_path))) as files:
        task = asyncio.create_task(files.write("content/a", endless()))
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE)


async def test_more_large_objects_than_are_written_at_once(files: Files) -> None:
    size = by_obstore.PART + 10
    writing = [files.write(f"content/{number:02}", blocks(size)) for number in range(by_obstore.WRITERS * 2)]
    assert await asyncio.gather(*writing) == [size] * len(writing)
    assert len(await files.list("content")) == len(writing)


async def test_a_list_is_in_order_and_begins_and_ends_where_it_is_told_to(files: Files) -> None:
    keys = sorted([*(f"a/{n:03}" for n in range(30)), "a/b/c", "a/Z", "ab/1", "a.b", "b"])
    for key in keys[::2] + keys[1::2]:
        await files.create(key, b"xy")
    below = [key for key in keys if key.startswith("a/")]
    assert await files.list("a") == [Stored(key, 2) for key in below]
    assert await keys_of(files, "a/b") == ["a/b/c"]
    assert await keys_of(files, "b") == []
    for after in ("a/007", "a/0075", "a/Y", "a/zz"):
        behind = [key for key in below if key > after]
        assert [stored.key for stored in await files.list("a", after=after)] == behind
        assert [stored.key for stored in await files.list("a", after=after, limit=3)] == behind[:3]
    assert [stored.key for stored in await files.list("a", limit=5)] == below[:5]


async def test_a_list_of_many(files: Files) -> None:
    keys = [f"many/{number:05}" for number in range(2_100)]
    for start in range(0, len(keys), 100):
        await asyncio.gather(*(files.create(key, b"") for key in keys[start : start + 100]))
    assert await keys_of(files, "many") == keys
    assert [stored.key for stored in await files.list("many", after=keys[50], limit=1_500)] == keys[51:1_551]


@pytest.mark.parametrize("key", ["", "/", "a//b", "../a", "a/../b", "a/.b", "a/", "/a", "a b", "ä", "a#1", "a%2e"])
async def test_a_key_that_is_no_path_of_names_is_a_mistake_of_the_caller(files: Files, key: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        await files.create(key, b"")


def left_in(url: str) -> list[str]:
    """All files of a directory but its marker, those that are not whole, too."""
    found = (str(path.relative_to(url)) for path in Path(url).rglob("*") if path.is_file())
    return sorted(name for name in found if name != marker.NAME)


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.files_child", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )


async def said(*arguments: str) -> str:
    """Run a process to its end; return what it said."""
    process = await start(*arguments)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


@pytest.mark.parametrize("url", ["directory", "s3"], indirect=True)
async def test_of_a_writer_that_is_killed_nothing_is_seen_and_what_it_left_is_swept(files: Files, url: str) -> None:
    writer = await start("forever", url, "13")
    assert writer.stdout is not None
    assert await writer.stdout.readline() == b"written\n"
    writer.kill()
    await writer.wait()
    assert await files.list("half") == []
    assert await files.read("half/file") is None
    if url.startswith("s3"):
        return  # a rule of its bucket aborts what is left
    left = left_in(url)
    assert len(left) == 1, "so that there is something to sweep"
    await open_files(url).aclose()
    assert left_in(url) == left, "it may be another process that writes"
    long_ago = time.time() - 2 * by_obstore.LEFT_SECONDS
    os.utime(Path(url, left[0]), (long_ago, long_ago))
    await open_files(url).aclose()
    assert left_in(url) == []


@pytest.mark.parametrize("url", ["directory", "s3"], indirect=True)
async def test_a_process_ends_while_an_object_is_being_written(files: Files, url: str) -> None:
    async with asyncio.timeout(PATIENCE):
        assert await said("leave", url, "13") == "written"
    assert await files.list("half") == []


@pytest.mark.parametrize("url", ["directory", "s3"], indirect=True)
@pytest.mark.parametrize("mib", [112, pytest.param(216, marks=pytest.mark.long)])
@pytest.mark.skipif(sys.platform != "linux", reason="the most memory is counted otherwise there")
async def test_a_large_object_takes_no_more_memory_than_a_small_one(url: str, mib: int) -> None:
    grown = int(await said("write", url, str(mib)))
    assert grown < 48 * MIB, "half of what holding it would take"


@pytest.mark.parametrize("url", ["directory"], indirect=True)
async def test_a_full_disk_is_said_to_be_full_and_what_fits_is_still_written(url: str) -> None:
    assert await said("too_large", url, "16") == f"full\n{MIB} None"
    assert left_in(url) == ["small"]


async def refused(calls: list[Callable[[], object]]) -> None:
    """Every one of the calls fails, soon."""
    for call in calls:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(FilesUnavailableError) as raised:
                await call()  # type: ignore[misc]  # all of them are asynchronous
        assert not raised.value.full


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_s3_that_is_away_is_said_to_be_and_all_goes_on_when_it_is_back(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(by_obstore, "REQUEST_SECONDS", 1.0)
    async with TcpProxy(s3.port) as proxy:
        for name, value in s3.environment(proxy.port).items():
            monkeypatch.setenv(name, value)

        def away() -> None:
            if how == "cut":
                proxy.target = free_port()
                proxy.cut()
            else:
                proxy.stall()

        def back() -> None:
            proxy.target = s3.port
            proxy.flow()

        async def cut_off(size: int) -> AsyncIterator[bytes]:
            async for block in blocks(size):
                yield block
            away()
            async for block in blocks(12 * MIB):
                yield block

        async with aclosing(open_files(f"s3://{BUCKET}/{uuid4().hex}")) as files:
            await files.create("a/1", b"1")
            await refused([lambda: files.write("a/2", cut_off(7 * MIB))])
            await refused(
                [
                    lambda: files.create("a/3", b"3"),
                    lambda: files.write("a/4", blocks(1)),
                    lambda: files.read("a/1"),
                    lambda: files.list("a"),
                    lambda: files.delete(["a/5"]),  # it may still be done once S3 is back
                    lambda: anext(aiter(files.chunks("a/1"))),
                ]
            )
            back()
            assert await files.read("a/1") == b"1"
            await eventually(lambda: proxy.connected)
            assert await files.read("a/2") is None, "it is whole or not there"
            assert await files.write("a/2", blocks(7 * MIB)) == 7 * MIB


async def test_s3_by_a_private_authority_is_trusted_once_ssl_cert_file_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, *certificate = certify_localhost(tmp_path)
    with S3Server(tmp_path, certificate=(certificate[0], certificate[1])) as server:
        for name, value in server.environment(tls=True).items():
            monkeypatch.setenv(name, value)
        async with aclosing(open_files(f"s3://{BUCKET}/x")) as files:
            await refused([lambda: files.create("a", b"1")])
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        async with aclosing(open_files(f"s3://{BUCKET}/x")) as files:
            assert await files.create("a", b"1")
            assert await files.read("a") == b"1"


async def test_s3_that_refuses_us_is_unavailable(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (s3.environment() | {"AWS_SECRET_ACCESS_KEY": "wrong"}).items():
        monkeypatch.setenv(name, value)
    async with aclosing(open_files(f"s3://{BUCKET}/x")) as files:
        await refused([lambda: files.create("a", b""), lambda: files.read("a"), lambda: files.list("a")])


@pytest.mark.parametrize(
    "url",
    ["", "s3://", "s3://b?x=1", "gs://bucket", "http://127.0.0.1/x", "s3://user:word@bucket", "memory://", "a\nb"],
)
def test_what_names_no_store_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="a directory, or s3://bucket/prefix"):
        open_files(url)


def test_a_directory_that_cannot_be_made_and_obstore_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"GREENSCALE_FILES: .*file/files: Not a directory"):
        open_files(str(tmp_path / "file" / "files"))
    monkeypatch.setattr(store, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'greenscale-worker\[files\]'"):
        open_files(str(tmp_path))
    with suppress(ConfigError):
        open_files("memory:")
