"""Files on their way, in a directory of the platform's own: a folder for each version, readable by nobody else.

A file that is whole has its name; before, it is NAME.TOTAL.IDENTITY.part and its size is where to go on. Locks are
those of the system, so they go with a process that is killed, and hold between processes.
"""

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubeserve.errors import ConflictError, NotFoundError, UnavailableError
from kubeserve.uploads.names import check_beside

PART: Final = re.compile(r"(?P<name>.+)\.(?P<total>\d*)\.(?P<identity>[0-9a-f]*)\.part")


class OffsetError(ConflictError):
    """Bytes from another place than where to go on, which is `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the file goes on at byte {offset}", code="offset")
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Received:
    """A file as far as it has come: `size` bytes of `total` (None: not announced)."""

    name: str
    size: int
    total: int | None
    complete: bool


@dataclass(frozen=True, slots=True)
class Begin:
    """What an upload says of a file before its bytes. `identity` is whatever tells this content from another."""

    name: str
    offset: int = 0
    total: int | None = None
    identity: str = ""

    @property
    def mark(self) -> str:
        """The identity as it is in the name of the part."""
        return hashlib.sha256(self.identity.encode(errors="surrogatepass")).hexdigest()[:16] if self.identity else ""


class Part:
    """A file that is being received by us alone, and its place."""

    def __init__(self, descriptor: int, path: Path, begin: Begin) -> None:
        self._descriptor = descriptor
        self.path = path
        self.begin = begin
        self.size = begin.offset

    def write(self, data: bytes | bytearray) -> None:
        """Append. Raises UnavailableError if the disk takes no more; what it took is kept."""
        rest = memoryview(data)
        try:
            while rest:
                written = os.write(self._descriptor, rest)
                self.size += written
                rest = rest[written:]
        except OSError as error:
            raise disk_full(f"{self.size} bytes are kept") from error
        finally:
            rest.release()

    def back(self) -> None:
        """Forget what has come since this call began."""
        os.ftruncate(self._descriptor, self.begin.offset)
        self.size = self.begin.offset

    def remove(self) -> None:
        """Forget all of it."""
        self.path.unlink(missing_ok=True)

    def complete(self) -> None:
        """Give it its name. Raises NotFoundError if the version has been deleted meanwhile."""
        try:
            self.path.rename(self.path.with_name(self.begin.name))
        except FileNotFoundError:
            raise NotFoundError("the version has been deleted") from None


class Staging:
    """The directory of all that is on its way."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, version_id: str) -> Path:
        """Return where the files of a version are."""
        return self._root / version_id

    def held(self, version_id: str) -> list[Received]:
        """Return what has come of a version."""
        try:
            found = sorted(self.path(version_id).iterdir())
            return [_received(path) for path in found]
        except FileNotFoundError:
            return []

    @contextmanager
    def receiving(self, version_id: str, begin: Begin) -> Iterator[Part]:
        """Hold a file for writing. Raises ConflictError if another call has it, or if it cannot go on like that."""
        self.path(version_id).mkdir(mode=0o700, exist_ok=True)
        with self._locked(version_id, fcntl.LOCK_SH):
            held = self.held(version_id)
            check_beside(begin.name, (each.name for each in held))
            room = shutil.disk_usage(self._root).free
            if begin.total is not None and begin.total - begin.offset > room:
                raise disk_full(f"{begin.total - begin.offset} bytes are to come, there is room for {room}")
            before = next((path for path in self.path(version_id).iterdir() if _name(path) == begin.name), None)
            if before is None and begin.offset:
                raise OffsetError(0)
            with _own(before or self._part(version_id, begin)) as descriptor:
                part = self._opened(version_id, descriptor, before, begin)
                try:
                    yield part
                finally:
                    if not part.size:
                        part.remove()

    @contextmanager
    def alone(self, version_id: str) -> Iterator[list[Received]]:
        """Keep every other call from the files of a version. Raises ConflictError if one has them."""
        self.path(version_id).mkdir(mode=0o700, exist_ok=True)
        with self._locked(version_id, fcntl.LOCK_EX):
            yield self.held(version_id)

    def remove(self, version_id: str, name: str) -> None:
        """Remove one file, whole or not. Raises NotFoundError, ConflictError if a call has it."""
        with self.alone(version_id):
            found = [path for path in self.path(version_id).iterdir() if _name(path) == name]
            if not found:
                raise NotFoundError(f"nothing of {name!r} is here")
            for path in found:
                path.unlink()

    def discard(self, version_id: str) -> None:
        """Remove all files of a version, also those on their way."""
        shutil.rmtree(self.path(version_id), ignore_errors=True)

    def sweep(self, age: float) -> int:
        """Remove the versions to which nothing has come for `age` seconds. Returns how many."""
        removed = 0
        for folder in list(self._root.iterdir()):
            try:
                newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
                if newest < time.time() - age:
                    with self.alone(folder.name):
                        self.discard(folder.name)
                    removed += 1
            except (FileNotFoundError, ConflictError):  # gone, or used right now
                continue
        return removed

    def _part(self, version_id: str, begin: Begin) -> Path:
        total = "" if begin.total is None else begin.total
        return self.path(version_id) / f"{begin.name}.{total}.{begin.mark}.part"

    def _opened(self, version_id: str, descriptor: int, before: Path | None, begin: Begin) -> Part:
        """Return the part, at its offset: 0 begins anew."""
        if before is not None and begin.offset:
            begin = _going_on(before, begin)
        os.ftruncate(descriptor, begin.offset)
        os.lseek(descriptor, begin.offset, os.SEEK_SET)
        path = self._part(version_id, begin)
        if before is not None and before != path:
            before.rename(path)
        return Part(descriptor, path, begin)

    @contextmanager
    def _locked(self, version_id: str, kind: int) -> Iterator[None]:
        path = self.path(version_id)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)


def disk_full(detail: str) -> UnavailableError:
    """Say that there is no room for more."""
    return UnavailableError(f"the disk for uploads is full: {detail}; go on later", code="disk_full")


def _going_on(before: Path, begin: Begin) -> Begin:
    """Return what begins, with the total that was announced first. Raises ConflictError if it does not fit."""
    held, found = _received(before), PART.fullmatch(before.name)
    total = held.total if begin.total is None else begin.total
    if found is not None and (found["identity"] != begin.mark or held.total not in {None, total}):
        raise ConflictError("another file of this name is half here: go on with that, or begin at byte 0", code="other")
    if found is None or held.size != begin.offset:
        raise OffsetError(held.size)
    return Begin(begin.name, begin.offset, total, begin.identity)


def _received(path: Path) -> Received:
    size = path.stat().st_size
    if found := PART.fullmatch(path.name):
        return Received(found["name"], size, int(found["total"]) if found["total"] else None, complete=False)
    return Received(path.name, size, size, complete=True)


def _name(path: Path) -> str:
    return found["name"] if (found := PART.fullmatch(path.name)) else path.name


@contextmanager
def _own(path: Path) -> Iterator[int]:
    """Open a file, or make it, for us alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _lock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConflictError("another call has this file: only one at a time", code="busy") from None
