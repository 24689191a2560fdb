"""Every query of both dashboards has an answer in a real Prometheus that reads a real run as the README says."""

import asyncio
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.eventually import eventually

from kubeserve.dashboards import DEPLOYMENT, boards
from kubeserve.domain import NAMESPACE
from kubeserve.errors import UnprocessableError
from models import IRIS, make
from processes import Up, ready
from prometheus import ClusterMetrics, Prometheus

README = Path(__file__).parents[1] / "README.md"
ROW = [5.1, 3.5, 1.4, 0.2]
PATIENCE = 90.0


def scraped(url: str, key: Path) -> dict[str, Any]:
    """What the README tells Prometheus, for this run."""
    (lines,) = (text for text in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL) if "scrape" in text)
    (config,) = yaml.safe_load(lines)["scrape_configs"]
    assert config["authorization"].keys() == {"credentials_file"}
    config["authorization"]["credentials_file"] = str(key)
    (static,) = config["static_configs"]
    assert static["targets"] == ["127.0.0.1:8600"]
    static["targets"] = [url.removeprefix("http://")]
    return config


def expressions(deployment_id: str) -> dict[str, str]:
    """Every query, as Grafana sends it, by board, panel and legend."""
    return {
        f"{name}: {panel['title']}: {target['legendFormat']}":
            target["expr"].replace("$__rate_interval", "20s").replace("$deployment", deployment_id)
        for name, board in boards().items()
        for panel in board["panels"]
        for target in panel["targets"]
    }  # fmt: skip


@pytest.mark.timeout(300)
async def test_every_panel_of_both_dashboards_draws_something(tmp_path: Path, science: Path) -> None:
    model = make(science, tmp_path / "iris.joblib", IRIS)
    async with Up(tmp_path, science) as up:
        await asyncio.to_thread(_watch, up, model, tmp_path)
        assert await up.stop() == 0


def _watch(up: Up, model: Path, folder: Path) -> None:
    with up.person() as api:
        version = ready(api, model, "iris")
        deployment = api.deploy(version["model_id"], "iris", version["id"])
        (folder / "key").write_text(api.create_key("prometheus")["key"])
        namespace = api.me()["namespace"]
        assert namespace.startswith(NAMESPACE)
        asked = expressions(deployment["id"])
        with (
            ClusterMetrics(namespace, deployment["id"]) as cluster,
            Prometheus(folder, [scraped(up.url, folder / "key"), _of_cluster(cluster)]) as prometheus,
        ):
            silent = dict(asked)

            def all_drawn() -> bool:
                _call(api, deployment["id"])
                for name in [name for name, query in silent.items() if _is_drawn(prometheus.ask(query))]:
                    del silent[name]
                return not silent

            with suppress(AssertionError):
                asyncio.run(eventually(all_drawn, PATIENCE))
            assert silent == {}, prometheus.targets()
            _check_values(prometheus, asked, deployment["id"], namespace)


def _of_cluster(cluster: ClusterMetrics) -> dict[str, Any]:
    """The operator keeps the labels of kube-state-metrics and of kubelets: `honorLabels` in their ServiceMonitors."""
    return {"job_name": "cluster", "honor_labels": True, "static_configs": [{"targets": [cluster.address]}]}


def _call(api: Any, deployment_id: str) -> None:
    api.predict(deployment_id, [ROW])
    with pytest.raises(UnprocessableError):
        api.predict(deployment_id, [[1.0]])


def _is_drawn(samples: list[dict[str, Any]]) -> bool:
    values = [float(sample["value"][1]) for sample in samples]
    return any(math.isfinite(value) and value > 0 for value in values)


def _check_values(prometheus: Prometheus, asked: dict[str, str], deployment_id: str, namespace: str) -> None:
    (variable,) = (each for each in boards()[DEPLOYMENT]["templating"]["list"] if each["name"] == "deployment")
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
    assert prometheus.values(label, metric) == [deployment_id], "what the variable offers is what the page sets"
    (success,) = prometheus.ask(asked["kubeserve-deployment: Success rate: success"])
    assert 0 < float(success["value"][1]) < 1, "one call of two was refused"
    (cpu,) = prometheus.ask(asked["kubeserve-master: CPU per user: {{namespace}}"])
    assert cpu["metric"] == {"namespace": namespace}
    assert float(cpu["value"][1]) < 0.75, "half a core: a pod's own series does not count its containers again"
    (ready_pods,) = prometheus.ask(asked["kubeserve-deployment: Pods: ready"])
    assert ready_pods["value"][1] == "2"
