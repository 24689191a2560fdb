"""Ids, moments and JSON, alike in SQLite and PostgreSQL."""

import re
import secrets
import time
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import DateTime, Dialect
from sqlalchemy.types import TypeDecorator

from kubeserve.errors import NotFoundError

ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def new_id() -> str:
    """Make a UUID of version 7: later ones sort after earlier ones, so that an id is a place to read on from."""
    milliseconds = time.time_ns() // 1_000_000
    number = milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=number))


def known(kind: str, text: str) -> str:
    """Give an id back. What cannot be one is of nothing: NotFoundError, before a database sees it."""
    if not ID.fullmatch(text):
        raise NotFoundError(f"there is no such {kind}")
    return text


def now() -> datetime:
    """Give the time, in UTC."""
    return datetime.now(UTC)


class Moment(TypeDecorator[datetime]):
    """An aware time in UTC; SQLite keeps it without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002, D102  SQLAlchemy calls it
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002, D102  SQLAlchemy calls it
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
