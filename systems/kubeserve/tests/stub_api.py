"""The paths of the API that uploads and the Python client need, on the real accounts, registry and uploads.

Run with `python stub_api.py PORT DATA OBJECTS` until it is killed.
"""

import asyncio
import dataclasses
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from kubeserve.accounts import Accounts
from kubeserve.database import open_database
from kubeserve.errors import Fault, KubeServeError, LimitedError, UnprocessableError
from kubeserve.objects import open_objects
from kubeserve.registry import Registry
from kubeserve.uploads import OffsetError, Uploads

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def answer(value: Any, status: int = 200) -> web.Response:
    def other(what: Any) -> Any:
        return what.isoformat() if isinstance(what, datetime) else dataclasses.asdict(what)

    return web.Response(body=orjson.dumps(value, default=other), status=status, content_type="application/json")


class Stub:
    """The handlers. What they deploy is a number of words only."""

    def __init__(self, accounts: Accounts, registry: Registry, uploads: Uploads) -> None:
        self.accounts = accounts
        self.registry = registry
        self.uploads = uploads
        self.calls: list[str] = []  # what came
        self.unavailable: list[int] = []  # statuses to answer first
        self.predictions: list[int] = []
        self.waits = 0

    @web.middleware
    async def explain(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.calls.append(f"{request.method} {request.path}")
        if self.unavailable:
            return web.Response(status=self.unavailable.pop(), text="<p>a proxy's\npage</p>")
        try:
            return await handler(request)
        except KubeServeError as error:
            faults = [dataclasses.asdict(fault) for fault in error.faults]
            response = answer({"error": error.message, "code": error.code, "faults": faults}, error.status)
            if isinstance(error, OffsetError):
                response.headers["Upload-Offset"] = str(error.offset)
            if isinstance(error, LimitedError) and error.retry_after is not None:
                response.headers["Retry-After"] = f"{error.retry_after:.0f}"
            return response

    async def owner(self, request: web.Request) -> str:
        credential = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return (await self.accounts.authenticate(credential)).user.id

    async def register(self, request: web.Request) -> web.Response:
        body = await request.json()
        return answer(await self.accounts.register(body["email"], body["password"]), 201)

    async def login(self, request: web.Request) -> web.Response:
        body = await request.json()
        user, token = await self.accounts.login(body["email"], body["password"])
        return answer({"token": token, "user": user})

    async def me(self, request: web.Request) -> web.Response:
        credential = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return answer((await self.accounts.authenticate(credential)).user)

    async def make_model(self, request: web.Request) -> web.Response:
        body = await request.json()
        owner = await self.owner(request)
        return answer(await self.registry.create_model(owner, body["name"], body.get("description", "")), 201)

    async def models(self, request: web.Request) -> web.Response:
        return answer(await self.registry.models(await self.owner(request)))

    async def make_version(self, request: web.Request) -> web.Response:
        body = await request.json()
        owner = await self.owner(request)
        return answer(await self.registry.create_version(owner, request.match_info["id"], body["tag"]), 201)

    async def versions(self, request: web.Request) -> web.Response:
        return answer(await self.registry.versions(await self.owner(request), request.match_info["id"]))

    async def version(self, request: web.Request) -> web.Response:
        return answer(await self.registry.version(await self.owner(request), request.match_info["id"]))

    async def put(self, request: web.Request) -> web.Response:
        offset, total = 0, request.content_length
        if found := RANGE.fullmatch(request.headers.get("Content-Range", "")):
            offset, total = int(found[1]), None if found[3] == "*" else int(found[3])
        received = await self.uploads.receive(
            await self.owner(request),
            request.match_info["id"],
            request.match_info["name"],
            request.content.iter_any(),
            offset=offset,
            total=total,
            identity=request.headers.get("Upload-Identity", ""),
        )
        return answer(received)

    async def head(self, request: web.Request) -> web.Response:
        place = (await self.owner(request), request.match_info["id"], request.match_info["name"])
        return web.Response(headers={"Upload-Offset": str(await self.uploads.offset(*place))})

    async def finish(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        owner = await self.owner(request)
        return answer(await self.uploads.finish(owner, request.match_info["id"], body.get("sha256")))

    async def delete_version(self, request: web.Request) -> web.Response:
        gone = await self.registry.delete_version(await self.owner(request), request.match_info["id"])
        self.uploads.discard(gone.id)
        return web.Response(status=204)

    async def keys(self, request: web.Request) -> web.Response:
        return answer(await self.accounts.keys(await self.owner(request)))

    async def make_key(self, request: web.Request) -> web.Response:
        body = await request.json()
        key, text = await self.accounts.create_key(await self.owner(request), body["name"], body["deployment_id"])
        return answer({"key": text, **dataclasses.asdict(key)}, 201)

    async def limit_key(self, request: web.Request) -> web.Response:
        most = (await request.json())["requests_per_minute"]
        return answer(await self.accounts.limit_key(await self.owner(request), request.match_info["id"], most))

    async def revoke_key(self, request: web.Request) -> web.Response:
        await self.accounts.revoke_key(await self.owner(request), request.match_info["id"])
        return web.Response(status=204)

    async def deployments(self, request: web.Request) -> web.Response:
        """Answer what was asked; none of it is kept."""
        await self.owner(request)
        if request.method == "DELETE":
            return web.Response(status=204)
        if request.method == "GET" and "id" not in request.match_info:
            return answer([{"id": "d1"}])
        body = await request.json() if await request.read() not in {b"", b"null"} else {}
        return answer({"id": request.match_info.get("id", "d1"), "asked": request.path, "body": body})

    async def predict(self, request: web.Request) -> web.Response:
        """Double numbers: at once if there is one, later if there are more or it is asked so."""
        await self.owner(request)
        instances = (await request.json())["instances"]
        if not all(isinstance(each, int) for each in instances):
            raise UnprocessableError("instance 0: a number is accepted", faults=[Fault("instances.0", "a number")])
        self.predictions = [2 * each for each in instances]
        if len(instances) == 1 and request.headers["Prefer"].startswith("wait="):
            return answer({"predictions": self.predictions})
        self.waits = 2
        return web.Response(status=202, headers={"Location": "/api/v1/predictions/j1"})

    async def prediction(self, request: web.Request) -> web.Response:
        await self.owner(request)
        self.waits -= 1
        return answer({"state": "waiting"}, 202) if self.waits > 0 else answer({"predictions": self.predictions})


async def application(data: Path, objects: str) -> tuple[web.Application, Stub]:
    """Return the stub with its data there."""
    database = await open_database(f"sqlite:///{data}/db.sqlite")
    await database.migrate()
    registry = Registry(database)
    accounts = Accounts(database, b"s" * 32, token_ttl=600)
    stub = Stub(accounts, registry, Uploads(registry, open_objects(objects), data / "staging"))
    app = web.Application(middlewares=[stub.explain], client_max_size=2**20)
    app.add_routes(
        [
            web.post("/api/v1/auth/register", stub.register),
            web.post("/api/v1/auth/login", stub.login),
            web.get("/api/v1/me", stub.me),
            web.post("/api/v1/models", stub.make_model),
            web.get("/api/v1/models", stub.models),
            web.post("/api/v1/models/{id}/versions", stub.make_version),
            web.get("/api/v1/models/{id}/versions", stub.versions),
            web.get("/api/v1/versions/{id}", stub.version),
            web.put("/api/v1/versions/{id}/files/{name}", stub.put),
            web.head("/api/v1/versions/{id}/files/{name}", stub.head),
            web.post("/api/v1/versions/{id}/finish", stub.finish),
            web.delete("/api/v1/versions/{id}", stub.delete_version),
            web.get("/api/v1/keys", stub.keys),
            web.post("/api/v1/keys", stub.make_key),
            web.put("/api/v1/keys/{id}/limit", stub.limit_key),
            web.delete("/api/v1/keys/{id}", stub.revoke_key),
            web.route("*", "/api/v1/deployments", stub.deployments),
            web.route("*", "/api/v1/deployments/{id}", stub.deployments),
            web.post("/api/v1/deployments/{id}/{what}", stub.deployments),
            web.post("/api/v1/predict/{id}", stub.predict),
            web.get("/api/v1/predictions/{id}", stub.prediction),
        ]
    )

    async def close(_: web.Application) -> None:
        accounts.close()
        await database.aclose()

    app.on_cleanup.append(close)
    return app, stub


if __name__ == "__main__":

    async def main() -> None:
        port, data, objects = sys.argv[1:]
        app, _ = await application(Path(data), objects)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.SockSite(runner, socket.create_server(("127.0.0.1", int(port)))).start()
        await asyncio.Event().wait()

    asyncio.run(main())
