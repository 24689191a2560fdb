"""File objects of tenants in a store of files: what the gateway's files are, and the outputs of batches.

`files/<tenant>/<id>` is the object, and makes a file exist; `content/<tenant>/<id>` its bytes, unless it lists parts.
`expires/<hour>/<tenant>/<id>` is written first and deleted last, so that the sweep finds whatever was left on the way.
A tenant of None is `_`. Ids begin with the time, so keys are in order of creation.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from time import time
from typing import Final, Literal

from greenscale_worker.errors import FilesUnavailableError
from greenscale_worker.files import Files, Stored
from greenscale_worker.wire_json import read, write

ID: Final = re.compile(r"file-[0-9a-f]{32}")
RESPONSE: Final = "resp_"  # with which the id of a response begins; it expires as a file does
HOUR: Final = 3600
SHORTEST: Final = HOUR  # seconds until a file expires
LONGEST: Final = 30 * 24 * HOUR
AT_ONCE: Final = 64  # objects that are read at once for a list
MOST_KNOWN: Final = 20_000
Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class FileObject:
    """A file; times are whole seconds since the epoch. With `parts`, its bytes are theirs, one after the other."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    parts: tuple[Stored, ...] | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that were stored, and are no file yet."""

    id: str
    bytes: int
    created_at: int


class FileObjects:
    """The files of all tenants. What has expired is not there, whether it was swept or not.

    Every call raises FilesUnavailableError.
    """

    def __init__(self, files: Files, *, clock: Callable[[], float] = time) -> None:
        self._files = files
        self._clock = clock
        self._known: dict[str, FileObject] = {}  # by key: a file never changes, but it may be deleted

    async def store(self, tenant: str | None, chunks: AsyncIterable[bytes]) -> Content:
        """Store the content of a file. If `chunks` raises, nothing is left. `create` makes it a file."""
        now = self._clock()
        file_id = new_id(now)
        mark = _mark(tenant, file_id, int(now) + LONGEST)
        await self._files.create(mark, b"")
        try:
            size = await self._files.write(_content(tenant, file_id), chunks)
        except BaseException:
            with suppress(FilesUnavailableError):
                await self._files.delete([mark])
            raise
        return Content(file_id, size, int(now))

    async def create(
        self, tenant: str | None, content: Content, *, filename: str, purpose: str, expires_after: int = LONGEST
    ) -> FileObject:
        """Make a file of stored content. It expires so many seconds after its creation."""
        expires_at = content.created_at + expires_after
        file = FileObject(content.id, content.bytes, content.created_at, expires_at, filename, purpose)
        return await self._create(tenant, file)

    async def create_of_parts(  # noqa: PLR0913  what a file is made of
        self,
        tenant: str | None,
        file_id: str,
        parts: Sequence[Stored],
        *,
        filename: str,
        purpose: str,
        expires_after: int = LONGEST,
    ) -> FileObject:
        """Make a file of objects that are there. They are the file's from now on, and go with it.

        It was created when its id was made. The same id again changes nothing, and returns the file that is there.
        """
        at, size = int(file_id[5:17], 16) // 1000, sum(part.size for part in parts)
        file = FileObject(file_id, size, at, at + expires_after, filename, purpose, tuple(parts))
        return await self._create(tenant, file)

    async def discard(self, tenant: str | None, content: Content) -> None:
        """Delete content that becomes no file."""
        mark = _mark(tenant, content.id, content.created_at + LONGEST)
        await self._files.delete([_content(tenant, content.id), mark])

    async def get(self, tenant: str | None, file_id: str) -> FileObject | None:
        """Return a file; None if this tenant has none of this id."""
        file = await self._read(_object(tenant, file_id)) if ID.fullmatch(file_id) else None
        return file if file is not None and self._is_there(file) else None

    async def list(
        self,
        tenant: str | None,
        *,
        after: str | None = None,
        limit: int = 10_000,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> tuple[Sequence[FileObject], bool]:
        """Return a tenant's files behind `after`, ordered by creation, and whether there are more."""
        keys = [stored.key for stored in await self._files.list(f"files/{_of(tenant)}")]
        if order == "desc":
            keys.reverse()
        if after is not None:
            last = _object(tenant, after)
            keys = [key for key in keys if (key < last if order == "desc" else key > last)]
        found = list[FileObject]()
        for start in range(0, len(keys), AT_ONCE):
            for file in await asyncio.gather(*map(self._look_up, keys[start : start + AT_ONCE])):
                if file is not None and self._is_there(file) and purpose in (None, file.purpose):
                    found.append(file)
            if len(found) > limit:
                break
        return found[:limit], len(found) > limit

    async def delete(self, tenant: str | None, file_id: str) -> FileObject | None:
        """Delete a file and its bytes; return what it was, None if it was not there."""
        file = await self.get(tenant, file_id)
        if file is not None:
            await self._remove(tenant, file_id, file)
            await self._files.delete([_mark(tenant, file_id, file.expires_at)])
        return file

    async def stored(self, tenant: str | None) -> int:
        """Return how many bytes of content a tenant has; files of parts have none of their own."""
        return sum(each.size for each in await self._files.list(f"content/{_of(tenant)}"))

    async def chunks(
        self, tenant: str | None, file: FileObject, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield a file's bytes from `start` up to `end`. Raises KeyError if they are gone."""
        end = file.bytes if end is None else min(end, file.bytes)
        parts = (Stored(_content(tenant, file.id), file.bytes),) if file.parts is None else file.parts
        at = 0
        for part in parts:
            if at < end and start < at + part.size:
                async for chunk in self._files.chunks(part.key, start=max(0, start - at), end=end - at):
                    yield chunk
            at += part.size

    async def sweep(self) -> int:
        """Delete what has expired; return how many files."""
        now, swept = self._clock(), 0
        for mark in await self._files.list("expires"):
            _, hour, of, file_id = mark.key.split("/")
            if hour > _hour(now):
                break
            if file_id.startswith(RESPONSE):
                await self._files.delete([each.key for each in await self._files.list(f"responses/{of}/{file_id}")])
            tenant = None if of == "_" else of
            file = await self._read(_object(tenant, file_id))
            if file is None or not self._is_there(file):
                await self._remove(tenant, file_id, file)
                swept += file is not None
            await self._files.delete([mark.key])
        return swept

    def _is_there(self, file: FileObject) -> bool:
        return self._clock() < file.expires_at

    async def _create(self, tenant: str | None, file: FileObject) -> FileObject:
        key = _object(tenant, file.id)
        await self._files.create(_mark(tenant, file.id, file.expires_at), b"")
        if await self._files.create(key, write(asdict(file))):
            return file
        return await self._read(key) or file

    async def _remove(self, tenant: str | None, file_id: str, file: FileObject | None) -> None:
        parts = [part.key for part in (file.parts or ())] if file is not None else []
        await self._files.delete([_object(tenant, file_id), _content(tenant, file_id), *parts])

    async def _look_up(self, key: str) -> FileObject | None:
        """Read a file that a list has just named."""
        if key not in self._known:
            if (file := await self._read(key)) is None:
                return None
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[key] = file
        return self._known[key]

    async def _read(self, key: str) -> FileObject | None:
        data = await self._files.read(key)
        if data is None:
            return None
        told = read(data)
        parts = told.pop("parts")
        return FileObject(**told, parts=None if parts is None else tuple(Stored(**part) for part in parts))


def new_id(now: float) -> str:
    """Return a new id of a file; its first 12 digits are the time in milliseconds."""
    return f"file-{int(now * 1000):012x}{secrets.token_hex(10)}"


def _of(tenant: str | None) -> str:
    return "_" if tenant is None else tenant


def _object(tenant: str | None, file_id: str) -> str:
    return f"files/{_of(tenant)}/{file_id}"


def _content(tenant: str | None, file_id: str) -> str:
    return f"content/{_of(tenant)}/{file_id}"


def _mark(tenant: str | None, file_id: str, expires_at: int) -> str:
    """Return the key in the first whole hour after it has expired."""
    return f"expires/{_hour(expires_at + HOUR - 1)}/{_of(tenant)}/{file_id}"


def _hour(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H")
