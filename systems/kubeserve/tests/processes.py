"""`kubeserve up` as a process of a test, with an environment of models that is there already."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

from greenscale_worker.up.probes import free_port
from harness.eventually import eventually

from kubeserve.client import KubeServe
from kubeserve.intake import Environments
from kubeserve.places.layout import Layout

COMMAND = str(Path(sys.executable).with_name("kubeserve"))
PASSWORD = "correct horse battery"
PATIENCE = 30.0


class Up:
    """One data directory, and the `up` on it. Used with `async with`: at the end nothing of it may be left."""

    def __init__(self, folder: Path, science: Path, **settings: str) -> None:
        self._settings = settings
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self._out = folder / "up.out"
        self._err = folder / "up.err"
        root = self.data / "environments"
        self.data.mkdir(mode=0o700)
        environments = Environments(root)
        (root / environments._id(environments._base, "")).symlink_to(science)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """That of every command of the test."""
        ours = ("REDIS_", "KUBESERVE_", "INGRESS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        config = str(self.folder / "config")
        named = {"KUBESERVE_PORT": str(self.port), "KUBESERVE_URL": self.url, "XDG_CONFIG_HOME": config}
        return kept | named | self._settings

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        try:
            await eventually(lambda: self.left() == {}, PATIENCE)
        finally:
            for pid in self.left():
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(Layout(self.data).run, ignore_errors=True)  # of a door that was killed: `down` removes it

    async def start(self) -> None:
        """Start it, and wait until it says that it is up."""
        self._out.unlink(missing_ok=True)
        with self._out.open("wb") as out, self._err.open("ab") as err:
            self.process = subprocess.Popen(
                [COMMAND, "up", "--data", str(self.data)],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        await eventually(lambda: "Ctrl-C stops" in self.said or self.process.poll() is not None, 3 * PATIENCE)
        assert self.process.poll() is None, self.complained

    async def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Stop it as a person would, and give its exit code."""
        self.process.send_signal(number)
        await eventually(lambda: self.process.poll() is not None, PATIENCE)
        return self.process.returncode

    @property
    def said(self) -> str:
        return self._out.read_text()

    @property
    def complained(self) -> str:
        return self._err.read_text()

    def pid(self, name: str) -> int:
        """The process that is that part now."""
        found = re.findall(rf"^  {name} +pid (\d+)", self.said, re.MULTILINE)
        found += re.findall(rf"^up: {name} died .* pid (\d+)", self.complained, re.MULTILINE)
        return int(found[-1])

    async def kill(self, name: str) -> None:
        """Kill a part, and wait until it was started again."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: self.pid(name) != pid, PATIENCE)

    def left(self) -> dict[int, str]:
        """Every process that belongs to this directory, and how it was called."""
        marks = (os.fsencode(self.data), os.fsencode(Layout(self.data).run))
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                about = path.joinpath("cmdline").read_bytes() + path.joinpath("environ").read_bytes()
                if any(mark in about for mark in marks):
                    found[int(path.name)] = path.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def person(self, name: str = "anna", *, patience: float = PATIENCE) -> KubeServe:
        """A client that has registered and logged in."""
        api = KubeServe(self.url, patience=patience)
        api.register(f"{name}@example.org", PASSWORD)
        api.login(f"{name}@example.org", PASSWORD)
        return api

    def command(
        self, *words: str, given: str = "", check: bool = True, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run one of the commands of `kubeserve`, with `more` in its environment."""
        ended = subprocess.run(
            [COMMAND, *words],
            env=self.environment | more,
            cwd=self.folder,
            input=given,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
            check=False,
        )
        assert not check or ended.returncode == 0, (words, ended.stdout, ended.stderr)
        return ended


def ready(api: KubeServe, path: Path, name: str) -> dict:
    """A version that is ready."""
    version = api.create_version(api.create_model(name)["id"], "v1")
    api.upload(version["id"], path)
    api.finish(version["id"])
    return api.wait_until_ready(version["id"], timeout=PATIENCE)
