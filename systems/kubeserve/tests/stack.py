"""A control plane and a door in the process of a test: SQLite, a directory, a real Redis, real models."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import redis
import structlog
from greenscale_worker import RedisOptions
from packaging.requirements import Requirement

from kubeserve.api import build_app, serving
from kubeserve.control import ControlPlane
from kubeserve.door.app import Door
from kubeserve.intake import Environment, Environments
from kubeserve.places.layout import Layout
from kubeserve.queueing import RESULT_SECONDS
from kubeserve.settings import Settings

PASSWORD = "correct horse battery"  # noqa: S105  of people who exist in tests
PATIENCE = 60.0
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def left_in(db: redis.Redis) -> list[str]:
    """Return the keys that deployments have left in Redis. A person's count of answers outlives them, for a while."""
    keys = set(db.keys("*ks:*"))
    counts = set(db.keys("ks:user:*:answers"))
    assert all(0 < db.ttl(key) <= 2 * RESULT_SECONDS for key in counts)
    return sorted(keys - counts)


class Prepared(Environments):
    """The environment of the tests, in place of one that is built from the network."""

    def __init__(self, root: Path, science: Path) -> None:
        super().__init__(root)
        self._science = science
        (root / "science").symlink_to(science)

    async def base(self) -> Environment:
        return Environment("science", self._science, (), built=False)

    async def prepare(self, tenant: str, requirements: Sequence[Requirement]) -> Environment:
        del tenant, requirements
        return await self.base()

    def collect(self, used: Iterable[str]) -> list[str]:
        del used
        return []  # it is not ours


class Person:
    """Somebody who calls the API. `call` gives the status, the JSON and the headers of an answer."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str | None = None) -> None:
        self.http = http
        self.url = url
        self.token = token
        self.id = ""

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    async def call(
        self, method: str, path: str, json: Any = None, headers: dict[str, str] | None = None, **more: Any
    ) -> tuple[int, Any, Any]:
        path = path if path.startswith(("/api/", "/healthz", "/metrics", "/openapi")) else f"/api/v1{path}"
        sent = {**self.headers, **(headers or {})}
        async with self.http.request(method, f"{self.url}{path}", json=json, headers=sent, **more) as answer:
            body = await answer.read()
            told = await answer.json() if answer.content_type == "application/json" and body else body.decode()
            return answer.status, told, answer.headers

    async def ask(self, method: str, path: str, json: Any = None, **more: Any) -> Any:
        """The JSON of an answer that is no refusal."""
        status, told, _ = await self.call(method, path, json, **more)
        assert status < 400, (method, path, status, told)
        return told

    async def until(self, path: str, **fields: Any) -> Any:
        """Read until the fields are so, and give what was read."""
        ends = asyncio.get_running_loop().time() + PATIENCE
        while True:
            told = await self.ask("GET", path)
            if all(told[name] == value for name, value in fields.items()):
                return told
            assert asyncio.get_running_loop().time() < ends, told
            assert told["state"] != "rejected", told
            await asyncio.sleep(0.05)

    async def while_(self, path: str, status: int) -> None:
        """Wait until reading it is answered with another status."""
        async with asyncio.timeout(PATIENCE):
            while (await self.call("GET", path))[0] == status:  # noqa: ASYNC110  the platform tells nobody
                await asyncio.sleep(0.02)

    async def version(self, model: Path, name: str, tag: str = "v1", *, model_id: str | None = None) -> Any:
        """Make a model (or take one), and a version of it that is ready."""
        model_id = model_id or (await self.ask("POST", "/models", {"name": name}))["id"]
        version = await self.ask("POST", f"/models/{model_id}/versions", {"tag": tag})
        path = f"/versions/{version['id']}"
        await self.ask("PUT", f"{path}/files/{model.name}", data=model.read_bytes())
        await self.ask("POST", f"{path}/finish")
        return await self.until(path, state="ready")


class Stack:
    """All of it. `person` gives one who has registered and logged in."""

    def __init__(self, plane: ControlPlane, url: str, http: aiohttp.ClientSession) -> None:
        self.plane = plane
        self.url = url
        self.http = http
        self.data = plane.settings.data

    @property
    def nobody(self) -> Person:
        return Person(self.http, self.url)

    async def person(self, name: str = "anna") -> Person:
        person = self.nobody
        told = await person.ask("POST", "/auth/register", {"email": f"{name}@example.org", "password": PASSWORD})
        login = await person.ask("POST", "/auth/login", {"email": f"{name}@example.org", "password": PASSWORD})
        person.token, person.id = login["token"], told["id"]
        return person

    @classmethod
    @asynccontextmanager
    async def open(
        cls, data: Path, science: Path, redis_url: str, *, door: bool = True, **more: Any
    ) -> AsyncIterator[Self]:
        settings = Settings(data=data, secret="s" * 40, **more)
        redis = RedisOptions(url=redis_url)
        stopping = asyncio.Event()
        running = asyncio.create_task(Door(Layout(data), redis).run(stopping)) if door else None
        (data / "environments").mkdir(exist_ok=True)
        prepared = Prepared(data / "environments", science)
        jar = aiohttp.DummyCookieJar()
        try:
            async with (
                ControlPlane.open(settings, redis, prepared) as plane,
                serving(build_app(plane), "127.0.0.1", 0) as port,
                aiohttp.ClientSession(cookie_jar=jar) as http,
            ):
                yield cls(plane, f"http://127.0.0.1:{port}", http)
                plane.stopping.set()
        finally:
            stopping.set()
            if running is not None:
                await running
