"""Promises of every route, read from the table: a new route is covered by itself."""

import json
import re
from dataclasses import dataclass
from typing import Any

import aiohttp

from kubeserve.api.route import Access, Route
from kubeserve.api.routes import ROUTES
from kubeserve.domain import Spec, VersionState
from people import walk
from stack import PASSWORD, Person, Stack

VALUES: dict[str, Any] = {  # of what bodies ask, but ids
    "email": "carl@example.org",
    "password": PASSWORD,
    "name": "fresh",
    "tag": "v9",
    "revision": 1,
    "requests_per_minute": 600,
}
NAMES = {"files": "model.joblib", "aliases": "champion"}  # what `{name}` stands for
ASYNC = {"Prefer": "respond-async"}


@dataclass
class Owner:
    """Somebody, and the ids of one thing of each kind."""

    person: Person
    ids: dict[str, str]

    async def try_(self, route: Route, ids: dict[str, str], **more: Any) -> tuple[int, Any, Any]:
        """Call a route as it wants to be called, with these ids."""
        found = re.search(r"/(\w+)/{name}", route.path)
        path = route.path.format_map(ids | ({"name": NAMES[found[1]]} if found else {}))
        if route.query is not None and "follow" in route.query.model_fields:
            path += "?follow=false"
        given: dict[str, Any] = {"headers": ASYNC}
        if route.body is not None:
            required = [name for name, field in route.body.model_fields.items() if field.is_required()]
            given["json"] = {name: VALUES.get(name) or ids[name] for name in required}
            given["json"] |= {name: ids[name] for name in route.body.model_fields if name in ids}
        elif route.takes == "multipart/form-data":
            given["data"] = aiohttp.FormData()
            given["data"].add_field("model", b"x", filename="model.joblib")
        elif route.takes == "application/octet-stream":
            given["data"] = b"x"
        elif route.takes:
            given["json"] = [[1.0]]
        return await self.person.call(route.method, path, **given | more)


async def owner(doorless: Stack, name: str) -> Owner:
    """Make somebody with a model, a version, an alias, a deployment, a key and a prediction."""
    person, plane = await doorless.person(name), doorless.plane
    model = await plane.registry.create_model(person.id, "model")
    version = await plane.registry.create_version(person.id, model.id, "v1")
    await walk(plane.registry, version, VersionState.READY)
    await plane.registry.set_alias(person.id, model.id, "champion", version.id)
    deployment = await plane.deployments.create(person.id, model.id, "deployed", Spec(version.id))
    key, _ = await plane.accounts.create_key(person.id, "key")
    prediction = await plane.predictions.submit(deployment.id, [[1.0]])
    ids = {"model_id": model.id, "version_id": version.id, "deployment_id": deployment.id}
    return Owner(person, ids | {"key_id": key.id, "prediction_id": prediction})


def is_refusal(told: Any) -> bool:
    """Whether it is what every refusal is."""
    return set(told) == {"error", "code", "faults"} and bool(told["error"]) and bool(told["code"])


def test_what_is_for_anyone_is_named_here() -> None:
    public = {route.name.replace("/api/v1", "") for route in ROUTES if route.access is Access.ANYONE}
    auth = {f"POST /auth/{word}" for word in ("register", "login", "logout")}
    assert public == {*auth, "GET /healthz", "GET /openapi.json"}


async def test_every_route_that_is_not_for_anyone_asks_who_calls(doorless: Stack) -> None:
    anna = await owner(doorless, "anna")
    nobody = Owner(doorless.nobody, anna.ids)
    for route in ROUTES:
        status, told, headers = await nobody.try_(route, anna.ids)
        if route.access is Access.ANYONE:
            assert status != 401, route.name
            continue
        assert status == 401, route.name
        assert headers["WWW-Authenticate"] == "Bearer"
        assert route.method == "HEAD" or is_refusal(told), route.name


async def test_what_is_foreign_is_as_what_is_not_there_on_every_route(doorless: Stack) -> None:
    anna, bob = await owner(doorless, "anna"), await owner(doorless, "bob")
    nowhere = dict.fromkeys(bob.ids, "01a00000-0000-7000-8000-000000000000")
    nowhere["prediction_id"] = f"{nowhere['model_id']}.{nowhere['model_id']}"
    for route in ROUTES:
        if route.method == "GET" or route.access is Access.PREDICTOR:
            await bob.try_(route, bob.ids)  # what is remembered now is not for others
        status, told, _ = await anna.try_(route, bob.ids)
        named = "{" in route.path or (route.body is not None and bob.ids.keys() & route.body.model_fields.keys())
        if named:
            assert status == 404, (route.name, status, told)
            assert told == (await anna.try_(route, nowhere))[1], route.name
        assert not any(id_ in json.dumps(told) for id_ in bob.ids.values()), route.name


async def test_its_owner_finds_it_on_every_route(doorless: Stack) -> None:
    """That is why the test above does not pass for another reason."""
    await doorless.person("first")  # the admin
    bob = await owner(doorless, "bob")
    inner_first = reversed([route for route in ROUTES if route.method == "DELETE"])
    for route in [*(route for route in ROUTES if route.method != "DELETE"), *inner_first]:
        status, told, _ = await bob.try_(route, bob.ids)
        expected = {403} if route.access is Access.ADMIN else {200, 201, 202, 204, 409}
        if route.path == "/healthz":
            expected = {503}
        assert status in expected | ({401} if route.path.endswith("login") else set()), (route.name, status, told)


async def test_one_own_and_one_foreign_thing_make_nothing(doorless: Stack) -> None:
    anna, bob = await owner(doorless, "anna"), await owner(doorless, "bob")
    alias = f"/models/{anna.ids['model_id']}/aliases/best"
    assert (await anna.person.call("PUT", alias, {"version_id": bob.ids["version_id"]}))[0] == 404
    for mine, other in (("model_id", "version_id"), ("version_id", "model_id")):
        body = {"name": "x", mine: anna.ids[mine], other: bob.ids[other]}
        assert (await anna.person.call("POST", "/deployments", body))[0] == 404
    body = {"version_id": bob.ids["version_id"]}
    assert (await anna.person.call("PATCH", f"/deployments/{anna.ids['deployment_id']}", body))[0] == 404


async def test_a_key_of_one_deployment_is_for_its_predictions_alone(doorless: Stack) -> None:
    anna, bob = await owner(doorless, "anna"), await owner(doorless, "bob")
    body = {"name": "k", "deployment_id": anna.ids["deployment_id"]}
    key = Owner(Person(doorless.http, doorless.url, (await anna.person.ask("POST", "/keys", body))["key"]), anna.ids)
    for route in ROUTES:
        status, told, _ = await key.try_(route, anna.ids)
        if route.access is Access.PREDICTOR:
            assert status in {200, 202, 204}, route.name
            assert (await key.try_(route, bob.ids))[0] == 403, route.name
        elif route.access is not Access.ANYONE:
            assert status == 403, route.name
            assert route.method == "HEAD" or is_refusal(told)
    other = await doorless.plane.deployments.create(
        anna.person.id, anna.ids["model_id"], "other", Spec(anna.ids["version_id"])
    )
    assert (await key.person.call("POST", f"/predict/{other.id}", [[1]], headers=ASYNC))[0] == 403


async def test_a_key_for_all_may_do_all_but_manage_keys(doorless: Stack) -> None:
    anna = await owner(doorless, "anna")
    made = await anna.person.ask("POST", "/keys", {"name": "k"})
    key = Owner(Person(doorless.http, doorless.url, made["key"]), anna.ids)
    for route in ROUTES:
        status = (await key.try_(route, {**anna.ids, "key_id": made["id"]}))[0]
        assert (status == 403) is (route.access is Access.PERSON), route.name
    await anna.person.ask("DELETE", f"/keys/{made['id']}")
    assert (await key.person.call("GET", "/me"))[0] == 401


async def test_the_document_describes_the_table(doorless: Stack) -> None:
    told = await doorless.nobody.ask("GET", "/openapi.json")
    assert told["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    text = json.dumps(told)
    for ref in set(re.findall(r'"#/components/schemas/(\w+)"', text)):
        assert ref in told["components"]["schemas"]
    identities = [operation["operationId"] for methods in told["paths"].values() for operation in methods.values()]
    assert len(set(identities)) == len(identities)
    assert all(operation["summary"] for methods in told["paths"].values() for operation in methods.values())


async def test_every_answer_has_the_headers_of_safety(doorless: Stack) -> None:
    anna = await owner(doorless, "anna")
    for person, path in ((anna.person, "/me"), (doorless.nobody, "/me"), (doorless.nobody, "/api/v1/nothing")):
        headers = (await person.call("GET", path))[2]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers
