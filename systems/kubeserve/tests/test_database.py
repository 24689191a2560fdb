"""The database: transactions, migrations, and what happens when it is away. On SQLite and on PostgreSQL."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from greenscale_worker import ConfigError
from harness.eventually import PATIENCE, POLL, eventually
from sqlalchemy import func, insert, inspect, select, text, update

from kubeserve.database import Database, Lease, open_database
from kubeserve.database.migrate import upgrade
from kubeserve.database.tables import leases, metadata
from kubeserve.errors import UnavailableError
from postgres import Postgres

Connect = Callable[[], Awaitable[Database]]
HOLD = Path(__file__).with_name("hold.py")
MIGRATE = Path(__file__).with_name("migrate.py")


async def put(database: Database, name: str, holder: str = "") -> None:
    async with database.begin() as connection:
        await connection.execute(insert(leases).values(name=name, holder=holder, expires=0))


async def names(database: Database) -> list[str]:
    async with database.read() as connection:
        return list(await connection.scalars(select(leases.c.name).order_by(leases.c.name)))


async def test_a_transaction_is_kept_as_a_whole_or_not_at_all(database: Database) -> None:
    await put(database, "kept")

    async def fail() -> None:
        async with database.begin() as connection:
            await connection.execute(insert(leases).values(name="undone", holder="", expires=0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await names(database) == ["kept"]


async def test_a_transaction_that_is_cancelled_is_undone_and_the_next_one_goes_on(database: Database) -> None:
    inside = asyncio.Event()

    async def wait_inside() -> None:
        async with database.begin() as connection:
            await connection.execute(insert(leases).values(name="undone", holder="", expires=0))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait_inside())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await put(database, "next")
    assert await names(database) == ["next"]


async def test_transactions_of_two_connections_do_not_lose_a_change(connect: Connect) -> None:
    one, other = await connect(), await connect()
    await put(one, "counter", "0")

    async def count(database: Database) -> None:
        async with database.begin() as connection:
            here = leases.c.name == "counter"
            value = await connection.scalar(select(leases.c.holder).where(here).with_for_update())
            await connection.execute(update(leases).where(here).values(holder=str(int(value) + 1)))

    await asyncio.gather(*(count(database) for database in (one, other) * 20))
    async with one.read() as connection:
        assert await connection.scalar(select(leases.c.holder)) == "40"


async def test_readers_do_not_wait_for_a_writer(connect: Connect) -> None:
    one, other = await connect(), await connect()
    await put(one, "before")
    async with one.begin() as connection:
        await connection.execute(insert(leases).values(name="now", holder="", expires=0))
        assert await names(other) == ["before"]
        assert await names(one) == ["before"]


async def test_a_process_killed_inside_a_transaction_leaves_what_was_before(url: str, database: Database) -> None:
    await put(database, "before")
    holder = await asyncio.create_subprocess_exec(sys.executable, str(HOLD), url, stdout=asyncio.subprocess.PIPE)
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"holding\n"
    holder.kill()
    await holder.wait()
    assert await names(database) == ["before"]
    await put(database, "after")  # its locks are gone with it
    assert await names(database) == ["after", "before"]


async def test_migrations_give_exactly_the_tables(database: Database) -> None:
    async with database.begin() as connection:
        assert await connection.run_sync(lambda c: compare_metadata(MigrationContext.configure(c), metadata)) == []
        assert await connection.run_sync(lambda c: foreign_keys_and_indexes(inspect(c))) == declared()


def foreign_keys_and_indexes(inspector: object) -> set[object]:
    found: set[object] = set()
    for table in metadata.tables:
        for key in inspector.get_foreign_keys(table):  # type: ignore[attr-defined]
            rule = key["options"].get("ondelete")
            found.add((table, tuple(key["constrained_columns"]), key["referred_table"], rule))
    return found


def declared() -> set[object]:
    return {
        (table.name, tuple(key.column_keys), key.referred_table.name, key.ondelete)
        for table in metadata.tables.values()
        for key in table.foreign_key_constraints
    }


async def test_of_processes_that_migrate_at_once_one_does(empty_url: str) -> None:
    command = [sys.executable, str(MIGRATE), empty_url]
    started = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
    assert [await process.wait() for process in started] == [0, 0]
    database = await open_database(empty_url)
    async with database.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(text("alembic_version"))) == 1
    await database.aclose()


async def test_who_migrates_waits_for_one_who_does_so_already(empty_url: str) -> None:
    one, other = await open_database(empty_url), await open_database(empty_url)
    async with one.begin() as connection:
        await connection.run_sync(upgrade)
        waiting = asyncio.create_task(other.migrate())
        done, _ = await asyncio.wait({waiting}, timeout=1)
        assert not done
    await waiting
    for database in (one, other):
        await database.aclose()


async def test_a_database_of_a_newer_version_is_refused(empty_url: str) -> None:
    database = await open_database(empty_url)
    await database.migrate()
    async with database.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match=r"newer version of kubeserve .*'9999'.*install that version"):
        await database.migrate()
    await database.aclose()


@pytest.mark.parametrize(
    "wrong",
    ["", "nonsense", "mysql://host/name", "sqlite://", "sqlite:///:memory:", "postgresql://host", "postgresql://h:x/n"],
)
async def test_another_url_is_refused_with_what_is_accepted(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"KUBESERVE_DATABASE_URL: sqlite:///PATH or postgresql://.* is accepted"):
        await open_database(wrong)


async def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path}/file/kubeserve.db: File exists"):
        await open_database(f"sqlite:///{tmp_path}/file/kubeserve.db")


async def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kubeserve.db"
    database = await open_database(f"sqlite:///{path}")
    await database.migrate()
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    await database.aclose()


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "kubeserve.db").write_text("not a database, but a text that is long enough " * 100)
    database = await open_database(f"sqlite:///{tmp_path / 'kubeserve.db'}")
    with pytest.raises(UnavailableError, match="the database does not answer"):
        await names(database)
    await database.aclose()


async def test_while_postgresql_is_away_calls_say_so_and_then_recover(postgres: Postgres) -> None:
    postgres.query("CREATE DATABASE away")
    database = await open_database(postgres.url("away"))
    await database.migrate()
    await put(database, "before")
    postgres.stop()
    try:
        for _ in range(3):
            with pytest.raises(UnavailableError, match="the database does not answer"):
                await names(database)
    finally:
        postgres.start()
    assert await names(database) == ["before"]
    await database.aclose()


async def test_after_a_restart_of_postgresql_no_call_fails(postgres: Postgres) -> None:
    postgres.query("CREATE DATABASE restarted")
    database = await open_database(postgres.url("restarted"))
    await database.migrate()
    postgres.stop()
    postgres.start()
    assert await names(database) == []
    await database.aclose()


async def test_a_transaction_whose_connection_is_cut_is_undone(postgres: Postgres) -> None:
    postgres.query("CREATE DATABASE cut")
    database = await open_database(postgres.url("cut"))
    await database.migrate()

    async def write_twice() -> None:
        async with database.begin() as connection:
            await connection.execute(insert(leases).values(name="one", holder="", expires=0))
            postgres.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cut'")
            await connection.execute(insert(leases).values(name="two", holder="", expires=0))

    with pytest.raises(UnavailableError, match="the database does not answer"):
        await write_twice()
    assert await names(database) == []
    await database.aclose()


async def test_a_clock_that_is_set_lets_no_lease_last(connect: Connect) -> None:
    database = await connect()
    mine, yours = Lease(database, "reconciler", "a", 60), Lease(database, "reconciler", "b", 60)
    for expires in (0.0, 2.0**40):  # as it stands when the clock has been set on, and back
        assert await mine.take()
        assert not await yours.take()
        async with database.begin() as connection:
            await connection.execute(update(leases).values(expires=expires))
        assert await yours.take()
        assert not await mine.take(), "who held it is told"
        await yours.give_back()


async def test_a_lease_has_one_holder_at_a_time(connect: Connect) -> None:
    one, other = await connect(), await connect()
    mine, yours = Lease(one, "reconciler", "a", 60), Lease(other, "reconciler", "b", 60)
    first = await asyncio.gather(mine.take(), yours.take())
    assert sorted(first) == [False, True]
    holder, waiting = (mine, yours) if first[0] else (yours, mine)
    assert await holder.take()
    assert not await waiting.take()
    await waiting.give_back()
    assert not await waiting.take()
    await holder.give_back()
    assert await waiting.take()


async def test_a_lease_ends_by_itself(database: Database) -> None:
    assert await Lease(database, "reconciler", "dead", 1).take()
    heir = Lease(database, "reconciler", "heir", 60)
    assert not await heir.take()
    await asyncio.wait_for(_taken(heir), PATIENCE)


async def test_who_did_not_renew_in_time_knows_it_without_the_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled, heir = Lease(database, "reconciler", "a", 0.2), Lease(database, "reconciler", "b", 60)
    assert not stalled.lapsed, "it never had it"
    assert await stalled.take()
    await eventually(lambda: stalled.lapsed)
    assert await stalled.take()
    await asyncio.wait_for(_taken(heir), PATIENCE)
    assert stalled.lapsed, "before anybody has told it"
    monkeypatch.setattr(stalled, "_seconds", 60)  # as the other one: more than that was a clock set back
    assert not await stalled.take()
    assert not stalled.lapsed
    assert not heir.lapsed


async def _taken(lease: Lease) -> None:
    while not await lease.take():  # noqa: ASYNC110  time ends it
        await asyncio.sleep(POLL)
