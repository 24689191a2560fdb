"""Where a machine keeps what its door and its control plane share."""

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubeserve.errors import UnavailableError

PRIVATE: Final = 0o700


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders below `data`. Sockets lie in `run`, a short path: Unix takes some hundred characters."""

    data: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", self.data.absolute())  # models are read by processes that run elsewhere

    @property
    def workloads(self) -> Path:
        """One file for each deployment that shall run: `ID.json`."""
        return self.data / "place"

    @property
    def models(self) -> Path:
        """The models' files, fetched from the object store: `TENANT/VERSION/NAME`."""
        return self.data / "models"

    def models_of(self, tenant: str) -> Path:
        """The models of one tenant."""
        return self.models / tenant

    @property
    def run(self) -> Path:
        """Sockets and scratch folders of what runs now; emptied when the door starts."""
        name = hashlib.sha256(str(self.data.resolve()).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"kubeserve-{os.getuid()}-{name}"

    @property
    def socket(self) -> Path:
        """Where the door answers."""
        return self.run / "door.sock"

    def folder_of(self, deployment_id: str) -> Path:
        """What a deployment keeps on this machine: its logs, and which version has come up here."""
        return self.data / "deployments" / deployment_id

    def make(self) -> None:
        """Make the folders that last, readable by this user alone. Raises UnavailableError where that cannot be."""
        _make(self.data, self.workloads, self.models)

    def make_run(self) -> None:
        """Make `run`, likewise. Raises UnavailableError also where it, which everybody may foresee, is another user's.

        Whoever makes it removes it: the door.
        """
        _make(self.run)
        found = self.run.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != PRIVATE:
            raise UnavailableError(f"{self.run} is no folder of this user's alone (mode 700); remove it, or set TMPDIR")


def _make(*folders: Path) -> None:
    try:
        for folder in folders:
            folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"{error.filename}: {error.strerror}; a folder to write in is needed") from error
