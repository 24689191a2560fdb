"""Runs the migrations, inside one transaction: after a crash they are done or not begun."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from greenscale_worker import ConfigError
from sqlalchemy import Connection

from kubeserve.database.locks import lock_sync

SCRIPTS: Final = Path(__file__).with_name("migrations")


def upgrade(connection: Connection) -> None:
    """Bring the tables to the newest form. Raises ConfigError if they have one that is unknown here."""
    lock_sync(connection, "migrations")
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    here = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if here is not None and here not in known:
        raise ConfigError(
            f"the database was written by a newer version of kubeserve (its form is {here!r}, unknown here): "
            "install that version, or restore a backup"
        )
    command.upgrade(config, "head")
