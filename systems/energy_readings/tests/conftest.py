"""A Redis of these tests' own, and the three servers in front of it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest
import redis
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from harness.redis_server import RedisServer

from energy_readings.settings import Settings, read

Client = TestClient[web.Request, web.Application]


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The server that most tests share."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), docker=False)
    server.start()
    yield server
    server.close()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start servers of one's own: takes lines of redis.conf, and `tls`."""
    with ExitStack() as servers:

        def start(*config: str, tls: bool = False) -> RedisServer:
            server = RedisServer(tmp_path / f"redis-{len(list(tmp_path.iterdir()))}", *config, tls=tls, docker=False)
            servers.callback(server.close)
            server.start()
            return server

        yield start


@pytest.fixture
def db(shared_server: RedisServer) -> Iterator[redis.Redis]:
    """A client for the test's own questions; the database is empty at first."""
    with shared_server.client(decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def settings(shared_server: RedisServer, db: redis.Redis) -> Settings:
    """Settings of the roles, for the shared server."""
    db.ping()
    return read(environment(shared_server))


def environment(server: RedisServer, **more: object) -> dict[str, str]:
    """What the roles find in their environment."""
    return {"REDIS_URL": f"{server.url}/0"} | {name: str(value) for name, value in more.items()}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[web.Application], Awaitable[Client]]]:
    """Serve an application on a free port; gives a client of it."""
    async with AsyncExitStack() as clients:

        async def start(app: web.Application) -> Client:
            return await clients.enter_async_context(TestClient(TestServer(app)))

        yield start
