"""The store on obstore, for a directory and for S3. Its calls run in threads: the asynchronous ones may abort at exit.

A file goes in parts to a key of its own below `.incoming`, and from there to its key by a copy (a hard link in a
directory) that the store refuses if the key is taken: one request that writes once would hold the file in memory.
What a write leaves there that was killed goes with the next one of that key. S3 keeps the parts of an upload that was
never completed: give the bucket a lifecycle rule that aborts those.
"""

import asyncio
import errno
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, ParamSpec, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from kubeserve.errors import ConflictError, KubeServeError, NotFoundError, TooLargeError, UnavailableError
from kubeserve.objects.keys import check_key
from kubeserve.objects.protocol import Digest, Objects

log = logging.getLogger(__name__)

PART: Final = 5 * 1024 * 1024  # bytes: the smallest part that S3 takes
PIECE: Final = 1024 * 1024  # bytes read at once from a file
RANGE: Final = 2 * 1024 * 1024  # bytes read at once from the store
AT_ONCE: Final = 2  # parts on their way
TIMEOUT: Final = 30.0  # seconds that a request may take, one part's too
RETRIES: Final = 3
WEEK: Final = 7 * 86_400.0  # seconds: S3 signs for no longer
NO_URLS: Final = "a directory has no URLs that pods could fetch from; set KUBESERVE_OBJECTS to s3://BUCKET/PREFIX"
INCOMING: Final = ".incoming"
DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

AnyStore = LocalStore | S3Store
Given = ParamSpec("Given")
Result = TypeVar("Result")


def open_objects(url: str, *, timeout: float = TIMEOUT) -> Objects:
    """Return the store of a directory (made if it is missing), or of `s3://bucket/prefix` by the AWS_* environment.

    `timeout` is in seconds, for one request. Raises KubeServeError if the URL is neither; nothing is asked yet.
    """
    if "://" not in url:
        directory = Path(url)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Store(LocalStore(directory.absolute(), automatic_cleanup=True))
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise KubeServeError(
            f"no store of files at {url!r}: name a directory, or s3://bucket/prefix", code="bad_setting"
        )
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    store = S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        copy_if_not_exists="multipart",
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=min(timeout, 5)),
            "timeout": timedelta(seconds=timeout),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=timeout)},
    )
    return Store(store)


class Store:
    """Objects in one of obstore's stores."""

    def __init__(self, store: AnyStore) -> None:
        self._store = store

    async def put_file(self, key: str, path: Path) -> Digest:
        """Write a file, 1 MiB in memory at a time, and for S3 two parts of 5 MiB."""
        return await _call(_put_file, self._store, check_key(key), path)

    async def put_bytes(self, key: str, data: bytes) -> Digest:
        """Write it by one request."""
        return await _call(_put_bytes, self._store, check_key(key), data)

    async def fetch(self, key: str, path: Path) -> Digest:
        """Write to a file beside `path`, 2 MiB at a time, and rename that."""
        return await _call(_fetch, self._store, check_key(key), path)

    async def read(self, key: str, limit: int) -> bytes:
        """Read it by ranges of 2 MiB."""
        return await _call(_read, self._store, check_key(key), limit)

    async def list(self, prefix: str) -> dict[str, int]:
        """Ask for the keys below, and for the key itself."""
        return await _call(_list, self._store, check_key(prefix))

    async def delete(self, prefix: str) -> None:
        """Delete one by one."""
        await _call(_delete, self._store, check_key(prefix))

    async def presign(self, key: str, seconds: float) -> str:
        """Sign a GET; nothing is asked, so that the key need not be there."""
        if isinstance(self._store, LocalStore):
            raise UnavailableError(NO_URLS, code="no_urls")
        return await _call(obstore.sign, self._store, "GET", check_key(key), timedelta(seconds=min(seconds, WEEK)))


def _put_file(store: AnyStore, key: str, path: Path) -> Digest:
    content = _Hashed(_parts_of_file(path))
    if _size(store, key) is not None:  # written before, most likely
        return _same(store, key, content.drain())
    incoming = f"{INCOMING}/{key}/{secrets.token_hex(8)}"
    obstore.put(store, incoming, content, use_multipart=True, chunk_size=PART, max_concurrency=AT_ONCE)
    try:
        obstore.copy(store, incoming, key, overwrite=False)
    except (AlreadyExistsError, FileNotFoundError):  # another one was first; it removes what lies there
        return _same(store, key, content.digest())
    finally:
        _delete_below(store, f"{INCOMING}/{key}")
    return content.digest()


def _put_bytes(store: AnyStore, key: str, data: bytes) -> Digest:
    with suppress(AlreadyExistsError):
        obstore.put(store, key, data, mode="create")
        return Digest.of(data)
    return _same(store, key, Digest.of(data))


def _same(store: AnyStore, key: str, wanted: Digest) -> Digest:
    """Return the digest if the key has this content. Raises ConflictError."""
    if obstore.head(store, key)["size"] == wanted.size and _Hashed(_parts_of_key(store, key)).drain() == wanted:
        return wanted
    raise ConflictError(f"{key} is there already, with other content", code="exists")


def _fetch(store: AnyStore, key: str, path: Path) -> Digest:
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    content = _Hashed(_parts_of_key(store, key))
    try:
        with open(part, "xb", opener=_private) as file:
            file.writelines(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return content.digest()


def _read(store: AnyStore, key: str, limit: int) -> bytes:
    size = obstore.head(store, key)["size"]
    if size > limit:
        raise TooLargeError(f"{key} has {size} bytes; at most {limit} are read")
    return b"".join(_parts_of_key(store, key))


def _size(store: AnyStore, key: str) -> int | None:
    with suppress(FileNotFoundError):
        return obstore.head(store, key)["size"]
    return None


def _list(store: AnyStore, prefix: str) -> dict[str, int]:
    found = {meta["path"]: meta["size"] for metas in obstore.list(store, prefix) for meta in metas}
    if (size := _size(store, prefix)) is not None:
        found[prefix] = size
    return dict(sorted(found.items()))


def _delete(store: AnyStore, prefix: str) -> None:
    _delete_below(store, f"{INCOMING}/{prefix}")
    _delete_below(store, prefix)


def _delete_below(store: AnyStore, prefix: str) -> None:
    for key in _list(store, prefix):
        with suppress(FileNotFoundError):
            obstore.delete(store, key)


def _parts_of_file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PIECE):
            yield part


def _parts_of_key(store: AnyStore, key: str) -> Iterator[obstore.Bytes]:
    """Read in ranges, each a request that may take the whole timeout: a big file on a slow line is no outage."""
    size = obstore.head(store, key)["size"]
    for start in range(0, size, RANGE):
        yield obstore.get_range(store, key, start=start, end=min(start + RANGE, size))


class _Hashed:
    """Hashes what is iterated over."""

    def __init__(self, parts: Iterator[bytes] | Iterator[obstore.Bytes]) -> None:
        self._parts = parts
        self._hash = hashlib.sha256()
        self._size = 0

    def __iter__(self) -> Iterator[bytes | obstore.Bytes]:
        for part in self._parts:
            self._hash.update(part)
            self._size += len(part)
            yield part

    def drain(self) -> Digest:
        """Read it all. Returns the digest."""
        for _ in self:
            pass
        return self.digest()

    def digest(self) -> Digest:
        """Return the digest of what was read."""
        return Digest(self._size, self._hash.hexdigest())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


async def _call(function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
    """Run it in a thread. Raises its errors as ours; the log has the store's own words, which name its address."""
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except FileNotFoundError as error:
        raise NotFoundError("this file is not there") from error
    except (BaseError, OSError) as error:
        text = str(error).partition("\n")[0]
        log.warning("the store of files fails: %s", text)
        full = any(f"os error {number})" in text or getattr(error, "errno", None) == number for number in DISK_FULL)
        why = "the disk is full" if full else "it does not answer as it should"
        raise UnavailableError(f"the store of files is away ({why}): try again later") from error
