"""A real Prometheus of a test's own, and what a cluster would tell it: cAdvisor's metrics and kube-state-metrics'."""

import json
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from greenscale_worker.up.probes import free_port

PATIENCE = 30.0


class Prometheus:
    """Asks these targets twice a second. Used with `with`."""

    def __init__(self, folder: Path, scrape_configs: list[dict[str, Any]]) -> None:
        self._folder = folder
        self._port = free_port()
        self._config = folder / "prometheus.yml"
        self._config.write_text(
            yaml.safe_dump({"global": {"scrape_interval": "500ms"}, "scrape_configs": scrape_configs})
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = shutil.which("prometheus") or pytest.skip(
            "there is no prometheus (Debian: apt-get install prometheus)"
        )
        options = [f"--config.file={self._config}", f"--storage.tsdb.path={self._folder / 'tsdb'}"]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  Prometheus, as installed
                [program, *options, f"--web.listen-address=127.0.0.1:{self._port}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression; none while Prometheus is not up."""
        with suppress(OSError):
            return self._get("query", {"query": expression})["result"]
        return []

    def values(self, label: str, metric: str) -> list[str]:
        """What Grafana finds by `label_values(metric, label)`."""
        with suppress(OSError):
            return self._get(f"label/{label}/values", {"match[]": metric})
        return []

    def targets(self) -> list[dict[str, Any]]:
        """Whom it asks, and how that went."""
        with suppress(OSError):
            return self._get("targets", {})["activeTargets"]
        return []

    def _get(self, path: str, query: dict[str, str]) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]


class ClusterMetrics:
    """What kubelets and kube-state-metrics tell of the pods of one deployment, of half a core each second."""

    def __init__(self, namespace: str, deployment_id: str) -> None:
        self._about = f'namespace="{namespace}",pod="d-{deployment_id}-6d4cf56db6-x2x7k"'
        self._state = f'{{namespace="{namespace}",deployment="d-{deployment_id}"}}'
        self._asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(outer._text().encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _text(self) -> str:
        """As cAdvisor tells: the pod as a whole, without a container, and each container."""
        self._asked += 1
        used = self._asked * 0.25  # since the start, at two calls a second
        rows = [("", "", 1.0), ("door", "kubeserve:1", 0.25), ("model", "kubeserve:1", 0.75)]
        lines = ["# TYPE container_cpu_usage_seconds_total counter"]
        for container, image, share in rows:
            labels = f'container="{container}",cpu="total",id="/kubepods/x",image="{image}",{self._about}'
            lines.append(f"container_cpu_usage_seconds_total{{{labels}}} {used * share}")
        for name in ("kube_deployment_status_replicas_ready", "kube_deployment_spec_replicas"):
            lines += [f"# TYPE {name} gauge", f"{name}{self._state} 2"]
        return "\n".join([*lines, ""])
