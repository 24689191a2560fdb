"""Receives the files of versions: resumable, in constant memory, and put where they stay when all are there.

What has come stays, whoever goes away: the client, the network, this process. It is gone when the version is, or when
nothing has come for long (`sweep`). A power cut may take what came in the last seconds.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Final

from kubeserve.domain import File, Outcome, Quota, Step, Version, VersionState
from kubeserve.errors import ConflictError, KubeServeError, UnprocessableError
from kubeserve.objects import Digest, Objects
from kubeserve.registry import Registry
from kubeserve.uploads.names import check_file, is_model, too_large
from kubeserve.uploads.staging import Begin, OffsetError, Part, Received, Staging

__all__ = ["OffsetError", "Received", "Uploads", "check_file"]

OPEN: Final = frozenset({VersionState.DRAFT, VersionState.RECEIVING})
AGAIN: Final = frozenset({VersionState.REJECTED, VersionState.FAILED})  # files that are sent anew replace its own
BEYOND: Final = frozenset({VersionState.SCANNING, VersionState.BUILDING, VersionState.CHECKING, VersionState.READY})
MOST_COMING: Final = 20  # versions of an owner whose files have not all come
PIECE: Final = 1024 * 1024  # bytes written at once
PATIENCE: Final = 30.0  # seconds without a byte, after which a client is gone


class Uploads:
    """Uploads of all versions. What belongs to another owner is a NotFoundError."""

    def __init__(
        self,
        registry: Registry,
        objects: Objects,
        staging: Path,
        *,
        patience: float = PATIENCE,
        storage: int = Quota().storage,
    ) -> None:
        self._registry = registry
        self._objects = objects
        self._staging = Staging(staging)
        self._patience = patience
        self._storage = storage

    async def receive(  # noqa: PLR0913  each is told by a line of the request
        self,
        owner_id: str,
        version_id: str,
        name: str,
        chunks: AsyncIterator[bytes],
        *,
        offset: int = 0,
        total: int | None = None,
        identity: str = "",
    ) -> Received:
        """Write what comes, from byte `offset` on; 0 begins anew. Whole with `total` bytes, or at the end if None.

        Parts with another `identity` (any text, as a hash or the time of the file) or total are never joined. Raises
        TooLargeError, before anything is read if the total says so; OffsetError with where to go on; ConflictError if
        another call writes the file (`busy`), if another file is half here (`other`), if there is a model already, or
        if the version does not take files any more; LimitedError if the owner's files are too many, or those uploads
        that are not finished; UnavailableError if the disk is full: what has come is kept.
        """
        largest = check_file(name, total)
        if offset < 0 or (total is not None and offset > total):
            raise KubeServeError("the bytes begin beyond the end of the file: their range does not fit its size")
        version = await self._registry.version(owner_id, version_id)
        _check_open(version)
        with self._staging.receiving(version.id, Begin(name, offset, total, identity)) as part:
            await self._begin(version)
            await self._write(part, chunks, largest)
            total = part.begin.total
            complete = total is None or part.size == total
            if complete:
                part.complete()
            return Received(name, part.size, part.size if complete else total, complete)

    async def offset(self, owner_id: str, version_id: str, name: str) -> int:
        """Return how many bytes of a file have come: where to go on."""
        check_file(name)
        return next((each.size for each in await self.received(owner_id, version_id) if each.name == name), 0)

    async def received(self, owner_id: str, version_id: str) -> list[Received]:
        """Return the files of a version, as far as they have come."""
        version = await self._registry.version(owner_id, version_id)
        if version.state in OPEN:
            return self._staging.held(version.id)
        return [Received(file.name, file.size, file.size, complete=True) for file in version.files]

    async def finish(self, owner_id: str, version_id: str, expected: Mapping[str, str] | None = None) -> Version:
        """Put the files where they stay and let the version go on to `scanning`. Called again, it goes on.

        `expected` is the SHA-256 of files in hex, by name. Raises ConflictError if a file is missing or not whole;
        UnprocessableError if one is not as expected, and forgets that one; UnavailableError.
        """
        version = await self._registry.version(owner_id, version_id)
        if version.state in AGAIN:
            raise ConflictError(f"the version {version.tag!r} is {version.state}: send its files again first")
        if version.state in BEYOND:
            self._staging.discard(version.id)
            return version
        _check_open(version)
        with self._staging.alone(version.id) as held:
            _check_whole(held)
            begun = time.monotonic()
            digests = await self._hash(version, held, expected or {})
            steps = _steps(digests, time.monotonic() - begun)
            prefix = await self._put(version, digests)
            files = [File(name, digest.size, digest.sha256, f"{prefix}/{name}") for name, digest in digests.items()]
            await self._begin(version)
            await self._registry.record_files(version.id, files)
            version = await self._registry.set_state(
                version.id,
                VersionState.SCANNING,
                "all files are here",
                expected={VersionState.RECEIVING},
                s3_path=f"{prefix}/",
                steps=steps,
            )
            self._staging.discard(version.id)
            return version

    async def remove(self, owner_id: str, version_id: str, name: str) -> None:
        """Forget one file of a version that is not finished. Raises ConflictError while another call has it."""
        check_file(name)
        version = await self._registry.version(owner_id, version_id)
        _check_open(version)
        self._staging.remove(version.id, name)

    def discard(self, version_id: str) -> None:
        """Remove what has come of a version that is deleted, whoever writes there."""
        self._staging.discard(version_id)

    async def sweep(self, age: float) -> int:
        """Remove uploads to which nothing has come for `age` seconds. Returns how many."""
        return await asyncio.to_thread(self._staging.sweep, age)

    async def _begin(self, version: Version) -> None:
        if version.state is not VersionState.RECEIVING:
            await self._registry.receive(version.owner_id, version.id, storage=self._storage, most=MOST_COMING)

    async def _write(self, part: Part, chunks: AsyncIterator[bytes], largest: int) -> None:
        """Write in pieces; when anything ends it, what has come is written first."""
        total = part.begin.total
        pending = bytearray()
        try:
            async for chunk in self._patiently(chunks):
                size = part.size + len(pending) + len(chunk)
                if size > largest:
                    pending.clear()
                    part.remove()
                    raise too_large(part.begin.name, largest)
                if total is not None and size > total:
                    pending.clear()
                    part.back()
                    raise KubeServeError(f"more bytes came than the {total} that were announced", code="too_many")
                pending += chunk
                if len(pending) >= PIECE:
                    full, pending = pending, bytearray()
                    await _to_its_end(asyncio.to_thread(part.write, full))
        finally:
            part.write(pending)

    async def _patiently(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._patience):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise KubeServeError(f"nothing came for {self._patience:g} s: go on later", code="silent") from None
            yield chunk

    async def _hash(self, version: Version, held: list[Received], expected: Mapping[str, str]) -> dict[str, Digest]:
        digests = {}
        for file in held:
            path = self._staging.path(version.id) / file.name
            digests[file.name] = await asyncio.to_thread(_digest, path)
            sha256 = digests[file.name].sha256
            if expected.get(file.name, sha256).lower() != sha256:
                path.unlink()
                raise UnprocessableError(f"{file.name!r} has come with SHA-256 {sha256}: send it again", code="hash")
        return digests

    async def _put(self, version: Version, digests: Mapping[str, Digest]) -> str:
        """Put the files below a prefix that is the version's own, and return that."""
        model = await self._registry.model(version.owner_id, version.model_id)
        prefix = f"models/{version.owner_id}/{model.name}/{version.tag}"
        wanted = {f"{prefix}/{name}": name for name in digests}
        for key in await self._objects.list(prefix):
            if key not in wanted:  # of an upload that was begun anew after it was killed here
                await self._objects.delete(key)
        for key, name in wanted.items():
            path = self._staging.path(version.id) / name
            try:
                put = await self._objects.put_file(key, path)
            except ConflictError:  # likewise
                await self._objects.delete(key)
                put = await self._objects.put_file(key, path)
            if put != digests[name]:
                raise ConflictError(f"{name!r} has changed while it was put away: send it again", code="changed")
        return prefix


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Await it; when cancelled, not before it has ended."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _check_open(version: Version) -> None:
    if version.state not in OPEN | AGAIN:
        raise ConflictError(
            f"the version {version.tag!r} is {version.state}, and takes no more files: make another one"
        )


def _check_whole(held: list[Received]) -> None:
    for file in held:
        if not file.complete:
            rest = "an unknown number of" if file.total is None else file.total
            raise ConflictError(f"{file.name!r} is not whole: {file.size} of {rest} bytes are here", code="not_whole")
    if sum(is_model(file.name) for file in held) != 1:
        raise ConflictError("a version has exactly one model: upload it first", code="no_model")


def _digest(path: Path) -> Digest:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest(file.tell(), sha256)


def _steps(digests: Mapping[str, Digest], seconds: float) -> list[Step]:
    sizes = ", ".join(f"{name} ({digest.size} bytes)" for name, digest in digests.items())
    model = next(digest for name, digest in digests.items() if is_model(name))
    return [
        Step("received", Outcome.DONE, None, sizes),
        Step("hashed", Outcome.DONE, round(seconds, 3), f"SHA-256 {model.sha256}"),
    ]
