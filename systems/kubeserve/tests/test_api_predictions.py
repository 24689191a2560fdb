"""Predictions over HTTP: what is accepted is answered, and who waits is told why."""

import asyncio
import json
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis
from harness.eventually import eventually
from harness.redis_server import RedisServer
from sqlalchemy import event

from kubeserve import predictions
from kubeserve.domain import Desired, Spec
from kubeserve.domain import VersionState as State
from models import IRIS, make, of_python
from people import walk
from stack import Person, Stack, left_in

SETOSA = [5.1, 3.5, 1.4, 0.2]
HELD = "[__import__('time').sleep(20 * (row[0] == 40)) or __import__('math').sqrt(row[0]) for row in rows]"


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    server = RedisServer(tmp_path_factory.mktemp("own"), docker=False)
    server.start()
    yield server
    server.close()


async def deployed(stack: Stack, person: Person) -> str:
    """The id of a deployment that no place knows."""
    registry = stack.plane.registry
    model = await registry.create_model(person.id, "m")
    version = await walk(registry, await registry.create_version(person.id, model.id, "v1"), State.READY)
    return (await stack.plane.deployments.create(person.id, model.id, "d", Spec(version.id))).id


async def deploy(stack: Stack, person: Person, script: str | None, **spec: Any) -> Any:
    """Deploy what a script makes (None: what is no model), past its proof: it is about what comes then."""
    registry, path = stack.plane.registry, stack.data / "m.pkl"
    path.write_bytes(b"no model")
    if script is not None:
        await asyncio.to_thread(make, stack.data / "environments" / "science", path, script)
    model = await registry.create_model(person.id, "m")
    version = await registry.create_version(person.id, model.id, "v1")
    await person.ask("PUT", f"/versions/{version.id}/files/m.pkl", data=path.read_bytes())
    await stack.plane.uploads.finish(person.id, version.id)
    fields = {"format": "joblib" if "sklearn" in (script or "") else "pickle", "environment": "science"}
    for before, after in pairwise((State.SCANNING, State.BUILDING, State.CHECKING, State.READY)):
        await registry.set_state(version.id, after, "as usual", expected={before}, **fields)
    return await person.ask("POST", "/deployments", {"name": "d", "version_id": version.id, **spec})


async def test_who_does_not_wait_long_enough_is_told_where_the_answer_will_be(doorless: Stack) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    for preferred in ("wait=0", "wait=1", "respond-async", "respond-async, wait=0"):
        status, told, headers = await anna.call(
            "POST", f"/predict/{deployment_id}", [[1]], headers={"Prefer": preferred}
        )
        assert status == 202
        assert headers["Location"] == f"/api/v1/predictions/{told['id']}" == told["location"]
        assert int(headers["Retry-After"]) >= 1
        assert (await anna.call("GET", told["location"]))[0] == 202
    assert (await anna.call("DELETE", told["location"]))[0] == 204


async def test_a_platform_that_ends_sends_those_who_wait_to_the_answer(doorless: Stack, db: redis.Redis) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    asked = asyncio.create_task(anna.call("POST", f"/predict/{deployment_id}", [[1]], headers={"Prefer": "wait=60"}))
    await eventually(lambda: db.llen(f"ks:{deployment_id}") == 1)
    doorless.plane.stopping.set()
    async with asyncio.timeout(10):
        assert (await asked)[0] == 202


async def test_a_deployment_that_is_deleted_is_gone_for_those_who_wait(doorless: Stack, db: redis.Redis) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    asked = asyncio.create_task(anna.call("POST", f"/predict/{deployment_id}", [[1]], headers={"Prefer": "wait=60"}))
    await eventually(lambda: db.llen(f"ks:{deployment_id}") == 1)
    await doorless.plane.deployments.want(anna.id, deployment_id, Desired.DELETED)
    await doorless.plane._purge(deployment_id)  # noqa: SLF001  as the reconciler does
    async with asyncio.timeout(10):
        assert (await asked)[0] == 404
    assert left_in(db) == []


async def test_a_prediction_costs_few_queries(doorless: Stack) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    seen = list[str]()
    engine = doorless.plane.database._reading.sync_engine  # noqa: SLF001  to count
    headers = {"Prefer": "respond-async"}
    await anna.call("POST", f"/predict/{deployment_id}", [[1]], headers=headers)

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    begun = asyncio.get_running_loop().time()
    for _ in range(50):
        assert (await anna.call("POST", f"/predict/{deployment_id}", [[1]], headers=headers))[0] == 202
    event.remove(engine, "before_cursor_execute", count)
    seconds = asyncio.get_running_loop().time() - begun
    mine = [statement for statement in seen if "users" in statement]
    assert len(mine) <= 1 + seconds


async def test_connections_are_few_and_those_in_use_stay(doorless: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = await doorless.person()
    monkeypatch.setattr(predictions, "MOST_CLIENTS", 2)
    first = await deployed(doorless, anna)
    asked = asyncio.create_task(anna.call("POST", f"/predict/{first}", [[1]], headers={"Prefer": "wait=3"}))
    open_ = doorless.plane.predictions._clients  # noqa: SLF001  to count
    await eventually(lambda: open_)
    for _ in range(5):
        await doorless.plane.predictions.submit(str(uuid.uuid4()), [[1]])
    assert len(open_) == 2
    assert first in open_
    assert (await asked)[0] == 202


async def test_a_queue_that_is_away_is_503_and_the_next_call_finds_it(
    tmp_path: Path, science: Path, own_redis: RedisServer
) -> None:
    async with Stack.open(tmp_path, science, f"{own_redis.url}/0", door=False) as stack:
        anna = await stack.person()
        deployment_id = await deployed(stack, anna)
        asked = "POST", f"/predict/{deployment_id}", [[1]]
        assert (await anna.call(*asked, headers={"Prefer": "wait=0"}))[0] == 202
        own_redis.stop()
        status, told, headers = await anna.call(*asked)
        assert (status, told["code"], int(headers["Retry-After"]) >= 1) == (503, "unavailable", True)
        assert "queue" in (await stack.nobody.call("GET", "/healthz"))[1]["away"]
        own_redis.start()
        assert (await anna.call(*asked, headers={"Prefer": "wait=0"}))[0] == 202


async def test_a_model_is_asked_by_the_command_that_its_page_shows(stack: Stack) -> None:
    anna = await stack.person()
    path = await asyncio.to_thread(make, stack.data / "environments" / "science", stack.data / "m.joblib", IRIS)
    version = await anna.version(path, "m")
    asked = {"name": "d", "version_id": version["id"], "sample": [SETOSA]}
    deployment = await anna.ask("POST", "/deployments", asked)
    key = (await anna.ask("POST", "/keys", {"name": "k", "deployment_id": deployment["id"]}))["key"]
    shell = f"KUBESERVE_KEY={shlex.quote(key)}; {deployment['curl']}"
    done = await asyncio.to_thread(
        subprocess.run, ["sh", "-c", shell], capture_output=True, timeout=60, check=True, stdin=subprocess.DEVNULL
    )
    assert json.loads(done.stdout)["predictions"] == [0]
    told = await anna.ask("GET", f"/deployments/{deployment['id']}/openapi.json")
    (path,) = told["paths"]
    assert f"{told['servers'][0]['url']}{path}" == deployment["url"]
    content = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert content["example"] == {"instances": [[5.1, 3.5, 1.4, 0.2]]}
    listed, named = content["schema"]["properties"]["instances"]["items"]["anyOf"]
    assert listed["minItems"] == len(named["properties"]) == 4
    admin, other = anna, await stack.person("other")
    text = await admin.ask("GET", "/metrics")
    assert f'predictions_total{{deployment="{deployment["id"]}",outcome="success"}} 1.0' in text
    assert "prediction_latency_ms_bucket" in text
    assert 'kubeserve_requests_total{route="POST /api/v1/predict/{deployment_id}",status="200"} 1.0' in text
    assert (await other.call("GET", "/metrics"))[0] == 403


async def test_the_url_is_below_the_host_and_path_that_are_set_and_leads_here(
    tmp_path: Path, science: Path, redis_server: RedisServer, db: redis.Redis
) -> None:
    db.ping()
    below = {"ingress_host": "models.example.org", "ingress_base_path": "/ask/"}
    async with Stack.open(tmp_path, science, f"{redis_server.url}/0", door=False, **below) as stack:
        anna = await stack.person()
        deployment_id = await deployed(stack, anna)
        told = await anna.ask("GET", f"/deployments/{deployment_id}")
        assert told["url"] == f"http://models.example.org/ask/{deployment_id}"
        assert told["url"] in told["curl"]
        call = {"json": [[1]], "headers": {**anna.headers, "Prefer": "respond-async"}}
        async with anna.http.post(f"{stack.url}/ask/{deployment_id}", **call) as answer:
            assert answer.status == 202


async def test_what_a_model_refuses_says_which_row_and_why(stack: Stack) -> None:
    anna = await stack.person()
    deployment = await deploy(stack, anna, of_python(f"return print('asked', flush=True) or {HELD}"))
    url = f"/predict/{deployment['id']}"
    assert (await anna.ask("POST", url, [[4]]))["predictions"] == [2.0]
    status, told, _ = await anna.call("POST", url, [[4], [-1]])
    assert (status, told["code"]) == (422, "model_error")
    assert "ValueError" in told["error"]
    status, told, _ = await anna.call("POST", url, [[4, 4]])
    assert (status, told["code"]) == (422, "bad_instance")
    _, _, headers = await anna.call("POST", url, [[40]], headers={"Prefer": "respond-async"})
    assert (await anna.call("DELETE", headers["Location"]))[0] == 204
    await anna.while_(headers["Location"], 202)
    status, told, _ = await anna.call("GET", headers["Location"])
    assert (status, told["code"]) == (410, "cancelled")
    logs = await anna.ask("GET", f"/deployments/{deployment['id']}/logs?follow=false")
    assert 'event: log\ndata: {"line":"asked"}' in logs
    assert logs.endswith("event: end\ndata: {}\n\n")
    answers = await asyncio.gather(*(anna.ask("POST", url, [[number]]) for number in range(30)))
    assert [round(answer["predictions"][0] ** 2) for answer in answers] == list(range(30))


async def test_who_is_awake_answers_by_http_and_what_takes_too_long_becomes_a_job(stack: Stack) -> None:
    anna = await stack.person()
    script = of_python("return [__import__('time').sleep(row[0] / 10) or 1 for row in rows]")
    made = await deploy(stack, anna, script)
    url = f"/predict/{made['id']}"
    assert (await anna.ask("POST", url, [[0]]))["predictions"] == [1]
    await anna.until(f"/deployments/{made['id']}", replicas=1)
    told = await anna.ask("POST", url, [[0]])
    assert told == {
        "id": None, "predictions": [1], "model": "m", "version": "v1", "deployment": made["id"], "revision": 1
    }  # fmt: skip
    asked = await anna.call("POST", url, [[0]], headers={"Prefer": "respond-async"})
    assert asked[0] == 202
    status, told, headers = await anna.call("POST", url, [[25]], headers={"Prefer": "wait=1"})
    assert (status, told["state"], headers["Location"]) == (202, "queued", told["location"])
    await anna.while_(told["location"], 202)
    told = await anna.ask("GET", told["location"])
    assert (told["id"], told["predictions"]) == (told["id"] or "none", [1])
    held = asyncio.create_task(anna.call("POST", url, [[100]]))
    await eventually(lambda: stack.plane.gateway._calls)  # noqa: SLF001  it is asked
    stack.plane.stopping.set()
    async with asyncio.timeout(5):
        assert (await held)[0] == 202


async def test_logs_are_followed_while_the_model_writes(stack: Stack) -> None:
    anna = await stack.person()
    deployment = await deploy(stack, anna, of_python("return [print('row', row[0], flush=True) or 1 for row in rows]"))
    async with anna.http.get(f"{stack.url}/api/v1/deployments/{deployment['id']}/logs", headers=anna.headers) as told:
        for number in (7, 8):
            await anna.ask("POST", f"/predict/{deployment['id']}", [[number]])
            async with asyncio.timeout(20):
                while f"row {number}".encode() not in await told.content.readline():
                    pass


async def test_while_no_revision_comes_up_the_reason_is_told_and_the_prediction_kept(stack: Stack) -> None:
    anna = await stack.person()
    made = await deploy(stack, anna, None)
    await anna.until(f"/deployments/{made['id']}", state="failed")
    status, told, _ = await anna.call("POST", f"/predict/{made['id']}", [[1]])
    assert (status, told["deployment_state"]) == (202, "failed")
    assert "revision 1" in told["reason"]


async def test_a_backlog_that_is_too_large_is_not_added_to(doorless: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    monkeypatch.setattr(predictions, "LARGEST_BACKLOG", 50_000)
    monkeypatch.setattr(predictions, "LOOK_SECONDS", 0.0)
    headers = {"Prefer": "respond-async"}
    answers = [
        await anna.call("POST", f"/predict/{deployment_id}", [["x" * 20_000]], headers=headers) for _ in range(6)
    ]
    assert [status for status, _, _ in answers[:2]] == [202, 202]
    status, told, sent = answers[-1]
    assert (status, told["code"], sent["Retry-After"]) == (429, "backlog", "5")


async def test_who_asks_for_what_is_foreign_costs_no_connection(doorless: Stack) -> None:
    anna, ben = await doorless.person(), await doorless.person("ben")
    deployment_id = await deployed(doorless, anna)
    asked = await doorless.plane.predictions.submit(deployment_id, [[1]])
    await doorless.plane.predictions.forget(deployment_id)
    for method, path in (
        ("POST", f"/predict/{deployment_id}"),
        ("GET", f"/predictions/{asked}"),
        ("DELETE", f"/predictions/{asked}"),
        ("GET", f"/predictions/{uuid.uuid4()}.{uuid.uuid4()}"),
    ):
        assert (await ben.call(method, path, [[1]] if method == "POST" else None))[0] == 404
    assert doorless.plane.predictions._clients == {}  # noqa: SLF001  to count


@pytest.mark.parametrize("deep", [254, 300, 1000])
@pytest.mark.parametrize("headers", [{}, {"Prefer": "wait=1"}, {"Prefer": "respond-async"}])
async def test_rows_that_are_nested_too_deep_are_refused(doorless: Stack, deep: int, headers: dict[str, str]) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    row = b"[" * deep + b"]" * deep
    status, told, _ = await anna.call("POST", f"/predict/{deployment_id}", data=b"[" + row + b"]", headers=headers)
    assert (status, told["code"]) in {(422, "bad_field"), (422, "not_json")}
