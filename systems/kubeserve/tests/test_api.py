"""The API on a whole platform: from an account to predictions, and until nothing is left."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
from harness.eventually import eventually
from harness.redis_server import RedisServer

from kubeserve.client import KubeServe
from kubeserve.database.tables import metadata
from kubeserve.errors import ForbiddenError, UnprocessableError
from models import IRIS, make
from stack import PASSWORD, Person, Stack, left_in

SETOSA = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture(scope="session")
def iris(science: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model."""
    return make(science, tmp_path_factory.mktemp("iris") / "iris.joblib", IRIS)


@pytest.fixture(params=["one machine", "PostgreSQL and S3"])
def stores(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Where the platform keeps things, if not in its folder."""
    if request.param == "one machine":
        return {}
    postgres, name = request.getfixturevalue("postgres"), request.getfixturevalue("migrated_database")
    postgres.query(f"TRUNCATE {', '.join(metadata.tables)}", name)
    for variable, value in request.getfixturevalue("s3_server").environment().items():
        monkeypatch.setenv(variable, value)
    return {"database_url": postgres.url(name), "objects": f"s3://models/{tmp_path.name.lower()}"}


@pytest.fixture
async def stack(
    tmp_path: Path, science: Path, redis_server: RedisServer, db: redis.Redis, stores: dict[str, str]
) -> AsyncIterator[Stack]:
    db.ping()
    async with Stack.open(tmp_path, science, f"{redis_server.url}/0", **stores) as stack:
        yield stack


async def objects_of(stack: Stack) -> list[str]:
    """Every object of the store."""
    return list(await stack.plane.objects.list("models"))


async def events(person: Person, path: str) -> list[tuple[str, Any]]:
    """Every event of a stream that ends."""
    async with person.http.get(f"{person.url}/api/v1{path}", headers=person.headers) as answer:
        assert answer.content_type == "text/event-stream"
        told = (await answer.text()).strip().split("\n\n")
    pairs = [block.split("\n") for block in told if not block.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


def children() -> list[str]:
    pids = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in pids if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_the_whole_way_until_nothing_is_left(stack: Stack, iris: Path, db: redis.Redis) -> None:
    anna = await stack.person()
    model = await anna.ask("POST", "/models", {"name": "iris", "description": "flowers"})
    first = await anna.ask("POST", f"/models/{model['id']}/versions", {"tag": "v1"})
    form = aiohttp.FormData()
    form.add_field("requirements", b"numpy\n", filename="reqs.txt")
    form.add_field("sample", b"[[5.1, 3.5, 1.4, 0.2]]", filename="rows")
    form.add_field("model", iris.read_bytes(), filename="iris.joblib")
    following = asyncio.create_task(events(anna, f"/versions/{first['id']}/steps"))
    status, told, _ = await anna.call("POST", f"/versions/{first['id']}/upload", data=form)
    assert (status, told["state"]) == (202, "scanning")
    assert {file["name"] for file in told["files"]} == {"iris.joblib", "requirements.txt", "sample.json"}
    seen = await following
    assert seen[-1] == ("end", {"state": "ready"})
    ready = seen[-2][1]
    assert [step["name"] for step in ready["steps"]][-1] == "predicted"
    assert ready["signature"]["features"] == 4
    second = await anna.version(iris, "iris", "v2", model_id=model["id"])

    created = await anna.ask("POST", "/deployments", {"name": "flowers", "version_id": first["id"], "idle": 30})
    place = f"/deployments/{created['id']}"
    assert created["url"] == f"{stack.url}/api/v1/predict/{created['id']}"
    assert '{"instances": [[5.1, 3.5, 1.4, 0.2]]}' in created["curl"], "the row of sample.json"
    await anna.until(place, active_revision=1)
    status, told, headers = await anna.call("POST", f"/predict/{created['id']}", {"instances": [SETOSA, SETOSA]})
    assert status == 200
    assert {name: told[name] for name in ("predictions", "model", "version", "deployment")} == {
        "predictions": [0, 0], "model": "iris", "version": "v1", "deployment": created["id"],
    }  # fmt: skip

    status, told, headers = await anna.call(
        "POST", f"/predict/{created['id']}", [SETOSA], headers={"Prefer": "respond-async"}
    )
    assert status == 202
    later = headers["Location"]
    await anna.while_(later, 202)
    assert (await anna.ask("GET", later))["predictions"] == [0]

    await anna.ask("PATCH", place, {"version_id": second["id"]})
    await anna.until(place, active_revision=2, state="ready")
    assert (await anna.ask("POST", f"/predict/{created['id']}", {"instance": SETOSA}))["version"] == "v2"
    await anna.ask("POST", f"{place}/rollback", {"revision": 1})
    await anna.until(place, active_revision=1, state="ready")

    await anna.ask("POST", f"{place}/stop")
    status, told, _ = await anna.call("POST", f"/predict/{created['id']}", [SETOSA])
    assert (status, told["code"]) == (409, "stopped")
    await anna.until(place, state="stopped")
    await anna.ask("POST", f"{place}/start")
    assert (await anna.ask("POST", f"/predict/{created['id']}", [SETOSA]))["predictions"] == [0]

    assert (await anna.call("DELETE", f"/models/{model['id']}"))[0] == 409
    await anna.ask("DELETE", place)
    assert (await anna.call("POST", f"/predict/{created['id']}", [SETOSA]))[0] == 404

    await anna.while_(place, 200)
    assert (await anna.call("DELETE", f"/models/{model['id']}"))[0] == 204
    assert left_in(db) == []
    await eventually(lambda: children() == [])
    assert await objects_of(stack) == []
    for folder in ("objects", "uploads", "proofs", "place", "models", "deployments"):
        assert files(stack.data / folder) == [], folder


async def test_files_of_a_deletion_or_an_upload_that_was_cut_off_go(stack: Stack) -> None:
    anna = await stack.person()
    plane = stack.plane
    model = await plane.registry.create_model(anna.id, "m")
    kept, gone = [await plane.registry.create_version(anna.id, model.id, tag) for tag in ("v1", "v2")]
    place = f"models/{anna.id}/m"
    keys = [f"{place}/{name}/m.joblib" for name in ("v1", "v2", "v3")]
    for key in keys:
        await plane.objects.put_bytes(key, b"x")
    await anna.ask("DELETE", f"/versions/{gone.id}")
    assert set(await plane.objects.list("models")) == {keys[0], keys[2]}
    await plane.sweep()
    assert set(await plane.objects.list("models")) == {keys[0]}
    assert (await anna.ask("GET", f"/versions/{kept.id}"))["state"] == "draft"
    await plane.objects.put_bytes(keys[2], b"x")
    await anna.ask("DELETE", f"/models/{model.id}")
    assert await objects_of(stack) == []


async def test_archives_of_environments_that_no_version_needs_go(stack: Stack) -> None:
    plane = stack.plane
    for ending in ("tar.gz", "json"):
        await plane.objects.put_bytes(f"environments/{'a' * 32}.{ending}", b"x")
    await plane.sweep()
    assert await plane.objects.list("environments") == {}


async def test_what_was_rejected_is_sent_again_under_its_tag(stack: Stack, iris: Path) -> None:
    anna = await stack.person()
    model = await anna.ask("POST", "/models", {"name": "iris"})
    version = await anna.ask("POST", f"/models/{model['id']}/versions", {"tag": "v1"})
    path = f"/versions/{version['id']}"
    await anna.ask("PUT", f"{path}/files/m.pkl", data=b"\x80\x04}.")
    await anna.ask("PUT", f"{path}/files/requirements.txt", data=b"numpy\n")
    await anna.ask("POST", f"{path}/finish")
    async with asyncio.timeout(60):
        while (await anna.ask("GET", path))["state"] != "rejected":  # noqa: ASYNC110  the platform tells nobody
            await asyncio.sleep(0.05)
    status, told, _ = await anna.call("POST", f"{path}/finish")
    assert (status, "send its files again" in told["error"]) == (409, True)
    await anna.ask("PUT", f"{path}/files/{iris.name}", data=iris.read_bytes())
    assert (await anna.ask("GET", path))["state"] == "receiving"
    await anna.ask("POST", f"{path}/finish")
    ready = await anna.until(path, state="ready")
    assert [file["name"] for file in ready["files"]] == [iris.name]
    assert [key.rpartition("/")[2] for key in await objects_of(stack)] == [iris.name]
    assert (await anna.call("PUT", f"{path}/files/{iris.name}", data=b"x"))[0] == 409


async def test_pages_of_lists_follow_one_another(stack: Stack) -> None:
    anna = await stack.person()
    made = [await anna.ask("POST", "/models", {"name": f"m{number}"}) for number in range(5)]
    found, path = list[Any](), "/models?limit=2"
    while path:
        _, told, headers = await anna.call("GET", path)
        found += told
        path = headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert [model["id"] for model in found] == [model["id"] for model in made]


async def test_the_python_client_goes_the_whole_way(stack: Stack, iris: Path) -> None:
    def go() -> None:
        with KubeServe(stack.url) as client:
            client.register("carl@example.org", PASSWORD)
            client.login("carl@example.org", PASSWORD)
            model = client.create_model("iris")
            version = client.create_version(model["id"], "v1")
            client.upload(version["id"], iris)
            client.finish(version["id"])
            names = list[str]()
            client.wait_until_ready(version["id"], lambda step: names.append(step["name"]))
            assert names[-1] == "predicted"
            deployment = client.deploy(model["id"], "flowers", version["id"], minimum=0, idle=30.0)
            assert client.predict(deployment["id"], [SETOSA])["predictions"] == [0]
            later = client.predict_async(deployment["id"], [SETOSA])
            while (answer := client.result(later)) is None:
                time.sleep(0.05)
            assert answer["predictions"] == [0]
            with pytest.raises(UnprocessableError) as refused:
                client.predict(deployment["id"], [[1]])
            assert refused.value.code == "bad_instance"
            assert str(refused.value) == "row 0 has 1 values; the model takes 4"
            assert [fault.field for fault in refused.value.faults] == ["instances.0"]
            with pytest.raises(UnprocessableError) as refused:
                client.predict(deployment["id"], [SETOSA, [5.1, "x", 1.4, 0.2]])
            assert [fault.field for fault in refused.value.faults] == ["instances.1.x1"]
            key = client.create_key("k", deployment["id"])
            with KubeServe(stack.url, key=key["key"]) as other:
                assert other.predict(deployment["id"], [SETOSA])["predictions"] == [0]
                with pytest.raises(ForbiddenError):
                    other.models()
            client.revoke_key(key["id"])
            client.rollback(deployment["id"], 1)
            client.stop(deployment["id"])
            client.start(deployment["id"])
            client.delete(deployment["id"])
            while client.deployments():
                time.sleep(0.05)
            client.delete_version(version["id"])
            client.delete_model(model["id"])
            assert client.models() == []

    await asyncio.to_thread(go)
