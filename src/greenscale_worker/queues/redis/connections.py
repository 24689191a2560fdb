"""Opens clients for Redis: single server, Sentinel or Cluster; with TLS or without.

redis-py's own retries are off: it would repeat a blocking command for a minute, and our callers know better whether
and when to retry.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import redis
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer

from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import RedisOptions
from greenscale_worker.queues.redis.credentials import Credentials, of_url
from greenscale_worker.queues.redis.redis_py import KEEPS_CLUSTERS, UNNAMED, UNNOTIFIED
from greenscale_worker.tls import relax

READ_SECONDS: Final = 5.0
# Well below READ_SECONDS, so that redis-py times out and asks another node, or Sentinel, before we give up.
CONNECT_SECONDS: Final = 2.0
NODE_SECONDS: Final = 1.5
SENTINEL_SECONDS: Final = 1.0
MOST_CONNECTIONS: Final = 64
RESP: Final = 2  # no HELLO: proxies do not know it, and nothing here needs RESP 3


class Plain(Connection):
    """Packs commands in C, as redis-py's synchronous client does: a grouped call has hundreds of arguments."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """See redis-py."""
        packed: list[bytes] = HiredisRespSerializer().pack(*args)
        return packed

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002  redis-py's
        """See redis-py, whose `asyncio.wait_for` may swallow a cancellation before Python 3.12 (cpython#86296)."""
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        await super().send_packed_command(command, check_health=check_health)
        if task is not None and task.cancelling() > before:
            await self.disconnect(nowait=True)  # its answer would be read as that to the next command
            raise asyncio.CancelledError

    @property
    def stale(self) -> bool:
        """Whether it can no longer be used: the server closed it while idle, or sent unexpected data.

        A connection that the network has dropped silently is not detected.
        """
        reader = self._reader
        return reader is None or reader.exception() is not None or bool(reader._buffer) or reader.at_eof()  # type: ignore[attr-defined]  # noqa: SLF001  as redis-py's own can_read


class TLS(Plain, SSLConnection):
    """Reads the certificates again for each connection, as they are renewed. Checks chain and name."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context.context = None
        relax(self.ssl_context.get())
        return super()._connection_arguments()

    async def _connect(self) -> None:
        try:
            await super()._connect()  # type: ignore[no-untyped-call]  # redis-py has no types there
        except TimeoutError:  # a server without TLS usually waits for more bytes
            limit = self.socket_connect_timeout
            raise ConnectionError(f"no TLS within {limit:g} s; a Redis without it wants REDIS_URL=redis://…") from None


@dataclass(frozen=True, slots=True)
class Clients:
    """The three clients of a worker: each waits on its own, so none blocks another."""

    commands: Any
    peek: Any
    notifier: Any


def open_clients(options: RedisOptions, *, peek_seconds: float) -> Clients:
    """Return the clients of a worker; each connects on its first command. Raises ConfigError as `open_redis`."""
    return Clients(
        commands=open_redis(options, read_timeout=None),  # RetryingClient has a timeout, at a third of the cost
        peek=open_redis(options, read_timeout=peek_seconds + READ_SECONDS),
        notifier=open_redis(options, read_timeout=None),
    )


def is_cluster(options: RedisOptions) -> bool:
    """Return whether the URL names a Redis Cluster."""
    return "+cluster" in options.url.partition(":")[0]


def open_redis(options: RedisOptions, *, read_timeout: float | None = READ_SECONDS) -> Any:
    """Return a client; it connects on its first command. Raises ConfigError for an invalid URL.

    `read_timeout`, in seconds, must exceed the time that a blocking command waits.
    """
    url = _split(options.url)
    scheme, _, kind = url.scheme.partition("+")
    if scheme not in {"redis", "rediss"} or kind not in {"", "sentinel", "cluster"}:
        accepted = "redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster or rediss+cluster"
        raise ConfigError(f"Redis URL: the scheme {url.scheme!r} is unknown; {accepted} is accepted")
    if kind and read_timeout is None:
        read_timeout = NODE_SECONDS
    tls = _tls(options) if scheme == "rediss" else {}
    settings = {
        **_common(read_timeout, CONNECT_SECONDS),
        **tls,
        "credential_provider": _credentials(options, url),
        "socket_keepalive": True,
        "max_connections": MOST_CONNECTIONS,
    }
    if kind == "sentinel":
        return _sentinel(options, url, settings, tls)
    if kind == "cluster":
        return _cluster(url, settings, tls=bool(tls))
    pool = ConnectionPool(
        connection_class=TLS if tls else Plain,
        host=url.hostname or "127.0.0.1",
        port=url.port or 6379,
        db=_database(url.path),
        **settings,
        **UNNOTIFIED,
    )
    return Redis.from_pool(pool)


async def close(client: Any) -> None:
    """Close a client's connections, and those to its Sentinels, even if the caller is cancelled meanwhile."""
    closing = asyncio.ensure_future(_close(client))
    closing.add_done_callback(_seen)
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await asyncio.wait({closing})  # cancelled before it began, redis-py would close nothing
        raise


def _seen(closing: asyncio.Future[None]) -> None:
    """What fails after the caller was cancelled is nobody's to know."""
    if not closing.cancelled():
        closing.exception()


async def _close(client: Any) -> None:
    await client.aclose()
    sentinel = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for each in sentinel.sentinels if sentinel is not None else ():
        await each.aclose()


def _split(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        if "," not in url.netloc:
            _ = url.port
    except ValueError as error:
        raise ConfigError(f"Redis URL: {error}") from None
    return url


def _common(read_timeout: float | None, connect_timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": read_timeout,
        "socket_connect_timeout": connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": RESP,
        **UNNAMED,
    }


def _tls(options: RedisOptions) -> dict[str, Any]:
    return {
        "ssl_ca_certs": options.ca_file,
        "ssl_certfile": options.cert_file,
        "ssl_keyfile": options.key_file,
        "ssl_check_hostname": True,  # the default since redis-py 6
    }


def _credentials(options: RedisOptions, url: SplitResult) -> Credentials:
    """Return those of the options, else of the URL."""
    username, password = of_url(url.geturl())
    if options.password_file is not None:
        return Credentials(options.username or username, options.password, file=options.password_file)
    if options.url_file is not None and not options.password:
        return Credentials(
            options.username or username,
            password,
            file=options.url_file,
            read=lambda text: (options.username or of_url(text)[0], of_url(text)[1]),
        )
    return Credentials(options.username or username, options.password or password)


def _hosts(url: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """Parse `host:port,host:port`, which urlsplit does not split; IPv6 addresses are in brackets."""
    hosts = []
    for each in url.netloc.rpartition("@")[2].split(","):
        part = urlsplit(f"//{each}")
        try:
            hosts.append((part.hostname or "127.0.0.1", part.port or default_port))
        except ValueError:
            raise ConfigError(f"Redis URL: {each!r} is not host:port") from None
    return hosts


def _database(path: str) -> int:
    number = path.strip("/")
    if number and not number.isdigit():
        raise ConfigError(f"Redis URL: {number!r} is not the number of a database")
    return int(number or 0)


def _sentinel(options: RedisOptions, url: SplitResult, settings: dict[str, Any], tls: dict[str, Any]) -> Any:
    """Return a client of a master. Sentinels that require a password get their own, else that of Redis."""
    from redis.asyncio.sentinel import (  # noqa: PLC0415  imported only if Sentinel is used
        SentinelConnectionPool,
        SentinelManagedConnection,
    )

    from greenscale_worker.queues.redis.sentinels import OnDemand, Sentinels  # noqa: PLC0415  likewise

    class Managed(SentinelManagedConnection, Plain):
        pass

    class ManagedTLS(SentinelManagedConnection, TLS):
        pass

    master, _, database = url.path.strip("/").partition("/")
    if not master:
        raise ConfigError("Redis URL: redis+sentinel://host:port,host:port/NAME-OF-MASTER/0 is expected")
    own = Credentials(options.sentinel_username, options.sentinel_password, file=options.sentinel_password_file)
    has_own = bool(own.get_credentials())
    credentials = OnDemand(own if has_own else settings["credential_provider"], wanted=has_own)

    def open_one(host: str, port: int) -> Any:
        pool = ConnectionPool(
            connection_class=TLS if tls else Plain,
            host=host,
            port=port,
            credential_provider=credentials,
            **_common(SENTINEL_SECONDS, SENTINEL_SECONDS),
            **UNNOTIFIED,
            **tls,
        )
        return Redis.from_pool(pool)

    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # redis-py has no types there
        master,
        Sentinels(_hosts(url, 26379), open_one, credentials),
        connection_class=ManagedTLS if tls else Managed,
        db=_database(database),
        **settings,
    )
    return Redis.from_pool(pool)


def _cluster(url: SplitResult, settings: dict[str, Any], *, tls: bool) -> Any:
    from redis.asyncio.cluster import ClusterNode, RedisCluster  # noqa: PLC0415  likewise

    if not KEEPS_CLUSTERS:
        raise ConfigError(
            f"Redis URL: a Cluster needs redis-py 7.2 or newer, found {redis.__version__}: pip install 'redis>=7.2'"
        )
    nodes = [ClusterNode(host, port) for host, port in _hosts(url, 6379)]
    client = RedisCluster(startup_nodes=nodes, ssl=tls, **settings)
    own = client.connection_kwargs["connection_class"] = TLS if tls else Plain
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class = own
    return client
