"""A zygote that is a process of the door's: on a machine, where the door starts and ends it."""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

import kubeserve.runtime
from kubeserve.door.zygote import Zygote
from kubeserve.places.logs import open_log

RUNTIME: Final = Path(kubeserve.runtime.__file__).parent


class OwnZygote(Zygote):
    """Imports an environment's packages once, in a process of its own.

    `models` is the folder of the models that its replicas may load, `minimum` the walls without which none is loaded.
    """

    def __init__(
        self, environment: Path, folder: Path, models: Path, *, preload: Sequence[str], minimum: Mapping[str, Any]
    ) -> None:
        super().__init__(folder, folder / "zygote.sock")
        self._environment = environment
        self._models = models
        self._preload = preload
        self._minimum = minimum
        self._process: asyncio.subprocess.Process | None = None

    async def _begin(self) -> None:
        scratch = self.folder / "scratch"
        shutil.rmtree(self.folder, ignore_errors=True)
        scratch.mkdir(mode=0o700, parents=True)
        self._models.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [str(self._environment / "bin" / "python"), "-I", "-S", "-B", str(RUNTIME), "zygote"]
        command += ["--socket", str(self._socket), "--models", str(self._models), "--scratch", str(scratch)]
        command += ["--preload", ",".join(self._preload), "--minimum", orjson.dumps(dict(self._minimum)).decode()]
        with self._output.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                env={}, start_new_session=True,
            )  # fmt: skip

    def _gone(self) -> bool:
        return self._process is None or self._process.returncode is not None

    async def _end(self) -> None:
        await super()._end()
        if self._process is not None:
            self._break()
            await self._process.wait()
            self._process = None

    def _break(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def _output(self) -> Path:
        return self.folder / "zygote.txt"

    def _last_words(self) -> str:
        try:
            with open_log(self._output) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read(4096).decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
