"""What comes first in a pod: the model and its environment, by URLs that are good for a while.

A URL is a credential, so no message has one. What is there already, whole, is not fetched again.
"""

import errno
import hashlib
import random
import time
from pathlib import Path
from typing import Annotated, BinaryIO, Final
from urllib.parse import urlsplit

import requests
from pydantic import BaseModel, ConfigDict, Field

from kubeserve.errors import KubeServeError, UnavailableError
from kubeserve.packing import PackingError, unpack
from kubeserve.places.workload import Workload

PIECE: Final = 1024 * 1024
TIMEOUTS: Final = (5.0, 30.0)  # seconds to connect, and between two bytes
PATIENCE: Final = 120.0  # seconds without a byte
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
WHOLE, PARTIAL = 200, 206
GONE: Final = 404
LATER: Final = frozenset({408, 425, 429})
FAULTS: Final = 500  # and above


class Download(BaseModel):
    """Where a file is, how to know that it is that (`size` in bytes), and where it shall lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: int = Field(ge=0)
    path: Path


class Urls(BaseModel):
    """What a pod fetches; no environment where the image has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Download
    environment: Download | None = None


def fetch(workload: Workload, urls: Urls, *, models: Path, environments: Path, patience: float = PATIENCE) -> None:
    """Make the model of `workload` a file below `models`, and its environment a folder in `environments`.

    All may read them and nobody may write them. Raises UnavailableError where the store does not answer for `patience`
    seconds, or no longer accepts the URL, and KubeServeError for what no repetition helps.
    """
    target = workload.target
    _check(urls.model, target.model, models)
    if urls.environment is not None:
        _check(urls.environment, target.environment, environments)
    try:
        _fetch_model(urls.model, patience)
        if urls.environment is not None:
            _fetch_environment(urls.environment, patience)
    except PackingError as error:
        raise KubeServeError(f"the environment cannot be unpacked: {error}") from error
    except OSError as error:
        room = "; the volume is full: raise its size limit" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
        raise KubeServeError(f"{error.filename or 'the volume'}: {error.strerror}{room}") from error


def _check(what: Download, wanted: Path | None, folder: Path) -> None:
    if what.path != wanted:
        raise UnavailableError("the URLs and the workload are of different revisions; wait until both are applied")
    if ".." in what.path.parts or folder not in what.path.parents:
        raise KubeServeError(f"{what.path} is not below {folder}, the folder for it; render the manifests anew")


def _fetch_model(what: Download, patience: float) -> None:
    if _is_there(what):
        return
    what.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    part = what.path.with_name(f".{what.path.name}.part")
    _download(what, part, patience)
    part.chmod(0o444)
    part.replace(what.path)


def _fetch_environment(what: Download, patience: float) -> None:
    if what.path.is_dir():  # it appears when it is whole
        return
    archive = what.path.with_name(f".{what.path.name}.tar.gz")
    try:
        _download(what, archive, patience)
        unpack(archive, what.path)
    finally:
        archive.unlink(missing_ok=True)


def _is_there(what: Download) -> bool:
    try:
        with what.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == what.sha256
    except FileNotFoundError:
        return False


def _download(what: Download, path: Path, patience: float) -> None:
    """Write it, however often the connection breaks. Each byte is waited for anew."""
    host = urlsplit(what.url).netloc.rpartition("@")[2]
    with path.open("wb") as file, requests.Session() as session:
        transfer = _Transfer(what, file, host)
        began, pause, before = time.monotonic(), FIRST_PAUSE, -1
        while True:
            try:
                transfer.go_on(session)
                break
            except ExpiredError:
                raise
            except UnavailableError:
                if transfer.done > before:
                    began, pause, before = time.monotonic(), FIRST_PAUSE, transfer.done
                if time.monotonic() - began + pause > patience:
                    raise
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311  jitter
            pause = min(LONGEST_PAUSE, 2 * pause)
    transfer.check()


class _Transfer:
    """A file on its way: `done` bytes of it are here."""

    def __init__(self, what: Download, file: BinaryIO, host: str) -> None:
        self.done = 0
        self._what = what
        self._file = file
        self._host = host
        self._hash = hashlib.sha256()

    def go_on(self, session: requests.Session) -> None:
        """Read the rest. Raises UnavailableError where that may be tried again, else KubeServeError."""
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={self.done}-"} if self.done else {})}
        try:
            with session.get(self._what.url, headers=headers, stream=True, timeout=TIMEOUTS) as answer:
                self._take(answer)
        except requests.exceptions.SSLError as error:
            raise KubeServeError(
                f"{self._host}: its certificate is not trusted; SSL_CERT_FILE tells the platform whom pods trust"
            ) from error
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise UnavailableError(f"{self._host}: the store of files does not answer; is it up?") from error
        except requests.RequestException as error:
            raise KubeServeError(f"{self._host}: this is no URL to fetch from; render the manifests anew") from error
        if self.done < self._what.size:
            raise UnavailableError(f"{self._host}: the store of files ended its answer too early")

    def check(self) -> None:
        """Raises KubeServeError if it is not the file that it should be."""
        if self._hash.hexdigest() != self._what.sha256:
            raise KubeServeError(
                f"{self._host}: {self._what.path.name} has other content there; upload the version anew"
            )

    def _take(self, answer: requests.Response) -> None:
        if answer.status_code == WHOLE:
            self._begin_anew()
        elif answer.status_code != PARTIAL or not self.done:
            raise _refusal(self._host, answer.status_code)
        for piece in answer.iter_content(PIECE):
            self.done += len(piece)
            if self.done > self._what.size:
                raise KubeServeError(f"{self._host}: {self._what.path.name} is larger there; upload the version anew")
            self._hash.update(piece)
            self._file.write(piece)

    def _begin_anew(self) -> None:
        self.done, self._hash = 0, hashlib.sha256()
        self._file.seek(0)
        self._file.truncate()


def _refusal(host: str, status: int) -> KubeServeError:
    if status == GONE:
        return KubeServeError(f"{host}: the store has no such file (404); upload the version anew")
    if status in LATER or status >= FAULTS:
        return UnavailableError(f"{host}: the store of files does not serve ({status}); is it well?")
    return ExpiredError(f"{host}: the store refuses the URL ({status}); `kubeserve serve` signs a new one: is it up?")


class ExpiredError(UnavailableError):
    """A URL that is too old, or was signed by credentials that are no longer good. Another one is needed."""
