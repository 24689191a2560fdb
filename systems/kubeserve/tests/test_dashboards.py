"""The dashboards ask for what is counted, and come into Grafana by one command."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kubeserve.api.metrics import Metrics as ApiMetrics
from kubeserve.dashboards import DEPLOYMENT, MASTER, boards
from kubeserve.door.metrics import Metrics as DoorMetrics
from kubeserve.web.pages import DASHBOARD
from processes import COMMAND

OF_A_CLUSTER = {"container_cpu_usage_seconds_total"}  # test_monitoring.py asks them, too
TARGET = {"namespace", "pod", "service", "container", "endpoint", "job", "instance"}  # what Prometheus' operator sets
TOKEN = "glsa_token"  # noqa: S105  of a Grafana that the test is itself


def told() -> dict[str, set[str]]:
    """The labels of every series that is told, by its name."""
    door, api = DoorMetrics(), ApiMetrics()
    door.count("some", "success", 0.1)
    door.count("some", "error", 0.1)
    api.count("GET /me", 200, 0.1)
    series: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)\{(.*?)\} ", (door.text() + api.text()).decode(), re.MULTILINE):
        series[name] = {label.partition("=")[0] for label in labels.split(",")}
    return series


@pytest.mark.parametrize("name", [MASTER, DEPLOYMENT])
def test_what_is_shown_is_counted(name: str) -> None:
    series = told()
    expressions = [target["expr"] for panel in boards()[name]["panels"] for target in panel["targets"]]
    assert expressions
    for expression in expressions:
        for metric, labels in re.findall(r"rate\((\w+)\{?([^{}]*?)\}?\[", expression):
            if metric not in OF_A_CLUSTER:
                assert metric in series, expression
                assert set(re.findall(r"(\w+)=", labels)) <= series[metric], expression


def test_each_shows_what_was_promised_of_it() -> None:
    titles = {name: [panel["title"] for panel in board["panels"]] for name, board in boards().items()}
    assert titles == {
        "kubeserve-master": [
            "Predictions a second", "Success rate", "Error rate", "Latency of predictions",
            "Requests of the API a second", "CPU per user",
        ],
        "kubeserve-deployment": ["Predictions a second", "Success rate", "Error rate", "Latency", "CPU", "Pods"],
    }  # fmt: skip
    variables = [variable["name"] for variable in boards()[DEPLOYMENT]["templating"]["list"]]
    assert "deployment" in variables, "one for each deployment"


def test_no_label_is_one_that_prometheus_sets_and_would_rename() -> None:
    assert not set.union(*told().values()) & TARGET


def test_what_comes_from_a_cluster_says_where_it_comes_from() -> None:
    for board in boards().values():
        for panel in board["panels"]:
            asked = " ".join(target["expr"] for target in panel["targets"])
            for metric, source in (("container_", "cAdvisor"), ("kube_", "kube-state-metrics")):
                assert (metric in asked) == (source in panel["description"]), panel["title"]


def test_the_page_frames_the_dashboard_of_a_deployment() -> None:
    board = boards()[DEPLOYMENT]
    assert f"/d/{board['uid']}/" in DASHBOARD
    assert "deployment" in {variable["name"] for variable in board["templating"]["list"]}, (
        "the page sets var-deployment"
    )


class Grafana:
    """What the command needs of one."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.url = ""

    async def put(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"message": "Unauthorized"}, status=401)
        given = await request.json()
        board = given["dashboard"]
        if board["uid"] in self.kept and not given["overwrite"]:
            return web.json_response({"message": "A dashboard with the same uid already exists"}, status=412)
        self.kept[board["uid"]] = board
        return web.json_response({"uid": board["uid"], "url": f"/d/{board['uid']}/x", "status": "success"})


@pytest.fixture
async def grafana() -> AsyncIterator[Grafana]:
    grafana = Grafana()
    app = web.Application()
    app.router.add_post("/grafana/api/dashboards/db", grafana.put)
    async with TestServer(app) as server:
        grafana.url = f"http://127.0.0.1:{server.port}/grafana/"
        yield grafana


async def command(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRAFANA_", "KUBESERVE_"))}
    call = [COMMAND, "dashboards", *words]
    return await asyncio.to_thread(
        subprocess.run, call, env=kept | settings, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


async def test_one_command_brings_them_into_grafana_as_often_as_it_is_called(grafana: Grafana) -> None:
    for _ in range(2):
        ended = await command(GRAFANA_URL=grafana.url, GRAFANA_TOKEN=TOKEN)
        assert ended.returncode == 0, ended.stderr
    assert grafana.kept == boards()


async def test_what_grafana_refuses_is_told(grafana: Grafana) -> None:
    ended = await command(GRAFANA_URL=grafana.url, GRAFANA_TOKEN=TOKEN[1:])
    assert (ended.returncode, grafana.kept) == (1, {})
    assert "GRAFANA_TOKEN of a service account" in ended.stderr
    ended = await command(GRAFANA_URL="http://127.0.0.1:1")
    assert ended.returncode == 4
    assert "Grafana does not answer" in ended.stderr
    ended = await command()
    assert ended.returncode == 2
    assert "GRAFANA_URL is not set" in ended.stderr


async def test_they_are_written_into_files(tmp_path: Path) -> None:
    assert (await command("--to", str(tmp_path / "new"))).returncode == 0
    for name, board in boards().items():
        assert json.loads((tmp_path / "new" / f"{name}.json").read_text()) == board
