"""The control plane whose place is a cluster: PostgreSQL, S3, Redis and HTTP are real, the API server is scripted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from greenscale_worker import ConfigError, RedisOptions
from harness.eventually import POLL
from harness.redis_server import RedisServer
from sqlalchemy import text

from kube_api import KubeApi
from kubeserve import control
from kubeserve.control import ControlPlane
from kubeserve.database import Lease
from kubeserve.errors import UnavailableError
from kubeserve.manifests import name_of, namespace_of
from kubeserve.places.opened import check_place
from kubeserve.settings import Settings
from models import IRIS, make
from stack import PASSWORD, PATIENCE, Stack


@pytest.fixture(params=["postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeApi]:
    async with KubeApi.open() as api:
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": api.url}}],
            "users": [{"name": "us", "user": {"token": "token"}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "us"}}],
        }  # fmt: skip
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield api


@pytest.fixture
async def stack(
    kube: KubeApi, tmp_path: Path, science: Path, redis_server: RedisServer, stores: dict[str, str]
) -> AsyncIterator[Stack]:
    del kube
    async with Stack.open(tmp_path, science, f"{redis_server.url}/0", door=False, **stores) as made:
        yield made


@pytest.fixture(scope="module")
def iris(science: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(science, tmp_path_factory.mktemp("model") / "model.joblib", IRIS)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  the cluster tells nobody
            await asyncio.sleep(POLL)


async def test_who_registers_has_a_namespace_at_once(stack: Stack, kube: KubeApi) -> None:
    told = await stack.nobody.ask("POST", "/auth/register", {"email": "anna@example.org", "password": PASSWORD})
    assert told["warning"] is None
    assert ("namespaces", "", told["namespace"]) in kube.objects


async def test_registration_succeeds_while_the_cluster_is_away_and_the_namespace_comes_later(
    stack: Stack, kube: KubeApi
) -> None:
    kube.away = True
    told = await stack.nobody.ask("POST", "/auth/register", {"email": "anna@example.org", "password": PASSWORD})
    assert told["warning"] == "the cluster does not answer now: you can upload; what you deploy runs when it does"
    assert not kube.of("namespaces")
    kube.away = False
    await _until(lambda: ("namespaces", "", told["namespace"]) in kube.objects)


async def test_a_control_plane_that_stalled_beyond_its_lease_changes_nothing_until_it_knows_who_leads(
    stack: Stack, kube: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as stalled:
        stalled.setattr(Lease, "lapsed", True)
        told = await stack.nobody.ask("POST", "/auth/register", {"email": "anna@example.org", "password": PASSWORD})
        assert "the cluster does not answer now" in told["warning"]
        assert not kube.of("namespaces")
    await _until(lambda: ("namespaces", "", told["namespace"]) in kube.objects)


async def test_a_control_plane_that_lost_its_lease_writes_nothing_until_its_work_has_ended(
    stores: dict[str, Any], kube: KubeApi, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work(control_plane: ControlPlane) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:  # as who is between two requests when the lease is found to be lost
            with pytest.raises(UnavailableError, match="another one may have taken over"):
                await control_plane.place.welcome("1")
            ended.set()

    async def lost(_: Lease) -> bool:
        return False

    monkeypatch.setattr(control, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(ControlPlane, "_lead", work)
    settings, redis = Settings(data=tmp_path, secret="s" * 40, **stores), RedisOptions(url=f"{redis_server.url}/0")
    async with asyncio.timeout(PATIENCE), ControlPlane.open(settings, redis) as plane:
        await begun.wait()
        monkeypatch.setattr(Lease, "_take", lost)
        await ended.wait()
        assert not kube.of("namespaces")
        while await plane.welcome("2"):  # noqa: ASYNC110  it serves on, and another one leads
            await asyncio.sleep(POLL)
        assert kube.of("namespaces", user="2")


async def test_a_database_that_is_restored_meanwhile_is_waited_for(
    stores: dict[str, Any], kube: KubeApi, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    del kube
    led = list[bool]()

    async def work(_: ControlPlane) -> None:
        led.append(True)
        try:
            await asyncio.Event().wait()
        finally:
            led.append(False)

    monkeypatch.setattr(control, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(ControlPlane, "_lead", work)
    settings, redis = Settings(data=tmp_path, secret="s" * 40, **stores), RedisOptions(url=f"{redis_server.url}/0")
    async with ControlPlane.open(settings, redis) as plane:
        await _until(lambda: led == [True])
        for there, renamed in (("leases", "gone"), ("gone", "leases")):
            async with plane.database.begin() as connection:
                await connection.execute(text(f"ALTER TABLE {there} RENAME TO {renamed}"))
            await _until(lambda renamed=renamed: led[-1] is (renamed == "leases"))  # type: ignore[misc]


async def test_an_upload_is_deployed_there_and_deleted_again(stack: Stack, kube: KubeApi, iris: Path) -> None:
    person = await stack.person()
    version = await person.version(iris, "iris")
    wanted = {"model_id": version["model_id"], "name": "live", "version_id": version["id"]}
    made = await person.ask("POST", "/deployments", wanted)
    await person.until(f"/deployments/{made['id']}", state="ready")
    assert ("deployments", namespace_of(person.id), name_of(made["id"])) in kube.objects
    await person.ask("DELETE", f"/deployments/{made['id']}")
    await person.while_(f"/deployments/{made['id']}", 200)
    assert kube.of("secrets") + kube.of("pods") == []


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"objects": "s3://bucket/prefix"}, "KUBESERVE_DATABASE_URL"),
        ({"database_url": "postgresql://user:secret@host/name"}, "KUBESERVE_OBJECTS"),
    ],
)
def test_a_cluster_needs_a_database_and_a_store_that_all_reach(
    given: dict[str, str], name: str, tmp_path: Path
) -> None:
    settings = Settings(data=tmp_path, place="cluster", **given)
    with pytest.raises(ConfigError, match=f"{name}: .* is accepted where KUBESERVE_PLACE is cluster") as error:
        check_place(settings)
    assert "secret" not in str(error.value)


def test_another_place_is_refused() -> None:
    with pytest.raises(ConfigError, match="KUBESERVE_PLACE: local or cluster is accepted"):
        Settings.from_env({"KUBESERVE_PLACE": "moon"})


async def test_no_cluster_is_told_at_the_start(
    tmp_path: Path, url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    settings = Settings(data=tmp_path, place="cluster", database_url=url, objects="s3://models/x")
    with pytest.raises(ConfigError, match="KUBESERVE_PLACE: no cluster can be reached"):
        async with ControlPlane.open(settings, RedisOptions(url=f"{redis_server.url}/0")):
            raise AssertionError
