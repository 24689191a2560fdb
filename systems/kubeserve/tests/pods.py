"""The two processes of a pod, as the cluster would start them: the zygote, and its door."""

import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from greenscale_worker import RedisOptions
from greenscale_worker.up.probes import free_port

from kubeserve.domain import Format
from kubeserve.places.workload import Replicable, Workload
from kubeserve.predictions import Answer, Predictions
from replicas import command, pickled

PATIENCE = 60.0
KUBESERVE = str(Path(sys.executable).with_name("kubeserve"))


def workload_of(model: Path, environment: Path, **changes: Any) -> Workload:
    """A deployment of a pickle that lies at `model`."""
    target = Replicable(
        revision=1, version=str(uuid.uuid4()), tag="v1", key="models/m/v1/model.pkl", model=model, format=Format.PICKLE,
        environment=environment, minimum=0, maximum=5, concurrency=4, idle=60, timeout=10, memory=1 << 30,
    ).model_copy(update=changes)  # fmt: skip
    return Workload(id=str(uuid.uuid4()), tenant=str(uuid.uuid4()), generation=1, target=target)


class Pod:
    """A pod of a model whose source, which defines a class Model, runs when it is loaded."""

    def __init__(self, environment: Path, redis_url: str, source: str, **changes: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ks-pod-"))
        for name in ("run", "models", "tmp"):
            (self.folder / name).mkdir()
        self.model = self.folder / "models" / "model.pkl"
        self.model.write_bytes(pickled(source))
        self.workload = workload_of(self.model, environment, **changes)
        self.told = self.folder / "workload.json"
        self.told.write_text(self.workload.model_dump_json())
        self.port = free_port()
        self.predictions = Predictions(RedisOptions(url=redis_url))
        self._redis_url = redis_url
        self._python = environment / "bin" / "python"
        self.zygote: subprocess.Popen[bytes] | None = None
        self.door: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for process in (self.door, self.zygote):
            if process is not None:
                process.kill()
                process.wait()
        await self.predictions.aclose()

    def start_zygote(self) -> None:
        places = ("--socket", str(self.folder / "run" / "zygote.sock"), "--models", str(self.folder / "models"))
        scratch = ("--scratch", str(self.folder / "run" / "scratch"))
        argv = command(self._python, "zygote", "--stay", *places, *scratch)
        with (self.folder / "model.log").open("ab") as log:
            self.zygote = subprocess.Popen(argv, env={}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603  ours

    def start_door(self) -> None:
        argv = [KUBESERVE, "door", "--workload", str(self.told), "--zygote", str(self.folder / "run" / "zygote.sock")]
        argv += ["--host", "127.0.0.1", "--port", str(self.port)]
        environment = {
            "REDIS_URL": self._redis_url,
            "PATH": os.defpath,
            "HOME": "/",
            "TMPDIR": str(self.folder / "tmp"),
        }
        with (self.folder / "door.log").open("ab") as log:
            self.door = subprocess.Popen(  # noqa: S603  ours
                argv, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, process: "subprocess.Popen[bytes] | None", number: signal.Signals = signal.SIGKILL) -> int:
        """End it, and give how it ended."""
        assert process is not None
        process.send_signal(number)
        return process.wait(PATIENCE)

    def get(self, path: str) -> tuple[int, str]:
        """Ask the door by HTTP; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    async def ask(self, *rows: Any) -> Answer:
        return await self.predictions.wait(await self.predictions.submit(self.workload.id, list(rows)), PATIENCE)

    def predictions_open(self) -> list[bytes]:
        """The predictions that a door has taken."""
        with redis.Redis.from_url(self._redis_url) as client:
            return client.hkeys(f"{{ks:{self.workload.id}}}:open")

    @property
    def replicas(self) -> list[int]:
        assert self.zygote is not None
        path = Path(f"/proc/{self.zygote.pid}/task/{self.zygote.pid}/children")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []
