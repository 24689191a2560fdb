"""Servers and stores of these tests' own. Every test that takes `database` runs on SQLite and on a real PostgreSQL."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis
from harness.redis_server import RedisServer
from harness.s3_server import S3Server

from doors import Platform
from environments import environment
from kubeserve.accounts import Accounts
from kubeserve.database import Database, open_database
from kubeserve.database.tables import metadata
from kubeserve.deployments import Deployments
from kubeserve.domain import Quota
from kubeserve.intake import Environments
from kubeserve.registry import Registry
from postgres import Postgres, programs
from stack import Stack

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and programs would break their lines there
SECRET = b"a secret of the tests, " * 3  # long enough for any algorithm that a forger may choose


@pytest.fixture(scope="session", autouse=True)
def nothing_stays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No folder for sockets outlives the door that it was made for."""
    tmp_path_factory.getbasetemp()  # stays where it is
    own = Path(tempfile.mkdtemp(prefix="ks", dir="/tmp"))
    own.chmod(0o711)  # PostgreSQL runs as another user
    os.environ["TMPDIR"] = tempfile.tempdir = str(own)
    yield
    left = [path.name for path in own.glob(f"kubeserve-{os.getuid()}-*")]
    shutil.rmtree(own, ignore_errors=True)
    assert left == []


@pytest.fixture(scope="session")
def science() -> Path:
    """An environment with scikit-learn, pandas, skops and onnxruntime; its Python is `science / "bin" / "python"`."""
    return environment()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server that tests share; skipped where PostgreSQL is not installed."""
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    server = Postgres(found)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis that all tests share."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), docker=False)
    server.start()
    yield server
    server.close()


@pytest.fixture
def db(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client for the test's own questions; the database is empty at first."""
    with redis_server.client(decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The S3 server that all tests share."""
    with S3Server(tmp_path_factory.mktemp("s3"), bucket="models") as server:
        yield server


async def _migrate(url: str) -> None:
    database = await open_database(url)
    await database.migrate()
    await database.aclose()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with tables, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(_migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def migrated_database(postgres: Postgres) -> str:
    """The name of a PostgreSQL database with tables, to be emptied."""
    postgres.query("CREATE DATABASE shared")
    asyncio.run(_migrate(postgres.url("shared")))
    return "shared"


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which database a test runs on."""
    return str(request.param)


@pytest.fixture
def empty_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables."""
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    server.query("CREATE DATABASE empty")
    yield server.url("empty")
    server.query("DROP DATABASE empty WITH (FORCE)")


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with tables, and nothing in them."""
    if kind == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "kubeserve.db")
        return f"sqlite:///{tmp_path / 'kubeserve.db'}"
    name: str = request.getfixturevalue("migrated_database")
    server: Postgres = request.getfixturevalue("postgres")
    server.query(f"TRUNCATE {', '.join(metadata.tables)}", name)
    return server.url(name)


@pytest.fixture
def stores(url: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings of a control plane whose place is a cluster."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Environments, "is_ready", lambda *_: True)  # the image has it: nothing is packed
    return {"place": "cluster", "database_url": url, "objects": f"s3://models/{tmp_path.name.lower()}"}


@pytest.fixture
async def connect(url: str) -> AsyncIterator[Callable[[], "asyncio.Future[Database]"]]:
    """Open the database, each time anew, as another process would."""
    opened: list[Database] = []

    async def again() -> Database:
        opened.append(await open_database(url))
        return opened[-1]

    yield lambda: asyncio.ensure_future(again())
    for database in opened:
        await database.aclose()


@pytest.fixture
async def database(connect: Callable[[], "asyncio.Future[Database]"]) -> Database:
    return await connect()


@pytest.fixture
def accounts(database: Database) -> Iterator[Accounts]:
    made = Accounts(database, SECRET, token_ttl=3600)
    yield made
    made.close()


@pytest.fixture
def registry(database: Database) -> Registry:
    return Registry(database)


@pytest.fixture
def deployments(database: Database) -> Deployments:
    return Deployments(database, Quota())


@pytest.fixture
async def platform(
    tmp_path: Path, science: Path, redis_server: RedisServer, db: redis.Redis
) -> AsyncIterator[Platform]:
    db.ping()
    platform = Platform(tmp_path, science, f"{redis_server.url}/0")
    platform.open()
    yield platform
    await platform.close()
    await platform.predictions.aclose()
    await platform.place.aclose()
    assert platform.zygotes() == []
    assert not platform.layout.run.exists()


@pytest.fixture
async def stack(tmp_path: Path, science: Path, redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[Stack]:
    """A platform with its door."""
    db.ping()
    async with Stack.open(tmp_path, science, f"{redis_server.url}/0") as stack:
        yield stack


@pytest.fixture
async def doorless(tmp_path: Path, science: Path, redis_server: RedisServer, db: redis.Redis) -> AsyncIterator[Stack]:
    """A platform whose door is away."""
    db.ping()
    async with Stack.open(tmp_path, science, f"{redis_server.url}/0", door=False) as stack:
        yield stack
