"""Whatever is sent, the answer is a refusal that says what is wrong, and the next call is answered."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
from aiohttp import web
from harness.eventually import eventually
from harness.redis_server import RedisServer

from kubeserve.api import build_app, reading, serving, streams
from kubeserve.domain import Spec, VersionState
from kubeserve.errors import UnauthenticatedError
from people import walk
from stack import PASSWORD, Person, Stack

BOUNDARY = "xx"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
HEAD = b'--xx\r\nContent-Disposition: form-data; name="model"; filename="m.joblib"\r\n\r\n'
NESTED = b"--xx\r\nContent-Type: multipart/mixed; boundary=yy\r\n\r\n--yy\r\n\r\nx\r\n--yy--\r\n--xx--\r\n"
ENCODED = HEAD.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + b"eA==\r\n--xx--\r\n"
DEEP = b'{"a":' * 10_000 + b"1" + b"}" * 10_000

BODIES = [  # to a route that takes {"name", "description"}
    ("nothing", b"", 400, "bad_request"),
    ("half of it", b'{"name": "x"', 400, "bad_json"),
    ("no text", b"\xff\xfe\x00", 400, "bad_json"),
    ("a number that is none", b'{"name": NaN}', 400, "bad_request"),
    ("null", b"null", 400, "bad_request"),
    ("a list", b"[]", 400, "bad_request"),
    ("deep objects", DEEP, 400, "bad_json"),
    ("deep lists", b"[" * 10_000, 400, "bad_json"),
    ("a deep field", b'{"name":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, "bad_json"),
    ("a number for a text", b'{"name": 1}', 400, "bad_request"),
    ("null for a text", b'{"name": null}', 400, "bad_request"),
    ("an unknown field", b'{"name": "x", "owner_id": "y"}', 400, "bad_request"),
    ("a zero byte", b'{"name": "a\\u0000b"}', 400, "bad_request"),
    ("half a character", b'{"name": "\\ud800"}', 400, "bad_json"),
    ("a path", b'{"name": "../../etc"}', 400, "bad_request"),
    ("a long name", json.dumps({"name": "x" * 5000}).encode(), 400, "bad_request"),
    ("an unprintable text", b'{"name": "x", "description": "\\u001b[2J"}', 400, "bad_request"),
    ("too much", b'{"name": "' + b"x" * 70_000 + b'"}', 413, "too_large"),
    ("a form", HEAD + b"x\r\n--xx--\r\n", 400, "bad_json"),
]
DEPLOYMENTS: list[tuple[str, dict[str, Any]]] = [
    ("maximum", {"maximum": 10**30}),
    ("maximum", {"maximum": True}),
    ("maximum", {"maximum": "5"}),
    ("minimum", {"minimum": -1}),
    ("idle", {"idle": 1e308}),
    ("timeout", {"timeout": float("nan")}),
    ("memory", {"memory": 1}),
    ("memory", {"memory": 1.5}),
    ("sample", {"sample": {"a": 1}}),
    ("sample", {"sample": [float("inf")]}),
    ("name", {"name": "A B"}),
]
ROWS = [
    ("nothing", b"", 400, "bad_json"),
    ("an empty object", b"{}", 422, "bad_instance"),
    ("no rows", b"[]", 422, "bad_instance"),
    ("rows that are a text", b'{"instances": "x"}', 422, "bad_instance"),
    ("not a number", b'{"instances": [[NaN]]}', 400, "bad_json"),
    ("deep", b"[" * 100_000 + b"]" * 100_000, 400, "bad_json"),
    ("quite deep", b"[" * 600 + b"]" * 600, 422, "bad_field"),
    ("too much", b"[" + b"1," * 2_200_000 + b"1]", 413, "too_large"),
]
FORMS = [
    ("no form", {"Content-Type": "application/json"}, b"{}"),
    ("no boundary", {"Content-Type": "multipart/form-data"}, HEAD + b"x\r\n--xx--\r\n"),
    ("nothing", FORM, b""),
    ("another boundary", FORM, HEAD.replace(b"xx", b"yy") + b"x\r\n--yy--\r\n"),
    ("no end", FORM, HEAD + b"x" * 100_000),
    ("no end of the form", FORM, HEAD + b"x" * 100_000 + b"\r\n--xx"),
    ("no file", FORM, b'--xx\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--xx--\r\n'),
    ("no disposition", FORM, b"--xx\r\n\r\nx\r\n--xx--\r\n"),
    ("a form in it", FORM, NESTED),
    ("an encoding", FORM, ENCODED),
    ("a path", FORM, HEAD.replace(b"m.joblib", b"../m.joblib") + b"x\r\n--xx--\r\n"),
    ("another suffix", FORM, HEAD.replace(b"m.joblib", b"m.sh") + b"x\r\n--xx--\r\n"),
    ("many headers", FORM, b"--xx\r\n" + b"a: b\r\n" * 10_000 + b"\r\nx\r\n--xx--\r\n"),
    ("a long header", FORM, b"--xx\r\na: " + b"b" * 100_000 + b"\r\n\r\nx\r\n--xx--\r\n"),
    ("many files", FORM, (HEAD + b"x\r\n") * 50 + b"--xx--\r\n"),
]  # fmt: skip
RANGES = [
    "bytes",
    "bytes 0-0/0",
    "bytes 5-2/9",
    "bytes 0-9/5",
    "bytes -1-2/9",
    "items 0-0/1",
    "bytes 0-999/1000",
    "x" * 5000,
]
CREDENTIALS = (
    "Basic YTpi", "Bearer", "Bearer  ", "bearer x", "Bearer " + "x" * 5000, "Bearer eyJhbGciOiJub25lIn0.e30.",
    f"Bearer ks_{'0' * 32}_{'0' * 64}", "Bearer \u00e4",
)  # fmt: skip


async def refused(person: Person, method: str, path: str, status: int, code: str | None, **more: Any) -> Any:
    """Call, and see that it is refused like that."""
    answered, told, _ = await person.call(method, path, **more)
    assert (answered, code or told["code"]) == (status, told["code"]), told
    assert set(told) == {"error", "code", "faults"}
    assert told["error"]
    assert all(set(fault) == {"field", "message"} for fault in told["faults"])
    return told


async def test_json_that_is_not_as_it_should_be(doorless: Stack) -> None:
    anna = await doorless.person()
    for what, body, status, code in BODIES:
        told = await refused(anna, "POST", "/models", status, code, data=body)
        assert code != "bad_request" or told["faults"], what
    for path in ("/auth/login", "/auth/register", "/deployments"):
        for _, body, status, _ in BODIES:
            await refused(anna, "POST", path, status, None, data=body)
    assert await anna.ask("GET", "/models") == []


async def test_a_body_without_a_length_is_bounded_too(doorless: Stack) -> None:
    anna = await doorless.person()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 1000

    await refused(anna, "POST", "/models", 413, "too_large", data=endless())


async def test_a_slow_body_is_let_go(doorless: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = await doorless.person()
    monkeypatch.setattr(reading, "BODY_SECONDS", 0.2)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async with asyncio.timeout(10):
        await refused(anna, "POST", "/models", 408, "slow", data=slow())


async def test_paths_methods_and_queries_that_are_not_there(doorless: Stack) -> None:
    anna = await doorless.person()
    await refused(anna, "GET", "/nothing", 404, "not_found")
    await refused(anna, "GET", "/api/v2/models", 404, "not_found")
    told, _, headers = await anna.call("DELETE", "/me")
    assert (told, "GET" in headers["Allow"]) == (405, True)
    await refused(anna, "DELETE", "/me", 405, "method_not_allowed")
    for query in ("limit=0", "limit=1001", "limit=x", f"limit={'9' * 5000}", f"after={'a' * 100}"):
        await refused(anna, "GET", f"/models?{query}", 400, None)
    await refused(anna, "GET", "/models?after=x", 404, "not_found")
    for part in ("x", "%00", "..%2f..", "0" * 5000, "01A00000-0000-7000-8000-000000000000", "%F0%9F%90%8D"):
        await refused(anna, "GET", f"/models/{part}", 404, "not_found")
        await refused(anna, "GET", f"/predictions/{part}", 404, "not_found")


async def test_deployments_that_cannot_be(doorless: Stack) -> None:
    anna = await doorless.person()
    registry = doorless.plane.registry
    model = await registry.create_model(anna.id, "m")
    version = await registry.create_version(anna.id, model.id, "v1")
    good = {"name": "d", "version_id": version.id}
    await refused(anna, "POST", "/deployments", 409, "conflict", json=good)  # a draft
    await walk(registry, version, VersionState.READY)
    for field, change in DEPLOYMENTS:
        body = json.dumps(good | change).encode()
        told = await refused(anna, "POST", "/deployments", 400, "bad_request", data=body)
        assert field in [fault["field"] for fault in told["faults"]], change
    assert (await anna.ask("POST", "/deployments", good))["state"] == "pending"


async def test_rows_that_cannot_be_asked(doorless: Stack) -> None:
    anna = await doorless.person()
    registry = doorless.plane.registry
    model = await registry.create_model(anna.id, "m")
    version = await walk(registry, await registry.create_version(anna.id, model.id, "v1"), VersionState.READY)
    deployment = await doorless.plane.deployments.create(anna.id, model.id, "d", Spec(version.id))
    for _, body, status, code in ROWS:
        await refused(anna, "POST", f"/predict/{deployment.id}", status, code, data=io.BytesIO(body))


async def test_forms_that_are_none_leave_no_whole_file(doorless: Stack) -> None:
    anna = await doorless.person()
    registry = doorless.plane.registry
    model = await registry.create_model(anna.id, "m")
    for number, (what, headers, body) in enumerate(FORMS):
        version = await registry.create_version(anna.id, model.id, f"v{number}")
        async with asyncio.timeout(10):
            told = await refused(anna, "POST", f"/versions/{version.id}/upload", 400, None, data=body, headers=headers)
        assert "Traceback" not in told["error"]
        read = await anna.ask("GET", f"/versions/{version.id}")
        assert read["state"] in {"draft", "receiving"}, what
        if what == "no end":
            assert not any(file["complete"] for file in read["files"]), what


async def test_ranges_that_do_not_fit(doorless: Stack) -> None:
    anna = await doorless.person()
    model = await doorless.plane.registry.create_model(anna.id, "m")
    version = await doorless.plane.registry.create_version(anna.id, model.id, "v1")
    path = f"/versions/{version.id}/files/m.joblib"
    for text in RANGES:
        await refused(anna, "PUT", path, 400, "bad_range", data=b"x", headers={"Content-Range": text})
    told, _, headers = await anna.call("PUT", path, data=b"yz", headers={"Content-Range": "bytes 1-2/3"})
    assert (told, headers["Upload-Offset"]) == (409, "0")
    for name in ("..%2fm.joblib", ".joblib", "m.sh", "%00.joblib", "x" * 300 + ".joblib"):
        await refused(anna, "PUT", f"/versions/{version.id}/files/{name}", 400, None, data=b"x")


async def test_credentials_that_are_none(doorless: Stack) -> None:
    anna = await doorless.person()
    for header in CREDENTIALS:
        await refused(doorless.nobody, "GET", "/me", 401, "unauthenticated", headers={"Authorization": header})
    assert (await anna.ask("GET", "/me"))["email"] == "anna@example.org"


async def test_the_cookie_is_for_the_page_alone(doorless: Stack) -> None:
    anna = await doorless.person()
    login = {"email": "anna@example.org", "password": PASSWORD, "cookie": True}
    status, told, headers = await doorless.nobody.call("POST", "/auth/login", login)
    assert (status, told["token"]) == (200, None)
    cookie = headers["Set-Cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    proxied = await doorless.nobody.call("POST", "/auth/login", login, headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in proxied[2]["Set-Cookie"]
    page = {"Cookie": cookie.partition(";")[0]}
    assert (await doorless.nobody.call("GET", "/me", headers=page))[0] == 200
    model = {"name": "m"}
    for more, accepted in (
        ({}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Origin": doorless.url}, 409),
    ):
        assert (await doorless.nobody.call("POST", "/models", model, headers=page | more))[0] == accepted, more
    other = await doorless.nobody.call("POST", "/auth/login", login, headers={"Sec-Fetch-Site": "cross-site"})
    assert other[0] == 403
    wrong = await doorless.nobody.call("POST", "/auth/login", login | {"password": "x"}, headers=page)
    assert (wrong[0], "Set-Cookie" in wrong[2]) == (401, False), "one's login outlasts a wrong password"
    for cookie in ("x", "\u00e4", "ks_" + "0" * 97):
        status, _, headers = await doorless.nobody.call("GET", "/me", headers={"Cookie": f"kubeserve={cookie}"})
        assert (status, "Max-Age=0" in headers["Set-Cookie"]) == (401, True), "what is good for nothing is removed"
    status, _, headers = await doorless.nobody.call("POST", "/auth/logout", headers=page)
    assert status == 204
    assert "Max-Age=0" in headers["Set-Cookie"]
    assert (await anna.call("GET", "/me"))[0] == 200


async def test_a_mistake_of_ours_has_a_number_and_tells_nothing(
    doorless: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = await doorless.person()

    async def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(doorless.plane.registry, "models", broken)
    status, told, headers = await anna.call("GET", "/models")
    assert (status, told["code"], len(told["id"])) == (500, "internal", 16)
    assert told["id"] in told["error"]
    assert "secret" not in json.dumps(told)
    assert headers["X-Content-Type-Options"] == "nosniff"


async def test_too_many_who_follow_are_refused(doorless: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = await doorless.person()
    model = await doorless.plane.registry.create_model(anna.id, "m")
    version = await doorless.plane.registry.create_version(anna.id, model.id, "v1")
    monkeypatch.setattr("kubeserve.api.state.MOST_STREAMS_EACH", 1)
    monkeypatch.setattr(streams, "BEAT_SECONDS", 0.05)
    url = f"{doorless.url}/api/v1/versions/{version.id}/steps"
    async with anna.http.get(url, headers=anna.headers) as answer:
        assert (await answer.content.readline()).startswith(b"event: version")
        told = await refused(anna, "GET", f"/versions/{version.id}/steps", 429, "limited")
        assert told
        while b"still here" not in await answer.content.readline():
            pass

    async def is_free() -> int:
        async with anna.http.get(url, headers=anna.headers) as again:
            return again.status

    async with asyncio.timeout(10):
        while await is_free() != 200:  # noqa: ASYNC110  the server notices it with its next comment
            await asyncio.sleep(0.02)


async def test_who_does_not_read_is_let_go(doorless: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = await doorless.person()
    registry = doorless.plane.registry
    model = await registry.create_model(anna.id, "m")
    version = await walk(registry, await registry.create_version(anna.id, model.id, "v1"), VersionState.READY)
    deployment = await doorless.plane.deployments.create(anna.id, model.id, "d", Spec(version.id))
    made = 0

    async def endless(_deployment_id: str, *, follow: bool) -> AsyncIterator[str]:
        nonlocal made
        while follow:
            made += 1
            yield "x" * 10_000

    monkeypatch.setattr(doorless.plane.place, "logs", endless)
    monkeypatch.setattr(streams, "SLOW_SECONDS", 0.3)
    host, _, port = doorless.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    path = f"/api/v1/deployments/{deployment.id}/logs"
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {anna.token}\r\n\r\n"
    writer.write(head.encode())
    await eventually(lambda: made)
    before = -1
    async with asyncio.timeout(20):
        while before != made:
            before = made
            await asyncio.sleep(0.5)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1 << 30)
    writer.close()
    assert made < 5000
    assert (await anna.ask("GET", "/me"))["id"] == anna.id


async def test_limits_are_per_address_also_behind_a_proxy_that_is_trusted(
    tmp_path: Path, science: Path, redis_server: RedisServer, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.ping()
    seen = list[str | None]()
    for trusted in ("", "127.0.0.1 10.0.0.0/8"):
        (tmp_path / str(len(seen))).mkdir()
        async with Stack.open(
            tmp_path / str(len(seen)), science, f"{redis_server.url}/0", door=False, trusted_proxies=trusted
        ) as doorless:

            async def login(*_: object, caller: str | None) -> None:
                seen.append(caller)
                raise UnauthenticatedError("no")

            monkeypatch.setattr(doorless.plane.accounts, "login", login)
            body = {"email": "a@example.org", "password": PASSWORD}
            for told in ("6.6.6.6, 1.2.3.4", "6.6.6.6, 1.2.3.4, 10.0.0.9", "nonsense", " , "):
                await refused(
                    doorless.nobody, "POST", "/auth/login", 401, None, json=body, headers={"X-Forwarded-For": told}
                )
    assert seen == ["127.0.0.1"] * 4 + ["1.2.3.4", "1.2.3.4", "nonsense", "127.0.0.1"]


async def test_what_a_key_is_for_is_told_by_name(doorless: Stack) -> None:
    anna = await doorless.person()
    registry = doorless.plane.registry
    model = await registry.create_model(anna.id, "m")
    version = await walk(registry, await registry.create_version(anna.id, model.id, "v1"), VersionState.READY)
    deployment = await doorless.plane.deployments.create(anna.id, model.id, "flowers", Spec(version.id))
    made = await anna.ask("POST", "/keys", {"name": "shop", "deployment_id": deployment.id})
    await anna.ask("POST", "/keys", {"name": "laptop"})
    assert made["deployment"] == "flowers"
    told = await anna.ask("GET", "/keys")
    assert [(key["name"], key["deployment"]) for key in told] == [("shop", "flowers"), ("laptop", None)]


async def test_a_version_of_another_model_is_told_as_such(doorless: Stack) -> None:
    anna = await doorless.person()
    registry = doorless.plane.registry
    made = []
    for name in ("one", "other"):
        model = await registry.create_model(anna.id, name)
        made.append(await walk(registry, await registry.create_version(anna.id, model.id, "v1"), VersionState.READY))
    deployment = await doorless.plane.deployments.create(anna.id, made[0].model_id, "d", Spec(made[0].id))
    path = f"/deployments/{deployment.id}"
    told = await refused(anna, "PATCH", path, 409, "conflict", json={"version_id": made[1].id})
    assert "of another model" in told["error"]


async def test_metrics_name_what_others_added_to_the_application(doorless: Stack) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="a page")

    admin = await doorless.person()
    app = build_app(doorless.plane)
    app.router.add_get("/pages/{name}", page)
    async with serving(app, "127.0.0.1", 0) as port:
        person = Person(doorless.http, f"http://127.0.0.1:{port}", admin.token)
        for path in ("/pages/one", "/pages/two", "/nothing"):
            async with doorless.http.get(f"{person.url}{path}") as answer:
                await answer.read()
        text = await person.ask("GET", "/metrics")
    assert 'kubeserve_requests_total{route="GET /pages/{name}",status="200"} 2.0' in text
    assert 'kubeserve_requests_total{route="unknown",status="404"} 1.0' in text


async def test_who_uploads_too_much_is_refused_and_others_are_not(
    doorless: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubeserve.uploads.MOST_COMING", 2)
    monkeypatch.setattr(doorless.plane.uploads, "_storage", 5)
    anna, ben = await doorless.person(), await doorless.person("ben")
    paths = []
    for person in (anna, anna, anna, ben):
        name = f"m{len(paths)}"
        model = await doorless.plane.registry.create_model(person.id, name)
        version = await doorless.plane.registry.create_version(person.id, model.id, "v1")
        paths.append(f"/versions/{version.id}")
    for path in paths[:2]:
        assert (await anna.call("PUT", f"{path}/files/m.joblib", data=b"12345"))[0] == 201
    told = await refused(anna, "PUT", f"{paths[2]}/files/m.joblib", 429, "quota", data=b"x")
    assert "2 uploads are not finished" in told["error"]
    await anna.ask("POST", f"{paths[0]}/finish")
    told = await refused(anna, "PUT", f"{paths[2]}/files/m.joblib", 429, "quota", data=b"x")
    assert "your files take 5 bytes" in told["error"]
    assert (await ben.call("PUT", f"{paths[3]}/files/m.joblib", data=b"x"))[0] == 201
