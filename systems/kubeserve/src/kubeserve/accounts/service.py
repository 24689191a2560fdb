"""The accounts of a database."""

import hashlib
import hmac
import math
import re
import secrets
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import jwt
from sqlalchemy import RowMapping, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from kubeserve.accounts.limiter import Limiter
from kubeserve.accounts.passwords import Passwords, check_password
from kubeserve.database import Database
from kubeserve.database.events import write_event
from kubeserve.database.locks import lock
from kubeserve.database.tables import deployments, keys, users
from kubeserve.database.text import per_minute, refused, written
from kubeserve.database.values import known, new_id, now
from kubeserve.domain import EMAIL_ACCEPTED, LONGEST_EMAIL, NAMESPACE, Key, Principal, User, is_email
from kubeserve.errors import ConflictError, LimitedError, NotFoundError, UnauthenticatedError

if TYPE_CHECKING:
    from jwt.types import Options

LONGEST_CREDENTIAL: Final = 4096
SHORTEST_SECRET: Final = 32
KEY: Final = re.compile(r"ks_([0-9a-f]{32})_([0-9a-f]{64})")
LONGEST_KEY_NAME: Final = 100
PREFIX: Final = 19  # characters of a key that are kept to recognise it by
MOST_KEYS: Final = 100  # of a user
CLAIMS: Final["Options"] = {"require": ["sub", "iat", "exp"], "verify_iat": False}  # a clock may have been set back
ADMIN: Final = "admin"
USER: Final = "user"
WRONG: Final = "the e-mail address or the password is wrong"
UNKNOWN: Final = "the token or API key is wrong, expired or revoked: log in again, or use another key"


class Accounts:
    """Users, tokens and keys. `secret`, of 32 bytes or more, signs tokens, which are good for `token_ttl` seconds."""

    def __init__(self, database: Database, secret: bytes, *, token_ttl: float) -> None:
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(f"a secret of at least {SHORTEST_SECRET} bytes is accepted")
        self._database = database
        self._secret = secret
        self._token_ttl = token_ttl
        self._passwords = Passwords()
        self._callers = Limiter(burst=30, seconds=2.0)
        self._guesses = Limiter(burst=10, seconds=6.0)

    async def register(self, email: str, password: str, *, caller: str | None = None) -> User:
        """Make a user; the first one is the admin. `caller` is the network address that asks, to limit it.

        Raises ConflictError if there is a user of that e-mail address, LimitedError if too many are made.
        """
        email = _normal(email)
        check_password(password, email)
        self._admit(self._callers, caller)
        with self._passwords.place():
            async with self._database.read() as connection:
                if await _user(connection, email) is not None:
                    raise _taken(email)
            password_hash = await self._passwords.hash(password)
        try:
            async with self._database.begin() as connection:
                await lock(connection, "users")
                first = not await connection.scalar(select(func.count()).select_from(users))
                user_id = new_id()
                user = User(user_id, email, ADMIN if first else USER, f"{NAMESPACE}{user_id}", now())
                await connection.execute(insert(users).values(password_hash=password_hash, **_row(user)))
                return user
        except IntegrityError:
            raise _taken(email) from None

    async def ids(self) -> list[str]:
        """List the ids of all users."""
        async with self._database.read() as connection:
            return list(await connection.scalars(select(users.c.id).order_by(users.c.id)))

    async def login(self, email: str, password: str, *, caller: str | None = None) -> tuple[User, str]:
        """Give the user and a token. Whether the address is unknown or the password wrong is not told, nor by time.

        Raises UnauthenticatedError, or LimitedError after too many attempts for the address, or by the caller.
        """
        email = email.strip().lower()[: LONGEST_EMAIL + 1]
        self._admit(self._callers, caller)
        self._admit(self._guesses, email)
        with self._passwords.place():
            async with self._database.read() as connection:
                found = await _user(connection, email if is_email(email) else "")
            right = await self._passwords.is_right(None if found is None else found["password_hash"], password)
        if found is None or not right:
            raise UnauthenticatedError(WRONG)
        self._guesses.forgive(email)
        user = _as_user(found)
        return user, self._token(user)

    async def authenticate(self, credential: str) -> Principal:
        """Tell who calls with a token or an API key. Raises UnauthenticatedError."""
        if len(credential) > LONGEST_CREDENTIAL or not credential.isascii():
            raise UnauthenticatedError(UNKNOWN)
        if credential.startswith("ks_"):
            return await self._by_key(credential)
        query = select(users).where(users.c.id == self._subject(credential))
        async with self._database.read() as connection:
            found = (await connection.execute(query)).mappings().first()
        if found is None:
            raise UnauthenticatedError(UNKNOWN)
        return Principal(_as_user(found))

    async def create_key(
        self,
        owner_id: str,
        name: str,
        deployment_id: str | None = None,
        expires_at: datetime | None = None,
        requests_per_minute: int | None = None,
    ) -> tuple[Key, str]:
        """Make an API key, for one deployment or all of the owner's. Its text, the second value, is not kept.

        Raises ConflictError while another key of that name, neither revoked nor expired, lets the owner in.
        """
        at = now()
        if not (name := written("name", name, LONGEST_KEY_NAME)):
            raise refused("name", f"1 to {LONGEST_KEY_NAME} characters are accepted")
        if expires_at is not None and not _is_to_come(expires_at, at):
            raise refused("expires_at", "a time to come, with its zone, is accepted")
        most = per_minute(requests_per_minute)
        key_id, secret = new_id(), secrets.token_hex(32)
        text = f"ks_{uuid.UUID(key_id).hex}_{secret}"
        key = Key(key_id, owner_id, name, text[:PREFIX], deployment_id, at, expires_at, None, most)
        async with self._database.begin() as connection:
            await lock(connection, f"keys of {owner_id}")
            await _free(connection, owner_id, name, at)
            await _room(connection, owner_id)
            if deployment_id is not None:
                await _own_deployment(connection, owner_id, deployment_id)
            await connection.execute(insert(keys).values(secret_sha256=_digest(secret), **_row(key)))
            await write_event(connection, "key.created", key, {"name": name, "deployment": deployment_id})
        return key, text

    async def keys(self, owner_id: str) -> list[Key]:
        """List the owner's keys, oldest first, those that are revoked or expired included."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(keys).where(keys.c.owner_id == owner_id).order_by(keys.c.id))
            return [_as_key(row) for row in rows.mappings()]

    async def limit_key(self, owner_id: str, key_id: str, requests_per_minute: int | None) -> Key:
        """Let a key ask for so many predictions a minute, None: for as many as it likes."""
        most = per_minute(requests_per_minute)
        mine = (keys.c.id == known("key", key_id)) & (keys.c.owner_id == owner_id)
        async with self._database.begin() as connection:
            found = (await connection.execute(select(keys).where(mine).with_for_update())).mappings().first()
            if found is None:
                raise NotFoundError("there is no such key")
            key = replace(_as_key(found), requests_per_minute=most)
            if key != _as_key(found):
                await connection.execute(update(keys).where(mine).values(requests_per_minute=most))
                await write_event(connection, "key.limited", key, {"name": key.name, "requests_per_minute": most})
            return key

    async def revoke_key(self, owner_id: str, key_id: str) -> Key:
        """Let nobody in by this key any more. A second time changes nothing."""
        mine = (keys.c.id == known("key", key_id)) & (keys.c.owner_id == owner_id)
        async with self._database.begin() as connection:
            fresh = update(keys).where(mine, keys.c.revoked_at.is_(None)).values(revoked_at=now())
            changed = (await connection.execute(fresh)).rowcount
            found = (await connection.execute(select(keys).where(mine))).mappings().first()
            if found is None:
                raise NotFoundError("there is no such key")
            if changed:
                await write_event(connection, "key.revoked", _as_key(found), {"name": found["name"]})
            return _as_key(found)

    def close(self) -> None:
        """End the thread that hashes."""
        self._passwords.close()

    def _token(self, user: User) -> str:
        at = time.time()
        return jwt.encode({"sub": user.id, "iat": int(at), "exp": int(at + self._token_ttl)}, self._secret, "HS256")

    def _subject(self, token: str) -> str:
        try:
            claims = jwt.decode(token, self._secret, ["HS256"], CLAIMS)
            return known("user", claims["sub"])
        except (jwt.PyJWTError, NotFoundError, ValueError, RecursionError):  # the latter of JSON that is nested deeply
            raise UnauthenticatedError(UNKNOWN) from None

    async def _by_key(self, text: str) -> Principal:
        if (parts := KEY.fullmatch(text)) is None:
            raise UnauthenticatedError(UNKNOWN)
        key_id, digest = str(uuid.UUID(hex=parts[1])), _digest(parts[2])
        query = select(keys, users).join_from(keys, users).where(keys.c.id == key_id)
        async with self._database.read() as connection:
            found = (await connection.execute(query)).mappings().first()
        if found is None or not hmac.compare_digest(found[keys.c.secret_sha256], digest):
            raise UnauthenticatedError(UNKNOWN)
        expires_at = found[keys.c.expires_at]
        if found[keys.c.revoked_at] is not None or (expires_at is not None and expires_at <= now()):
            raise UnauthenticatedError(UNKNOWN)
        user = User(**{name: found[users.c[name]] for name in User.__dataclass_fields__})
        return Principal(user, key_id, found[keys.c.deployment_id], found[keys.c.requests_per_minute])

    @staticmethod
    def _admit(limiter: Limiter, key: str | None) -> None:
        if key is not None and (wait := limiter.admit(key)):
            raise LimitedError(f"too many attempts: try again in {math.ceil(wait)} s", retry_after=wait)


def _normal(email: str) -> str:
    email = email.strip().lower()
    if not is_email(email):
        raise refused("email", EMAIL_ACCEPTED)
    return email


def _is_to_come(moment: datetime, at: datetime) -> bool:
    try:
        return moment.tzinfo is not None and moment.astimezone(UTC) > at
    except OverflowError:  # the last day there is, in a zone behind UTC
        return False


def _taken(email: str) -> ConflictError:
    return ConflictError(f"there is a user {email} already: log in, or use another address")


def _digest(secret: str) -> str:
    return hashlib.sha256(
        secret.encode()
    ).hexdigest()  # of 256 random bits: nothing to guess, so nothing slow is needed


def _row(value: User | Key) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _as_user(row: RowMapping) -> User:
    return User(**{name: row[name] for name in User.__dataclass_fields__})


def _as_key(row: RowMapping) -> Key:
    return Key(**{name: row[name] for name in Key.__dataclass_fields__})


async def _user(connection: AsyncConnection, email: str) -> RowMapping | None:
    return (await connection.execute(select(users).where(users.c.email == email))).mappings().first()


async def _own_deployment(connection: AsyncConnection, owner_id: str, deployment_id: str) -> None:
    mine = (deployments.c.id == known("deployment", deployment_id)) & (deployments.c.owner_id == owner_id)
    if await connection.scalar(select(deployments.c.id).where(mine).with_for_update(read=True)) is None:
        raise NotFoundError("there is no such deployment")


async def _free(connection: AsyncConnection, owner_id: str, name: str, at: datetime) -> None:
    """Raise ConflictError if the owner has a key of that name that is good for something."""
    live = keys.c.revoked_at.is_(None) & (keys.c.expires_at.is_(None) | (keys.c.expires_at > at))
    query = select(keys.c.prefix).where(keys.c.owner_id == owner_id, keys.c.name == name, live)
    if prefix := await connection.scalar(query.limit(1)):
        raise ConflictError(f"you have a key called {name!r} already ({prefix}…): revoke it, or choose another name")


async def _room(connection: AsyncConnection, owner_id: str) -> None:
    """Make room for one more key, of those that are revoked if need be. Raises LimitedError."""
    mine = keys.c.owner_id == owner_id
    if (await connection.scalar(select(func.count()).where(mine)) or 0) < MOST_KEYS:
        return
    if not (await connection.execute(delete(keys).where(mine, keys.c.revoked_at.is_not(None)))).rowcount:
        raise LimitedError(f"a user may have {MOST_KEYS} keys: revoke one first", code="quota")
