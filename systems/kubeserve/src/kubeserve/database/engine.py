"""Opens a database, and gives transactions in it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

from greenscale_worker import ConfigError
from sqlalchemy import URL, Connection, event, exc, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from kubeserve.database.migrate import upgrade
from kubeserve.errors import UnavailableError

ACCEPTED: Final = "sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME is accepted"
BUSY_SECONDS: Final = 10.0  # a transaction of ours takes milliseconds; who holds a lock for longer is ill
SILENT_SECONDS: Final = 30.0
POSTGRESQL: Final = {
    "timeout": BUSY_SECONDS,  # to connect
    "command_timeout": SILENT_SECONDS,  # a server that hangs is away
    "server_settings": {
        "application_name": "kubeserve",
        "lock_timeout": f"{BUSY_SECONDS:.0f}s",
        "idle_in_transaction_session_timeout": f"{SILENT_SECONDS:.0f}s",  # the locks of a client that is gone
    },
}
PRAGMAS: Final = (
    "journal_mode=WAL",  # readers do not wait for the writer
    "synchronous=NORMAL",  # whole after any crash; a power cut may take the last moments
    "foreign_keys=ON",
)
# Those are mistakes of ours, or refusals that a service explains. All else means that the database is away.
OURS: Final = (exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError)
AWAY: Final = (exc.DBAPIError, exc.TimeoutError, OSError, TimeoutError)


class Database:
    """A database and its connections. Every call raises UnavailableError while it is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._reading = engine
        self._writing = engine.execution_options(immediate=True)
        # SQLite has one writer at a time; here they wait in order, rather than asking again and again.
        alone = engine.dialect.name == "sqlite"
        self._turn: AbstractAsyncContextManager[Any] = asyncio.Lock() if alone else nullcontext()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction that may write; it is committed at the end, or undone if an exception leaves it."""
        async with self._turn, _told(), self._writing.begin() as connection:
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction that only reads. In SQLite it sees one state, and waits for no writer."""
        async with _told(), self._reading.begin() as connection:
            yield connection

    async def migrate(self) -> None:
        """Bring the tables to this version's form. Of processes that do so at once, one does and the others wait.

        Raises ConfigError if a newer version has written the database.
        """
        async with self.begin() as connection:
            await connection.run_sync(upgrade)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._reading.dispose()


async def open_database(url: str) -> Database:
    """Open `sqlite:///PATH`, making the file if it is not there, or `postgresql://…`, which is asked when needed.

    Raises ConfigError for any other URL.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise ConfigError(f"KUBESERVE_DATABASE_URL: {ACCEPTED}") from None
    opened = {"sqlite": _open_sqlite, "postgresql": _open_postgresql}.get(parsed.drivername)
    if opened is None or not parsed.database:
        raise ConfigError(f"KUBESERVE_DATABASE_URL: {ACCEPTED}")
    return Database(opened(parsed))


def _open_sqlite(url: URL) -> AsyncEngine:
    path = Path(url.database or "")
    if str(path) == ":memory:" or url.host or url.query:
        raise ConfigError(f"KUBESERVE_DATABASE_URL: {ACCEPTED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # it holds hashes of passwords
    except OSError as error:
        raise ConfigError(f"KUBESERVE_DATABASE_URL: {path}: {error.strerror}; a file to write is accepted") from None
    engine = _engine(url.set(drivername="sqlite+aiosqlite"), connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _open_postgresql(url: URL) -> AsyncEngine:
    query = dict(url.query)
    if "sslmode" in query:  # as libpq spells it
        query["ssl"] = query.pop("sslmode")
    try:
        url = url.set(drivername="postgresql+asyncpg", query=query)
        return _engine(url, connect_args=POSTGRESQL, pool_pre_ping=True)
    except ImportError:
        raise ConfigError("KUBESERVE_DATABASE_URL: PostgreSQL needs: pip install 'kubeserve[postgresql]'") from None


def _engine(url: URL, **options: Any) -> AsyncEngine:
    # NaN is no JSON, and PostgreSQL refuses it: so do we, in both.
    return create_async_engine(
        url, json_serializer=partial(json.dumps, allow_nan=False), hide_parameters=True, **options
    )


def _prepare(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where _begin says, not before the first write
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A transaction that read first and then wants to write is refused if another one wrote in between; one that will
    # write waits for its turn at once.
    immediate = connection.get_execution_options().get("immediate")
    connection.execute(text("BEGIN IMMEDIATE" if immediate else "BEGIN"))


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    try:
        yield
    except OURS:
        raise
    except AWAY as error:
        raise UnavailableError("the database does not answer; the same request may succeed in a moment") from error
