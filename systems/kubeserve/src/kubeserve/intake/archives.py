"""Environments in the store of files, for pods to fetch: each packed once, when it is first wanted there."""

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from kubeserve.errors import ConflictError, KubeServeError, NotFoundError, UnavailableError
from kubeserve.intake.environments import Environments
from kubeserve.objects import Digest, Objects
from kubeserve.packing import PackingError, pack

FOLDER: Final = "environments"
ARCHIVE, NOTE = ".tar.gz", ".json"  # the note tells of an archive, and is written after it
MARK: Final = 16  # characters of its hash in an archive's name: no other one takes its place
LARGEST_NOTE: Final = 1024
NOTES: Final = TypeAdapter(Digest)


@dataclass(frozen=True, slots=True)
class Archive:
    """An environment as a file of the store: `sha256` in hex, `size` in bytes."""

    key: str
    sha256: str
    size: int


class Archives:
    """Those of `environments` in `objects`. They are packed in the directory `work`."""

    def __init__(self, environments: Environments, objects: Objects, work: Path) -> None:
        self._environments = environments
        self._objects = objects
        self._work = work
        self._packing = asyncio.Lock()

    async def archive(self, environment_id: str) -> Archive | None:
        """Return where the store has an environment, packed now if it has it not yet; None where the image has it.

        Raises NotFoundError if it is nowhere any more, KubeServeError if it cannot be packed, UnavailableError.
        """
        if self._environments.is_ready(environment_id):
            return None
        async with self._packing:  # one at a time: it takes a processor for seconds
            found = await self._noted(environment_id)
            return found or await self._pack(environment_id)

    async def keep(self, used: Iterable[str]) -> None:
        """Pack those of `used` that the image has, so that a version outlives the image. Raises KubeServeError."""
        for name in used:
            if self._environments.is_ready(name):
                async with self._packing:
                    if await self._noted(name) is None:
                        await self._pack(name)

    async def collect(self, used: Callable[[], Awaitable[set[str]]]) -> list[str]:
        """Delete the archives of environments that are not `used`, which is asked anew before each; their ids."""
        found = await self._objects.list(FOLDER)
        gone = []
        for name in sorted({Path(key).name.partition(".")[0] for key in found}):
            if name not in await used():
                await self._objects.delete(f"{FOLDER}/{name}{NOTE}")  # first: it must never tell of what is not there
                for key in found:
                    if key.startswith(f"{FOLDER}/{name}."):
                        await self._objects.delete(key)
                gone.append(name)
        return gone

    async def _noted(self, name: str) -> Archive | None:
        try:
            digest = NOTES.validate_json(await self._objects.read(f"{FOLDER}/{name}{NOTE}", LARGEST_NOTE))
        except (NotFoundError, ValidationError):
            return None
        return _archive(name, digest)

    async def _pack(self, name: str) -> Archive:
        environment, file = self._environments.path(name), self._work / f"{name}{ARCHIVE}"
        if not environment.is_dir():
            raise NotFoundError(f"the environment {name} is not on this machine any more; upload the version anew")
        try:
            shutil.rmtree(self._work, ignore_errors=True)  # what one that was killed left
            self._work.mkdir(mode=0o700, parents=True)
            await asyncio.to_thread(pack, environment, file)
            packed = _archive(name, await asyncio.to_thread(_digest, file))
            digest = await self._objects.put_file(packed.key, file)
        except (PackingError, OSError) as error:
            raise KubeServeError(f"the environment {name} cannot be packed: {error}", code="unpackable") from error
        finally:
            file.unlink(missing_ok=True)
        return await self._note(name, digest)

    async def _note(self, name: str, digest: Digest) -> Archive:
        """Tell of an archive, unless another control plane has told of its own: that one is as good."""
        for _ in range(2):
            with suppress(ConflictError):
                await self._objects.put_bytes(f"{FOLDER}/{name}{NOTE}", NOTES.dump_json(digest))
                return _archive(name, digest)
            if found := await self._noted(name):
                return found
            await self._objects.delete(f"{FOLDER}/{name}{NOTE}")  # it is damaged
        raise UnavailableError(f"the archive of the environment {name} is being replaced; it is tried again")


def _archive(name: str, digest: Digest) -> Archive:
    return Archive(f"{FOLDER}/{name}.{digest.sha256[:MARK]}{ARCHIVE}", digest.sha256, digest.size)


def _digest(file: Path) -> Digest:
    with file.open("rb") as content:
        return Digest(file.stat().st_size, hashlib.file_digest(content, "sha256").hexdigest())
