"""The output of a batch: lines in the format of OpenAI Batch, each written whole, and read at the next start."""

import time
from pathlib import Path
from typing import Any, Final

import orjson

from greenscale_worker.batch.requests import IN_VAIN, Request
from greenscale_worker.errors import ConfigError
from greenscale_worker.job import Output
from greenscale_worker.telemetry import log
from greenscale_worker.wire_json import read, write

PREFIX: Final = b'{"id":"batch_req_'
ID: Final = "batch_req_"
OK: Final = 200
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

    def succeeded(self, request: Request, output: Output) -> None:
        """Write an answer, with the endpoint's whole body."""
        body = _body(request, output)
        response = {"status_code": OK, "request_id": str(body.get("id") or ""), "body": body}
        self._write(request, response, None)

    def failed(self, request: Request, code: str, message: str) -> None:
        """Write why there is no answer."""
        self._write(request, None, {"code": code, "message": message})

    def _write(self, request: Request, response: dict[str, Any] | None, error: dict[str, str] | None) -> None:
        line = {"id": f"{ID}{request.key:016x}", "custom_id": request.custom_id, "response": response, "error": error}
        data = write(line) + b"\n"
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
        if _line(last) is not None:
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
                line = _line(raw)
                if line is None:
                    if number == 0:
                        raise self._foreign()
                    continue  # not an answer; its request is sent again
                key = _key(line["id"])
                if key is None:
                    continue
                if line["error"] is None:
                    self.answered.add(key)
                elif isinstance(line["error"], dict) and line["error"].get("code") in IN_VAIN:
                    self.refused.add(key)

    def _foreign(self) -> ConfigError:
        return ConfigError(f"{self._path} is there and is not the output of a batch; it is left alone")


def _line(raw: bytes) -> dict[str, Any] | None:
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and {"id", "custom_id", "response", "error"} <= line.keys() else None


def _key(name: object) -> int | None:
    if not isinstance(name, str) or not name.startswith(ID):
        return None
    try:
        return int(name.removeprefix(ID), 16)
    except ValueError:
        return None


def _body(request: Request, output: Output) -> dict[str, Any]:
    """Return the endpoint's body, or if the backend has none, one in the format of an endpoint."""
    if output.body:
        body: dict[str, Any] = read(output.body)
        return body
    usage = output.usage
    message = {"role": "assistant", "content": output.text.encode("utf-8", "replace").decode()}
    return {
        "id": f"chatcmpl-{request.key:016x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": output.model,
        "choices": [{"index": 0, "message": message, "finish_reason": output.finish_reason or "stop"}],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
    }
