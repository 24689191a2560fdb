"""The tables. A change here goes with a migration; a test compares the two."""

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from kubeserve.database.values import Moment

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[str]:
    return Column("id", String(36), primary_key=True)


def _of(name: str, target: str, *, cascade: bool = False, primary_key: bool = False) -> Column[str]:
    rule = "CASCADE" if cascade else None
    return Column(name, String(36), ForeignKey(f"{target}.id", ondelete=rule), nullable=False, primary_key=primary_key)


def _moment(name: str) -> Column[Any]:
    return Column(name, Moment, nullable=False)


users: Final = Table(
    "users",
    metadata,
    _id(),
    Column("email", String(254), nullable=False, unique=True),
    Column("password_hash", String(200), nullable=False),
    Column("role", String(10), nullable=False),
    Column("namespace", String(63), nullable=False, unique=True),
    _moment("created_at"),
)

models: Final = Table(
    "models",
    metadata,
    _id(),
    _of("owner_id", "users"),
    Column("name", String(63), nullable=False),
    Column("description", Text, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    UniqueConstraint("owner_id", "name"),
)

versions: Final = Table(
    "versions",
    metadata,
    _id(),
    _of("model_id", "models", cascade=True),
    _of("owner_id", "users"),
    Column("tag", String(63), nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("state_reason", Text, nullable=False),
    Column("s3_path", Text, nullable=False),
    Column("steps", JSON, nullable=False),
    Column("format", String(20)),
    Column("signature", JSON(none_as_null=True)),
    Column("environment", Text),
    Column("level", JSON(none_as_null=True)),
    Column("attempt", Integer, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    UniqueConstraint("model_id", "tag"),
)

files: Final = Table(
    "files",
    metadata,
    _of("version_id", "versions", cascade=True, primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("key", Text, nullable=False),
)

aliases: Final = Table(
    "aliases",
    metadata,
    _of("model_id", "models", cascade=True, primary_key=True),
    Column("name", String(63), primary_key=True),
    _of("version_id", "versions"),
    _moment("updated_at"),
    Index(None, "version_id"),
)

deployments: Final = Table(
    "deployments",
    metadata,
    _id(),
    _of("owner_id", "users"),
    _of("model_id", "models"),
    Column("name", String(63), nullable=False),
    Column("desired", String(20), nullable=False),
    Column("state", String(20), nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("target", Integer, nullable=False),
    Column("active", Integer),
    Column("generation", BigInteger, nullable=False),
    Column("observed", BigInteger, nullable=False),
    Column("replicas", Integer, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    Column("requests_per_minute", Integer),
    UniqueConstraint("owner_id", "name"),
    Index(None, "model_id"),
)

revisions: Final = Table(
    "revisions",
    metadata,
    _of("deployment_id", "deployments", cascade=True, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    _of("version_id", "versions"),
    Column("spec", JSON, nullable=False),
    _moment("created_at"),
    Index(None, "version_id"),
)

keys: Final = Table(
    "keys",
    metadata,
    _id(),
    _of("owner_id", "users", cascade=True),
    Column("name", String(100), nullable=False),
    Column("prefix", String(20), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("deployment_id", String(36), ForeignKey("deployments.id", ondelete="CASCADE"), index=True),
    _moment("created_at"),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("requests_per_minute", Integer),
    Index(None, "owner_id"),
)

# No foreign keys in the next two: what happened, and what was used, is told also of what is gone.
events: Final = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    _moment("at"),
    Column("owner_id", String(36), nullable=False),
    Column("actor", String(100), nullable=False),
    Column("subject", String(20), nullable=False),
    Column("subject_id", String(36), nullable=False),
    Column("action", String(40), nullable=False),
    Column("detail", JSON, nullable=False),
    Index(None, "subject_id", "id"),
    sqlite_autoincrement=True,  # an id is never given twice
)

usage: Final = Table(
    "usage",
    metadata,
    Column("deployment_id", String(36), primary_key=True),
    Column("minute", BigInteger, primary_key=True, autoincrement=False),  # since the epoch
    Column("bucket", String(16), primary_key=True),  # of one door
    Column("owner_id", String(36), nullable=False),
    Column("predictions", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("busy", BigInteger, nullable=False),  # microseconds, as the next
    Column("replicas", BigInteger, nullable=False),
    Index(None, "owner_id", "minute"),
    Index(None, "minute"),
)

# One row, which backups keep.
installation: Final = Table("installation", metadata, _id())

leases: Final = Table(
    "leases",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("holder", String(100), nullable=False),
    Column("expires", Double, nullable=False),  # in seconds of the database's clock
)
