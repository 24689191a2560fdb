"""Redis: how it is reached, when its connections are dropped, and which errors say that it cannot do what was asked."""

import re
import ssl
from pathlib import Path
from time import monotonic
from typing import Any, Final

from greenscale_worker import ConfigError
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, NoScriptError, OutOfMemoryError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from energy_readings.settings import Settings, secret

AWAY: Final = (RedisError, OSError)
MOST_CONNECTIONS: Final = 32
ANSWER_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 2.0
RENEW_SECONDS: Final = 60.0
OF_DATA: Final = re.compile(r"WRONGTYPE\b")  # and the classes below: another server would say the same


class _Connection(Connection):
    """Notes that its server refused something for a reason of its own: READONLY, MASTERDOWN, NOREPLICAS and so on."""

    failed = False

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if not isinstance(error, NoScriptError | OutOfMemoryError) and OF_DATA.match(str(error)) is None:
                self.failed = True
                self.mark_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py has no types there
            raise


class _TLSConnection(_Connection, SSLConnection):
    pass


class _PasswordFile(CredentialProvider):
    """Reads the password anew for each connection: it may be renewed while we run."""

    def __init__(self, username: str | None, path: Path) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = secret("REDIS_PASSWORD_FILE", self._path)
        except ConfigError as error:
            raise AuthenticationError(str(error)) from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


class _Pool(BlockingConnectionPool):
    """Drops all its connections when one of them fails, and each minute, so that the name is looked up again.

    A master that was demoted keeps its connections open, and answers readers as if nothing had happened.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._renewed = monotonic()

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        """Give a connection that is not older than a minute."""
        if monotonic() - self._renewed > RENEW_SECONDS:
            await self._renew()
        return await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]  # likewise

    async def release(self, connection: Any) -> None:
        """Take a connection back."""
        failed = connection.failed or not connection.is_connected
        connection.failed = False
        await super().release(connection)
        if failed:
            await self._renew()

    async def _renew(self) -> None:
        self._renewed = monotonic()
        await self.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]  # likewise
        for connection in tuple(self._available_connections):
            await connection.disconnect(nowait=True)  # at once: while it waited, somebody could take the connection


def connect(settings: Settings) -> Any:
    """Make a client; it connects with its first command, and repeats none. Raises ConfigError for a wrong setting.

    What it cannot do in time raises one of `AWAY`; after that it looks up the server's name again.
    """
    where = _where(settings)
    pool = _Pool(
        connection_class=_TLSConnection if where.pop("connection_class", None) is SSLConnection else _Connection,
        max_connections=MOST_CONNECTIONS,
        timeout=ANSWER_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,  # a Redis before 7.2 refuses it, which would look like a fault
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **where,
    )
    return Redis.from_pool(pool)


def _where(settings: Settings) -> dict[str, Any]:
    """Say where Redis is and how to be let in, in redis-py's words."""
    where: dict[str, Any] = {
        "host": settings.redis_host,
        "port": settings.redis_port,
        "db": settings.redis_db,
        "username": settings.redis_username,
        "password": settings.redis_password.get_secret_value() if settings.redis_password else None,
    }
    if settings.redis_url is not None:
        where |= {"host": "localhost", "port": 6379, "db": 0}
        where |= parse_url(settings.redis_url.get_secret_value().strip())
    if settings.redis_password_file is not None:
        del where["password"]
        where["credential_provider"] = _PasswordFile(where.pop("username"), settings.redis_password_file)
    files = {
        "ssl_ca_certs": settings.redis_ca_file,
        "ssl_certfile": settings.redis_cert_file,
        "ssl_keyfile": settings.redis_key_file,
    }
    given = {name: str(path) for name, path in files.items() if path is not None}
    if given and "connection_class" not in where:
        raise ConfigError("GREENSCALE_REDIS_…_FILE is set without TLS; expected beside it: REDIS_URL=rediss://…")
    try:
        _check_files(settings)
    except OSError as error:
        raise ConfigError(
            f"GREENSCALE_REDIS_…_FILE: {error.filename or 'no certificate or key in it'}: {error.strerror or error}; "
            "files in PEM are accepted, the key beside its certificate"
        ) from None
    return where | given


def _check_files(settings: Settings) -> None:
    """Read the files of TLS once. Raises OSError, of which SSLError is one."""
    context = ssl.create_default_context()
    if settings.redis_ca_file is not None:
        context.load_verify_locations(settings.redis_ca_file)
    if settings.redis_key_file is not None and settings.redis_cert_file is None:
        raise OSError(0, "it has no certificate beside it", str(settings.redis_key_file))
    if settings.redis_cert_file is not None:
        context.load_cert_chain(settings.redis_cert_file, settings.redis_key_file)
