"""The file of a batch's output: each line is written whole, and read at the next start."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from greenscale_worker.batch.output import ID, answer_line, error_line, key_of, line_id, read_output_line
from greenscale_worker.batch.requests import IN_VAIN, Request
from greenscale_worker.errors import ConfigError
from greenscale_worker.telemetry import log

PREFIX: Final = f'{{"id":"{ID}'.encode()
TAIL: Final = 64 * 1024


class Answers:
    """The output file. `answered` are the keys of lines that have an answer, `refused` of lines that cannot succeed.

    Raises ConfigError if the file is in use by another batch, or is not the output of one; OSError.
    """

    def __init__(self, path: Path) -> None:
        self.answered: set[int] = set()
        self.refused: set[int] = set()
        self._path = path
        self._file = path.open("a+b", buffering=0)
        try:
            self._check()
            self._lock()
            self._mend()
            self._load()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def succeeded(self, request: Request, body: Mapping[str, Any]) -> None:
        """Write an answer, with the endpoint's whole body."""
        self._write(answer_line(line_id(request.key), request.custom_id, body))

    def failed(self, request: Request, code: str, message: str) -> None:
        """Write why there is no answer."""
        self._write(error_line(line_id(request.key), request.custom_id, code, message))

    def _write(self, data: bytes) -> None:
        if (written := self._file.write(data)) != len(data):
            raise OSError(f"only {written} of {len(data)} bytes of a line could be written")

    def _check(self) -> None:
        if not self._file.seekable():
            raise ConfigError(f"{self._path} is a pipe or a terminal; expected: a file, which a batch can read again")

    def _lock(self) -> None:
        try:
            import fcntl  # noqa: PLC0415  absent on Windows, where two batches on one file go unnoticed
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self._path} is being written by another batch") from None
        except OSError as error:  # some network file systems have no locks
            log.warning("output_not_locked", file=str(self._path), error=error.strerror)

    def _mend(self) -> None:
        """Finish the last line if only its line feed is missing; remove it if it was half written."""
        size = self._file.seek(0, 2)
        last = self._last_line(size)
        if not last:
            return
        if read_output_line(last) is not None:
            self._file.write(b"\n")
        elif last.startswith(PREFIX[: len(last)]):
            self._file.truncate(size - len(last))
        else:
            raise self._foreign()

    def _last_line(self, size: int) -> bytes:
        """Return what follows the last line feed."""
        last = b""
        while size and b"\n" not in last:
            start = max(0, size - TAIL)
            self._file.seek(start)
            last = self._file.read(size - start) + last
            size = start
        return last[last.rfind(b"\n") + 1 :]

    def _load(self) -> None:
        self._file.seek(0)
        with self._path.open("rb") as file:
            for number, raw in enumerate(file):
                line = read_output_line(raw)
                if line is None:
                    if number == 0:
                        raise self._foreign()
                    continue  # not an answer; its request is sent again
                key = key_of(line["id"])
                if key is None:
                    continue
                if line["error"] is None:
                    self.answered.add(key)
                elif isinstance(line["error"], dict) and line["error"].get("code") in IN_VAIN:
                    self.refused.add(key)

    def _foreign(self) -> ConfigError:
        return ConfigError(f"{self._path} is there and is not the output of a batch; it is left alone")
