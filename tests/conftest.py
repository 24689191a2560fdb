"""The Redis that tests run against: always a real one, and never anybody else's."""

import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio
import structlog
from hypothesis import settings
from redis import Redis

from greenscale_worker.telemetry import log
from harness.redis_server import RedisServer, start_shared
from tests.support.cases import Cases
from tests.support.shell import Shell

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and commands would break their lines there
settings.register_profile("tests", deadline=None)  # no test depends on speed; one that hangs has its time limit
settings.load_profile("tests")
SHARED: pytest.StashKey[tuple[RedisServer | None, str]] = pytest.StashKey()


def shared_server(config: pytest.Config) -> tuple[RedisServer | None, str]:
    """Start the server of this run, once; say what it is, or what is missing."""
    if SHARED not in config.stash:
        directory = Path(tempfile.mkdtemp(prefix="redis-for-tests-"))
        config.add_cleanup(lambda: shutil.rmtree(directory))
        try:
            server, name = start_shared(directory)
        except RuntimeError as error:
            config.stash[SHARED] = None, str(error)
        else:
            config.add_cleanup(server.close)
            config.stash[SHARED] = server, name
    return config.stash[SHARED]


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if config.option.collectonly else f"redis: {shared_server(config)[1]}"


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> RedisServer:
    """The server that all tests share. Its settings are not to be changed: `start_redis` gives one for that."""
    server, name = shared_server(request.config)
    if server is None:
        pytest.fail(name, pytrace=False)
    return server


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Let no test see less of the log because another one has run a command."""
    yield
    structlog.reset_defaults()
    vars(log).pop("bind", None)  # the logger that was made with the first line


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database."""
    with redis_server.client() as client:
        client.flushall()
    return f"{redis_server.url}/0"


@pytest.fixture
def client(redis_server: RedisServer, redis_url: str) -> Iterator[Redis]:
    """A plain client of that database."""
    assert redis_url
    with redis_server.client() as client:
        yield client


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start servers of one's own: takes what RedisServer takes, less the directory."""
    with ExitStack() as servers:

        def start(*config: str, tls: bool = False, sentinel: bool = False) -> RedisServer:
            directory = tmp_path / f"redis-{len(list(tmp_path.iterdir()))}"
            server = RedisServer(directory, *config, tls=tls, sentinel=sentinel)
            servers.callback(server.close)
            server.start()
            return server

        yield start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cases(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cases]:
    async with Cases(tmp_path_factory.mktemp("cases")) as cases:
        yield cases


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting from outside, no .env, no colour."""
    for name in list(os.environ):
        if re.match(r"(GREENSCALE|NEYSA|OPENAI|REDIS)_|.*_PROXY$", name, re.IGNORECASE):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shell(
    redis_url: str, bare: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shell]:
    assert bare is None
    monkeypatch.setenv("REDIS_URL", redis_url)
    shell = Shell(redis_url, capsys, monkeypatch)
    yield shell
    shell.client.close()
