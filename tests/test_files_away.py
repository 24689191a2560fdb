"""A directory of files whose file system is not mounted is away: nobody takes the mount point for an empty store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import openai
import pytest

from greenscale_worker.batches.places import KnownPlaces
from greenscale_worker.errors import FilesUnavailableError, QueueUnavailableError
from greenscale_worker.files import Files
from greenscale_worker.files.marker import NAME
from greenscale_worker.files.store import open_files
from greenscale_worker.queues.memory import MemoryQueue
from tests.support.front import a_front, client_of
from tests.test_batches_api import ended, lines_of, names_in, started

LARGE = 6 * 1024 * 1024


async def some(size: int) -> AsyncIterator[bytes]:
    yield bytes(size)


CALLS: dict[str, Callable[[Files], Awaitable[Any]]] = {
    "create": lambda files: files.create("b", b""),
    "write": lambda files: files.write("b", some(5)),
    "write_parts": lambda files: files.write("b", some(LARGE)),
    "read": lambda files: files.read("a"),
    "chunks": lambda files: anext(aiter(files.chunks("a"))),
    "list": lambda files: files.list("a"),
    "delete": lambda files: files.delete(["a"]),
}


def unmount(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))
    directory.mkdir()


def mount(directory: Path) -> None:
    directory.rmdir()
    directory.with_name("elsewhere").rename(directory)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("anew", [False, True], ids=["while it is open", "before it is opened"])
async def test_every_call_is_refused_while_it_is_not_mounted(tmp_path: Path, call: str, *, anew: bool) -> None:
    directory, places = tmp_path / "files", KnownPlaces(MemoryQueue())
    files = open_files(str(directory), places)
    assert await files.create("a", b"1")
    unmount(directory)
    if anew:
        await files.aclose()
        files = open_files(str(directory), places)
    async with aclosing(files):
        with pytest.raises(FilesUnavailableError, match=f"touch {directory / NAME}"):
            await CALLS[call](files)
        assert list(directory.iterdir()) == []
        mount(directory)
        assert await files.read("a") == b"1"


async def test_a_directory_that_is_to_begin_empty_is_marked_by_hand(tmp_path: Path) -> None:
    places = KnownPlaces(MemoryQueue())
    async with aclosing(open_files(str(tmp_path / "files"), places)) as files:
        assert await files.create("a", b"1")
        unmount(tmp_path / "files")
        (tmp_path / "files" / NAME).touch()
        assert await files.read("a") is None
        assert await files.create("a", b"2")
    async with aclosing(open_files(str(tmp_path / "others"), places)) as files:
        assert await files.create("a", b"1"), "another one has its own first use"


async def test_a_first_use_waits_until_it_is_known_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = MemoryQueue()

    async def away() -> dict[str, bytes]:
        raise QueueUnavailableError("away")

    async with aclosing(open_files(str(tmp_path / "files"), KnownPlaces(queue))) as files:
        with monkeypatch.context() as patch:
            patch.setattr(queue, "keys", away)
            with pytest.raises(FilesUnavailableError, match="is not known yet"):
                await files.create("a", b"1")
        assert await files.create("a", b"1")


async def test_a_batch_waits_for_its_directory(tmp_path: Path, redis_url: str) -> None:
    directory, names = tmp_path / "files", [f"n{number}" for number in range(20)]
    settings: dict[str, Any] = {"GREENSCALE_FILES": directory, "GREENSCALE_LEASE_SECONDS": 2}
    async with a_front(tmp_path, redis_url) as front:
        door = await front.gateway(**settings)
        async with client_of(door.port) as client:
            batch = await started(client, lines_of(names))
        door.process.kill()
        unmount(directory)
        door = await front.gateway(**settings)
        await door.process.says("batch_waits")
        async with client_of(door.port, max_retries=0) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                await client.batches.retrieve(batch.id)
            assert caught.value.code == "files_unavailable"
            await asyncio.to_thread(mount, directory)
            front.worker()
            batch = await ended(client, batch.id)
            assert batch.status == "completed"
            assert (await names_in(client, batch))[0].total() == len(names)
