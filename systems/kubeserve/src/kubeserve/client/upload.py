"""Sends a file in chunks, and goes on where the server says that it ended, whatever breaks meanwhile."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

from kubeserve.client.calls import Calls, Patience
from kubeserve.errors import ConflictError, KubeServeError, LimitedError, UnavailableError

CHUNK: Final = 8 * 1024 * 1024  # bytes
AGAIN: Final = frozenset({"busy", "offset"})  # conflicts after which the server is asked where to go on

Progress = Callable[[int, int], None]


class Upload:
    """One file on its way. `sha256` in hex is also its identity: parts of another file are never joined to it."""

    def __init__(self, calls: Calls, version_id: str, path: Path, name: str, progress: Progress) -> None:
        self._calls = calls
        self._path = path
        self._place = f"/versions/{quote(version_id, safe='')}/files/{quote(name, safe='')}"
        self._progress = progress
        self._patience = Patience(calls.patience)
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self.size = file.tell()

    def send(self) -> None:
        """Send what is not there yet. Raises what the server refuses, UnavailableError if it is away for too long."""
        anew = False
        with self._path.open("rb") as file:
            offset = self._offset()
            while True:
                if offset > self.size:
                    offset = 0
                self._progress(offset, self.size)
                try:
                    if self._chunk(file, offset):
                        self._progress(self.size, self.size)
                        return
                    offset += CHUNK
                    self._patience.renew()
                except (ConflictError, UnavailableError) as error:
                    if error.code == "other" and not anew:
                        anew, offset = True, 0
                        continue
                    if isinstance(error, ConflictError) and error.code not in AGAIN:
                        raise
                    self._patience.pause(error)
                    offset = self._offset(after=offset)

    def _chunk(self, file: IO[bytes], offset: int) -> bool:
        """Send one chunk. Returns whether the file is whole."""
        if offset == self.size > 0:
            return True
        file.seek(offset)
        data = file.read(CHUNK)
        headers = {"Upload-Identity": self.sha256, "Content-Type": "application/octet-stream"}
        if self.size:
            headers["Content-Range"] = f"bytes {offset}-{offset + len(data) - 1}/{self.size}"
        self._calls.once("PUT", self._place, data=data, headers=headers)
        return offset + len(data) >= self.size

    def _offset(self, after: int = 0) -> int:
        """Ask where to go on. More than before is progress, and renews the patience."""
        try:
            offset = int(self._calls.call("HEAD", self._place).headers["Upload-Offset"])
        except (UnavailableError, LimitedError):
            raise
        except KubeServeError:  # an answer to HEAD has no words; that to a chunk says why
            return 0
        if offset > after:
            self._patience.renew()
        return offset
