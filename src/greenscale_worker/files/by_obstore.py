"""Files by obstore. Its calls run in threads: the asynchronous ones may abort the process at its exit.

A large object goes in parts. What a killed process leaves of one is invisible: `in_directory` removes it once it is an
hour old; S3 keeps such parts until a lifecycle rule of the bucket aborts them.
"""

import asyncio
import errno
import heapq
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, MemoryStore, S3Store

from greenscale_worker.errors import ConfigError, FilesUnavailableError
from greenscale_worker.files import Stored
from greenscale_worker.files.marker import Marker, Places

PART: Final = 5 * 1024 * 1024  # bytes: the smallest part that S3 takes; what is smaller goes by one request
PIECE: Final = 1024 * 1024  # bytes that are handed to a writer at once
RANGE: Final = 1024 * 1024  # bytes that are read at once
CONNECT_SECONDS: Final = 3.0
REQUEST_SECONDS: Final = 20.0  # of one request, which carries one part at most
RETRIES: Final = 2
CALLS: Final = 16  # at once
WRITERS: Final = 8  # of large objects at once, with about 12 MiB each; others wait
LEFT_SECONDS: Final = 3600.0
LEFT: Final = re.compile(r".+#\d+")  # what LocalStore calls a file that is not whole yet
KEY: Final = re.compile(r"(?!\.)[A-Za-z0-9_.:=-]+(/(?!\.)[A-Za-z0-9_.:=-]+)*")
FULL: Final = tuple(f"(os error {number})" for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
FULL_S3: Final = ("507 Insufficient Storage", "XMinioStorageFull", "QuotaExceeded")

AnyStore = LocalStore | S3Store | MemoryStore
Given = ParamSpec("Given")
Result = TypeVar("Result")


def in_memory() -> "ObstoreFiles":
    """Return an empty store."""
    return ObstoreFiles(MemoryStore())


def in_directory(path: str, places: Places | None = None) -> "ObstoreFiles":
    """Return the store in a directory, and remove there what killed processes left. Raises ConfigError.

    `places` remembers which directories were used, so that one that is not mounted is away, and not empty.
    """
    directory = Path(path).absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_left(directory)
    except OSError as error:
        raise ConfigError(
            f"GREENSCALE_FILES: {directory}: {error.strerror}; expected: a folder that can be written"
        ) from None
    return ObstoreFiles(LocalStore(directory, automatic_cleanup=True), directory, Marker(directory, places))


def in_s3(bucket: str, prefix: str) -> "ObstoreFiles":
    """Return the store in a bucket, by the variables AWS_*. Raises ConfigError if S3 cannot have one's value."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    try:
        store = S3Store(
            bucket,
            prefix=prefix or None,
            conditional_put="etag",
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "timeout": timedelta(seconds=REQUEST_SECONDS),
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=REQUEST_SECONDS)},
        )
    except BaseError as error:
        raise ConfigError(f"GREENSCALE_FILES: s3://{bucket}: {_first_line(error)}; expected: AWS_* of S3") from None
    return ObstoreFiles(store)


class ObstoreFiles:
    """Files in one of obstore's stores; `directory` and `marker` are those of a LocalStore."""

    def __init__(self, store: AnyStore, directory: Path | None = None, marker: Marker | None = None) -> None:
        self._store = store
        self._directory = directory
        self._marker = marker
        self._calls = ThreadPoolExecutor(CALLS, "files")
        self._writers = ThreadPoolExecutor(WRITERS, "files-write")

    async def create(self, key: str, data: bytes) -> bool:
        """Write it by one request that the store refuses if the key is taken."""
        return await self._call(self._create, _checked(key), data)

    async def write(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Write up to 5 MiB by one request, more by parts, of which two are in memory at a time."""
        if self._marker is not None:
            await self._call(self._check)
        async with aclosing(_pieces(chunks)) as pieces:
            first = await anext(pieces, b"")
            if len(first) < PART:
                await self._call(self._put, _checked(key), first)
                return len(first)
            return await self._write_parts(_checked(key), _Feed(first, pieces))

    async def read(self, key: str, *, start: int = 0, end: int | None = None) -> bytes | None:
        """Read it by one request."""
        try:
            return await self._call(self._read, _checked(key), start, end)
        except KeyError:
            return None

    async def chunks(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Read 1 MiB by each request, so that a slow reader holds no connection."""
        size = await self._call(self._size, _checked(key))
        end = size if end is None else min(end, size)
        for at in range(start, end, RANGE):
            yield await self._call(self._range, key, at, min(at + RANGE, end))

    async def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[Stored]:
        """Ask S3 for as many pages as the limit needs; go through all of a directory, which has no order."""
        return list(await self._call(self._list, _checked(prefix), after, limit))

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete one by one."""
        await self._call(self._delete, [_checked(key) for key in keys])

    async def aclose(self) -> None:
        """End the threads; calls that run go on to their end."""
        for threads in (self._calls, self._writers):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _settle(self) -> None:
        if self._marker is not None:
            await self._marker.settle()

    def _check(self) -> None:
        if self._marker is not None:
            self._marker.check()

    def _create(self, key: str, data: bytes) -> bool:
        try:
            obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        self._sync(key)
        return True

    def _put(self, key: str, data: bytes) -> None:
        obstore.put(self._store, key, data, use_multipart=False)
        self._sync(key)

    def _put_parts(self, key: str, feed: "_Feed") -> None:
        self._check()
        obstore.put(self._store, key, feed, use_multipart=True, chunk_size=PART, max_concurrency=1)
        self._sync(key)

    def _read(self, key: str, start: int, end: int | None) -> bytes:
        if start == 0 and end is None:
            with _key_error(key):
                return bytes(obstore.get(self._store, key).bytes())
        size = self._size(key)
        end = size if end is None else min(end, size)
        return self._range(key, start, end) if start < end else b""

    def _size(self, key: str) -> int:
        with _key_error(key):
            return obstore.head(self._store, key)["size"]

    def _range(self, key: str, start: int, end: int) -> bytes:
        with _key_error(key):
            return bytes(obstore.get_range(self._store, key, start=start, end=end))

    def _list(self, prefix: str, after: str, limit: int | None) -> Sequence[Stored]:
        pages = obstore.list(self._store, prefix, offset=after or None, chunk_size=1000)
        found = (Stored(meta["path"], meta["size"]) for page in pages for meta in page)
        if limit is None:
            return sorted(found, key=_key)
        if isinstance(self._store, S3Store):
            return list(islice(found, limit))
        return heapq.nsmallest(limit, found, key=_key)

    def _delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, key)

    def _sync(self, key: str) -> None:
        """Let a directory's object outlive a crash of the machine."""
        if self._directory is None:
            return
        for path in (self._directory / key, (self._directory / key).parent):
            with suppress(FileNotFoundError):  # deleted already
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    async def _write_parts(self, key: str, feed: "_Feed") -> int:
        """Let a thread write what the feed gives; it has ended when this returns or raises."""
        writing = asyncio.wrap_future(self._writers.submit(self._put_parts, key, feed))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            feed.stop()
            writing.cancel()  # if no thread has begun with it
            await asyncio.wait([writing])
            await feed.idle()
            raise
        except (BaseError, OSError) as error:
            if feed.error is None:
                raise _unavailable(error) from error
            raise feed.error from None
        return feed.size

    async def _call(self, function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """Run it in a thread. Raises FilesUnavailableError."""

        def run() -> Result:
            self._check()
            return function(*args, **kwargs)

        try:
            await self._settle()
            return await asyncio.get_running_loop().run_in_executor(self._calls, run)
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error


class _Feed:
    """Gives a thread what an asynchronous iterator of the event loop yields. `error` is what that raised."""

    def __init__(self, first: bytes, pieces: AsyncIterator[bytes]) -> None:
        self.size = 0
        self.error: BaseException | None = None
        self._first = first
        self._pieces = pieces
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Task[bytes] | None = None
        self._reading = asyncio.Lock()
        self._stopped = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if piece := asyncio.run_coroutine_threadsafe(self._next(), self._loop).result():
            return piece
        raise StopIteration

    def stop(self) -> None:
        """Let the thread fail. To be called in the event loop."""
        self._stopped = True
        if self._reader is not None:
            self._reader.cancel()

    async def idle(self) -> None:
        """Wait until nothing reads the iterator: one that is being read cannot be closed."""
        async with self._reading:
            pass

    async def _next(self) -> bytes:
        if self._stopped:
            raise asyncio.CancelledError
        self._reader = asyncio.current_task()
        piece, self._first = self._first, b""
        try:
            async with self._reading:
                piece = piece or await anext(self._pieces, b"")
        except BaseException as error:
            self.error = error
            raise
        self.size += len(piece)
        return piece


async def _pieces(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Join chunks to a piece of PART, if there are so many bytes, and then to pieces of PIECE."""
    piece, wanted = bytearray(), PART
    async for chunk in chunks:
        piece += chunk
        if len(piece) >= wanted:
            yield bytes(piece)
            piece, wanted = bytearray(), PIECE
    if piece:
        yield bytes(piece)


@contextmanager
def _key_error(key: str) -> Iterator[None]:
    """Raise KeyError if the object is not there; that its bucket is not there is another matter."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise
        raise KeyError(key) from None


def _checked(key: str) -> str:
    if KEY.fullmatch(key) is None:
        raise ValueError(f"{key!r} is no key: names of letters, digits and ._:=- with / between them are")
    return key


def _key(stored: Stored) -> str:
    return stored.key


def _unavailable(error: Exception) -> FilesUnavailableError:
    text = str(error)
    full = any(sign in text for sign in (*FULL, *FULL_S3))
    return FilesUnavailableError(f"the store of files fails: {_first_line(error)}", full=full)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]


def _remove_left(directory: Path) -> None:
    """Remove what is not whole and has not grown for an hour: another process may be writing the rest."""
    before = time.time() - LEFT_SECONDS
    for folder, _, names in os.walk(directory):
        for name in filter(LEFT.fullmatch, names):
            path = Path(folder, name)
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()
