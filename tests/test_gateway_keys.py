"""Keys of the gateway: who may call, whose jobs a key sees, and what is said where a limit is reached."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from time import time
from typing import Any, Final

import aiohttp
import orjson
import pytest

from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.files.store import open_files
from greenscale_worker.gateway import keys, limits, upkeep
from greenscale_worker.gateway.core import GatewayOptions
from greenscale_worker.gateway.keys import Limits, new_key
from greenscale_worker.gateway.route import SCOPES
from greenscale_worker.gateway.table import ROUTES
from greenscale_worker.job import Failed, Output, Succeeded, Usage
from greenscale_worker.testing.rig import run
from harness.eventually import PATIENCE, eventually
from tests.support.api import Answer, Api, a_gateway
from tests.support.shell import Shell

ALL: Final = ("submit", "read", "cancel")
JOB: Final = {"prompt": "What is 2+2?"}


class Holder:
    """Calls with a key."""

    def __init__(self, api: Api, key_id: str, token: str) -> None:
        self.api = api
        self.key_id = key_id
        self.headers = {"Authorization": f"Bearer {token}"}

    async def call(self, method: str, path: str, json: Any = None, **headers: str) -> Answer:
        return await self.api.call(method, path, json=json, headers=self.headers | headers)

    async def submit(self, **fields: Any) -> str:
        answer = await self.call("POST", "/v1/jobs", {**JOB, **fields})
        assert answer.status == 202, answer
        return str(answer.json["id"])


async def holder(api: Api, **fields: Any) -> Holder:
    """A new key, which the gateway knows."""
    key_id, token, key = new_key(**{"scopes": ALL, **fields})
    await api.queue.set_key(key_id, key.model_dump_json().encode())
    await api.gateway.keyring.refresh()
    return Holder(api, key_id, token)


@pytest.fixture
async def api(redis_url: str) -> AsyncIterator[Api]:
    async with a_gateway(redis_url, files=open_files("memory:")) as api:
        yield api


async def settle(api: Api, outcome: Any = None) -> None:
    done = outcome or Succeeded(Output("4", usage=Usage(30, 10, 40)))
    assert await api.worker.settle(await run(api.worker), done)


async def test_without_keys_everybody_here_may_call_and_with_one_nobody_without(api: Api) -> None:
    assert (await api.get("/v1/jobs")).status == 200
    key = await holder(api)
    assert (await key.call("GET", "/v1/jobs")).status == 200
    token = key.headers["Authorization"].removeprefix("Bearer ")
    other = re.sub(r".$", lambda last: "1" if last[0] != "1" else "2", token)
    for authorization in (
        "",
        token,
        f"Basic {token}",
        "Bearer sk-1234",
        f"Bearer {other}",
        f"Bearer gs_nobody_{token.rpartition('_')[2]}",
    ):
        refused = await api.get("/v1/jobs", headers={"Authorization": authorization})
        assert (refused.status, refused.code) == (401, "invalid_api_key"), authorization
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert ("a key is needed" in refused.json["detail"]) == (not authorization), "a wrong key is called so"
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
        assert (await api.get(path)).status == 200
    assert (await api.get("/")).status == 307
    assert (await key.call("GET", "/v1/jobs", Host="gateway.example")).status == 200


async def test_a_key_of_another_gateway_that_is_revoked_or_expired_is_refused(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "EVERY_SECONDS", 0.05)
    async with a_gateway(redis_url) as one, a_gateway(redis_url) as two:
        key_id, token, key = new_key(scopes=ALL)
        headers = {"Authorization": f"Bearer {token}"}

        async def both(status: int) -> None:
            async with asyncio.timeout(PATIENCE):
                for api in (one, two):
                    while (await api.get("/v1/jobs", headers=headers)).status != status:  # noqa: ASYNC110  over HTTP
                        await asyncio.sleep(0.01)

        await one.queue.set_key(key_id, key.model_dump_json().encode())
        await eventually(lambda: one.gateway.keyring.exists)
        await both(200)
        revoked = key.model_copy(update={"revoked_at": time()})
        await one.queue.set_key(key_id, revoked.model_dump_json().encode())
        await both(401)
        expired = key.model_copy(update={"expires_at": time() - 1})
        await one.queue.set_key(key_id, expired.model_dump_json().encode())
        await both(401)
        await one.queue.set_key(key_id, b"not a key")
        await both(401)


async def test_keys_are_read_often_enough() -> None:
    assert upkeep.EVERY_SECONDS < keys.STALE_SECONDS <= 5


async def test_keys_that_cannot_be_read_any_more_are_not_believed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await holder(api)
    monkeypatch.setattr(keys, "STALE_SECONDS", -1.0)

    async def away() -> dict[str, bytes]:
        raise QueueUnavailableError("away")

    assert (await key.call("GET", "/v1/jobs")).status == 200, "they are read again"
    monkeypatch.setattr(api.queue, "keys", away)
    assert (await key.call("GET", "/v1/jobs")).code == "queue_unavailable"


async def test_a_key_is_for_its_scopes_only(api: Api) -> None:
    may = {scope: await holder(api, scopes=(scope,)) for scope in ("submit", "read", "cancel", "admin")}
    for scope, key in may.items():
        for method, path, needs, body in (
            ("POST", "/v1/jobs", "submit", JOB),
            ("GET", "/v1/jobs", "read", None),
            ("DELETE", "/v1/jobs/nobody", "cancel", None),
            ("POST", "/v1/dead/replay", "submit", {"ids": []}),
            ("DELETE", "/v1/dead/nobody", "cancel", None),
            ("GET", "/v1/stats", "read", None),
        ):
            answer = await key.call(method, path, body)
            if scope in (needs, "admin"):
                assert answer.status in (200, 202, 404), (scope, path)
            else:
                assert (answer.status, answer.code) == (403, "missing_scope"), (scope, path)
                assert needs in answer.json["detail"]


async def test_a_tenant_sees_its_own_jobs_only_under_its_own_ids(api: Api) -> None:
    a, b, operator = await holder(api, tenant="a"), await holder(api, tenant="b"), await holder(api)
    assert await a.submit(job_id="same") == await b.submit(job_id="same") == "same"
    job = (await a.call("GET", "/v1/jobs/same")).json
    assert (job["tenant"], job["links"]["self"]) == ("a", "/v1/jobs/same")
    await settle(api, Succeeded(Output("for a")))
    await settle(api, Succeeded(Output("for b")))
    for key, text in ((a, b"for a"), (b, b"for b")):
        assert (await key.call("GET", "/v1/jobs/same/result")).body == text
        assert [job["id"] for job in (await key.call("GET", "/v1/jobs")).json["data"]] == ["same"]
    everything = (await operator.call("GET", "/v1/jobs")).json["data"]
    assert {job["id"] for job in everything} == {"a:same", "b:same"}
    assert {job["tenant"] for job in everything} == {"a", "b"}
    idempotent = [
        (await key.call("POST", "/v1/jobs", JOB, **{"Idempotency-Key": "1"})).json["id"] for key in (a, b, operator)
    ]
    assert len(set(idempotent)) == 3
    record = await api.queue.record(f"a:{idempotent[0]}")
    assert record["tenant"] == "a"


async def a_batch(key: Holder) -> dict[str, Any]:
    """Upload a file; return a request for a batch of it."""
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", b'{"secret": 1}\n', filename="secret.jsonl")
    file = await key.api.call("POST", "/v1/files", data=form, headers=key.headers)
    return {"input_file_id": file.json["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}


async def owned_by(b: Holder) -> dict[str, str]:
    """One thing of each kind of B that has an id, by the path of the kind, and with something secret in it."""
    hook = {"event_types": ["job.failed"], "name": "secret hook", "url": "http://127.0.0.1:9/secret"}
    asked = {"model": "m", "input": "secret question", "background": True}
    batch = {**await a_batch(b), "metadata": {"a": "secret"}}
    made = {
        "/v1/jobs": await b.submit(job_id="done", prompt="secret prompt"),
        "/v1/files": batch["input_file_id"],
        "/v1/batches": (await b.call("POST", "/v1/batches", batch)).json["id"],
        "/v1/responses": (await b.call("POST", "/v1/responses", asked)).json["id"],
        "/v1/webhook_endpoints": (await b.call("POST", "/v1/webhook_endpoints", hook)).json["id"],
    }
    await b.submit(job_id="dead")
    await settle(b.api, Succeeded(Output("secret answer")))
    await settle(b.api)
    await settle(b.api, Failed("secret_code", "secret message"))
    return made | {"/v1/dead": (await b.call("GET", "/v1/dead")).json["data"][0]["id"]}


def forged(name: str) -> list[str]:
    """An id of B's, and what might be taken for one on the way to where things are kept."""
    steps = ("", "b:", "b%3A", "a:b:", "../b/", "..%2Fb%2F", "%2e%2e%2fb%2f", "b%2F", "%00", "%ff", "_%2F")
    return [f"{step}{name}" for step in steps] + [f"{name}%00", f"{name}%2F..", f"{name}%0a", "é", "..", "x" * 7000]


async def test_a_key_of_a_sees_nothing_of_b_on_any_route(api: Api) -> None:
    a, b = await holder(api, tenant="a", scopes=("admin",)), await holder(api, tenant="b", scopes=("admin",))
    owned = await owned_by(b)
    shows = [f"{kind}/{name}" for kind, name in owned.items()]
    lists = ["/v1/jobs?limit=100", *(kind for kind in owned if kind not in ("/v1/jobs", "/v1/responses"))]
    before = [(await b.call("GET", path)).json for path in (*shows, *lists)]
    assert all("error" not in each or each["error"] is None for each in before), "B sees all of it"
    bodies: dict[str, Any] = {
        "POST /v1/jobs": {**JOB, "job_id": "mine"},
        "POST /v1/dead/replay": {"ids": list(owned.values())},
        "POST /v1/batches": {
            "input_file_id": owned["/v1/files"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
        "POST /v1/responses": {"input": "x", "previous_response_id": owned["/v1/responses"]},
        "POST /v1/webhook_endpoints/{id}/failures/replay": {"ids": list(owned.values())},
    }
    nobodys = {"/v1/models": "no-such-model", "/v1/tenants": "b"}
    waits = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
    for route in ROUTES:
        if route.scope is None:
            continue
        kind, has_id, _ = route.path.partition("/{id}")
        for name in forged((owned | nobodys)[kind]) if has_id else [""]:
            body = bodies.get(route.name, {} if route.body is not None or route.path in waits else None)
            path = f"{route.path.replace('{id}', name)}" + ("?stream=true" if has_id and route.query and name else "")
            if "stream" in path and "stream" not in route.query.model_fields:  # type: ignore[union-attr]  it has one
                path = path.removesuffix("?stream=true")
            answer = await a.call(route.method, path, body)
            if route.whole:
                assert (answer.status, answer.code) == (403, "missing_scope") or ".." in name, route.name
            elif has_id:
                assert answer.status == 404 or (name == ".." and answer.status in (400, 404, 405)), (route.name, answer)
            said = answer.body.decode() + str(answer.headers)
            assert "secret" not in said, route.name
            assert all(name == each or name in str(bodies.get(route.name)) or each not in said
                       for each in owned.values() if not has_id), route.name  # fmt: skip
    for listed in (route.path for route in ROUTES if route.query is not None and "after" in route.query.model_fields):
        for name in owned.values():
            answer = await a.call("GET", f"{listed.replace('{id}', name)}?after={name}")
            assert answer.status == 404 or "secret" not in answer.body.decode(), listed
    assert (await a.call("POST", "/v1/dead/replay", {"code": "secret_code"})).json["replayed"] == 0
    assert (await a.call("GET", "/v1/dead/codes")).json["data"] == []
    refused = await a.call("POST", "/v1/batches", bodies["POST /v1/batches"])
    assert (refused.status, refused.json["error"]["param"]) == (400, "input_file_id")
    after = [(await b.call("GET", path)).json for path in (*shows, *lists)]
    assert after == before, "and none of it was touched"
    assert {job["id"] for job in (await a.call("GET", "/v1/jobs")).json["data"]} == {"mine"}
    for path in ("/v1/files", "/v1/batches", "/v1/webhook_endpoints", "/v1/dead"):
        assert (await a.call("GET", path)).json["data"] == [], path


async def test_an_idempotency_key_of_another_tenant_means_nothing(api: Api) -> None:
    a, b = await holder(api, tenant="a", scopes=("admin",)), await holder(api, tenant="b", scopes=("admin",))
    for path, body in (
        ("/v1/jobs", JOB),
        ("/v1/responses", {"model": "m", "input": "x", "background": True}),
    ):
        made = [(await key.call("POST", path, body, **{"Idempotency-Key": "1"})).json["id"] for key in (a, b, a)]
        assert made[0] == made[2] != made[1], path
    asked = {key.key_id: await a_batch(key) for key in (a, b)}
    batches = [
        (await key.call("POST", "/v1/batches", asked[key.key_id], **{"Idempotency-Key": "1"})).json["id"]
        for key in (a, b, a)
    ]
    assert batches[0] == batches[2] != batches[1]


async def test_every_route_wants_the_scope_that_the_table_and_the_page_say(api: Api) -> None:
    may = {scope: await holder(api, scopes=(scope,)) for scope in SCOPES}
    revoked, expired = await holder(api, revoked_at=1.0), await holder(api, expires_at=1.0)
    page = (Path(__file__).parents[1] / "docs" / "gateway.md").read_text()
    for route in ROUTES:
        if route.scope is None:
            continue
        assert f"`{route.name}` | `{route.scope}` |" in page, route.name
        path = route.path.replace("{id}", "nobody")
        for scope, key in may.items():
            if scope not in (route.scope, "admin"):
                answer = await key.call(route.method, path, {})
                assert (answer.status, answer.code) == (403, "missing_scope"), (scope, route.name)
        for key in (revoked, expired):
            assert (await key.call(route.method, path, {})).code == "invalid_api_key", route.name


async def test_a_batch_counts_as_one_job_that_has_not_ended(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOK_SECONDS", 0.0)
    key = await holder(api, scopes=("batch", "submit"), limits=Limits(waiting=2))
    asked = await a_batch(key)
    made = await key.call("POST", "/v1/batches", asked, **{"Idempotency-Key": "1"})
    await key.submit()
    for path, body in (("/v1/batches", asked), ("/v1/jobs", JOB)):
        refused = await key.call("POST", path, body)
        assert (refused.status, refused.json["error"]["param"]) == (429, "waiting"), path
    again = await key.call("POST", "/v1/batches", asked, **{"Idempotency-Key": "1"})
    assert again.json["id"] == made.json["id"], "one that is there is no new one"
    await settle(api)
    assert (await key.call("POST", "/v1/batches", asked)).status == 200


async def test_no_client_names_its_tenant(api: Api) -> None:
    a = await holder(api, tenant="a")
    refused = await a.call("POST", "/v1/jobs", {**JOB, "tenant": "b"})
    assert (refused.status, refused.json["error"]["param"]) == (400, "tenant")
    long = await a.call("POST", "/v1/jobs", {**JOB, "job_id": "x" * 127})
    assert (long.status, long.code) == (400, "bad_job_id")
    assert "126" in long.json["detail"]


async def test_requests_a_minute(api: Api) -> None:
    key = await holder(api, limits=Limits(requests_per_minute=3))
    seen = [await key.call("GET", "/v1/jobs") for _ in range(5)]
    assert [answer.status for answer in seen] == [200, 200, 200, 429, 429]
    first, last = seen[0].headers, seen[-1]
    assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]) == ("3", "2")
    assert (last.code, last.json["error"]["param"]) == ("rate_limit_exceeded", "requests_per_minute")
    assert last.headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(last.headers["Retry-After"]) <= 20
    assert re.fullmatch(r"[\d.]+s", last.headers["x-ratelimit-reset-requests"])
    assert (await (await holder(api)).call("GET", "/v1/jobs")).status == 200, "of one key, not of all"


async def test_a_bucket_fills_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(limits, "monotonic", lambda: now)
    bucket = limits.Bucket(60)
    assert [bucket.take(1) for _ in range(60)] == [0.0] * 60
    assert bucket.take(1) == pytest.approx(1)
    now = 2.0
    assert [bucket.take(1) for _ in range(3)] == [0.0, 0.0, pytest.approx(1)]
    now = 1000.0
    assert bucket.take(180) == 0.0, "what is more than a minute's is let in once the bucket is full"
    assert bucket.take(1) == pytest.approx(121)


async def test_requests_at_a_time(api: Api) -> None:
    key = await holder(api, limits=Limits(in_flight=2))
    waits = await key.submit()
    calls = [asyncio.create_task(key.call("GET", f"/v1/jobs/{waits}", Prefer="wait=600")) for _ in range(2)]
    (account,) = api.gateway.accounts._accounts.values()  # noqa: SLF001  how many are in flight, without another one
    await eventually(lambda: account.in_flight == 2)
    refused = await key.call("GET", "/v1/jobs")
    assert (refused.status, refused.json["error"]["param"]) == (429, "in_flight")
    await settle(api)
    assert [(await call).status for call in calls] == [200, 200]
    assert (await key.call("GET", "/v1/jobs")).status == 200


async def test_jobs_that_have_not_ended(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOK_SECONDS", 0.0)
    key = await holder(api, limits=Limits(waiting=2))
    await key.submit()
    await key.submit()
    refused = await key.call("POST", "/v1/jobs", JOB)
    assert (refused.status, refused.json["error"]["param"]) == (429, "waiting")
    assert int(refused.headers["Retry-After"]) >= 1
    await settle(api)
    await key.submit()
    assert (await key.call("POST", "/v1/jobs", JOB)).status == 429
    assert (await key.call("GET", "/v1/jobs")).status == 200, "reading goes on"


async def test_bytes_a_minute(api: Api) -> None:
    key = await holder(api, limits=Limits(bytes_per_minute=1000))
    big = {"prompt": "x" * 600}
    assert (await key.call("POST", "/v1/jobs", big)).status == 202
    refused = await key.call("POST", "/v1/jobs", big)
    assert (refused.status, refused.json["error"]["param"]) == (429, "bytes_per_minute")


async def test_tokens_a_minute_are_those_of_the_tenant_wherever_they_were_spent(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TOKENS_SECONDS", 0.0)
    one = await holder(api, tenant="a", limits=Limits(tokens_per_minute=50))
    two = await holder(api, tenant="a")
    other = await holder(api, tenant="b", limits=Limits(tokens_per_minute=50))
    for _ in range(2):
        await two.submit()
        await settle(api)
    refused = await one.call("POST", "/v1/jobs", JOB)
    assert (refused.status, refused.json["error"]["param"]) == (429, "tokens_per_minute")
    assert refused.headers["x-ratelimit-limit-tokens"] == "50"
    accepted = await other.call("POST", "/v1/jobs", JOB)
    assert accepted.status == 202
    assert accepted.headers["x-ratelimit-remaining-tokens"] == "50"


async def test_the_operators_key_is_in_the_settings(redis_url: str) -> None:
    key = f"gs_ops_{'0' * 64}"
    async with a_gateway(redis_url, options=GatewayOptions(queue="jobs", key=key, open_without_keys=False)) as api:
        assert (await api.get("/v1/stats")).status == 401
        assert (await api.get("/v1/stats", headers={"Authorization": f"Bearer {key}"})).status == 200
        assert key not in repr(api.gateway.options)
    async with a_gateway(redis_url, options=GatewayOptions(queue="jobs", open_without_keys=False)) as api:
        assert (await api.get("/v1/jobs")).status == 401, "though somebody has deleted all keys"


def test_keys_are_made_shown_once_listed_and_revoked(shell: Shell) -> None:
    code, token, err = shell(
        "keys", "create", "--tenant", "search", "--expires", "90d", "--waiting", "5", "--note", "x y"
    )
    assert code == 0
    found = re.fullmatch(r"gs_([0-9a-f]{10})_([0-9a-f]{64})\n", token)
    assert found
    assert "only time" in err
    documents = shell.client.hgetall("{jobs}:keys")
    assert found[2].encode() not in b"".join(documents.values())
    code, out, _ = shell("keys", "list", "--json")
    listed = orjson.loads(out)
    assert (listed["id"], listed["tenant"], listed["scopes"]) == (found[1], "search", ["submit", "read", "cancel"])
    assert (listed["state"], listed["note"], listed["limits"]) == ("active", "x y", {"waiting": 5})
    assert listed["expires_at"] > listed["created_at"]
    code, out, _ = shell("keys", "list")
    assert found[1] in out
    assert found[2] not in out
    assert "in 89 d 23 h" in out
    assert "waiting 5, x y" in out
    shell.client.hset("{jobs}:keys", "0123456789", "of a later version")
    assert "unreadable" in shell("keys", "list")[1]
    shell.client.hdel("{jobs}:keys", "0123456789")
    assert shell("keys", "revoke", found[1]) == (0, f"The key {found[1]} is revoked.\n", "")
    assert shell("keys", "revoke", token.strip())[0] == 0
    assert orjson.loads(shell("keys", "list", "--json")[1])["state"] == "revoked"
    assert shell("keys", "revoke", "nobody")[0] == 3
    made = orjson.loads(shell("keys", "create", "--scopes", "read", "--json")[1])
    assert made["key"].startswith(f"gs_{made['id']}_")
    assert (made["tenant"], made["expires_at"], made["limits"]) == (None, None, {})


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["create", "--scopes", "write"], "submit, read, cancel, batch, admin"),
        (["create", "--tenant", "A_b"], "small letters"),
        (["create", "--waiting", "0"], "above 0"),
        (["create", "--expires", "soon"], "soon"),
        ([], "create, list, revoke"),
    ],
)
def test_a_slip_is_said(shell: Shell, arguments: list[str], word: str) -> None:
    code, out, err = shell("keys", *arguments)
    assert (code, out) == (2, "")
    assert word in err
