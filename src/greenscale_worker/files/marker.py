"""Tells a directory of files from the empty mount point beneath a file system that is not mounted."""

import asyncio
from pathlib import Path
from typing import Final, Protocol

from greenscale_worker.errors import FilesUnavailableError, GreenScaleError

NAME: Final = ".greenscale"  # no key begins with a dot


class Places(Protocol):
    """Remembers, elsewhere than in them, which directories were used. Calls raise GreenScaleError."""

    async def knows(self, directory: str) -> bool:
        """Return whether it was used before."""
        ...

    async def remember(self, directory: str) -> None:
        """Remember that it is used."""
        ...


class Marker:
    """An empty file that the first use of a directory leaves there. What has lost it is away, and not empty."""

    def __init__(self, directory: Path, places: Places | None) -> None:
        self._directory = directory
        self._places = places
        self._is_settled = False

    async def settle(self) -> None:
        """See once whether this is the first use of the directory; then leave the marker.

        Raises FilesUnavailableError if it is not and there is no marker, or if that is not known; OSError.
        """
        if self._is_settled:
            return
        try:
            is_known = self._places is not None and await self._places.knows(str(self._directory))
            if not is_known:
                await asyncio.to_thread((self._directory / NAME).touch)
                if self._places is not None:  # the other way round, a crash in between would lock the directory
                    await self._places.remember(str(self._directory))
        except GreenScaleError as error:
            said = f"whether {self._directory} was used before is not known yet: {error}"
            raise FilesUnavailableError(said) from None
        self._is_settled = True

    def check(self) -> None:
        """Raise FilesUnavailableError if the marker is gone. It looks at the file system, so it is for a thread."""
        path = self._directory / NAME
        if not path.exists():
            raise FilesUnavailableError(
                f"{path}, which each directory of files has, is missing: is the file system mounted? To begin with an"
                f" empty directory, make it: touch {path}"
            )
