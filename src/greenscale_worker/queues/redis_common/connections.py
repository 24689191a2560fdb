"""Opens a client for each way of running Redis: alone, behind Sentinel, as a Cluster; with TLS or without.

redis-py's own retries are off: a blocking command would be repeated for a minute, and whoever sends a command here
knows better whether and when to send it again.
"""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.maint_notifications import MaintNotificationsConfig

from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import RedisOptions

READ_SECONDS: Final = 5.0
# Well below the former, so that redis-py sees them and asks another node, or Sentinel, before we give up.
CONNECT_SECONDS: Final = 2.0
NODE_SECONDS: Final = 1.5
SENTINEL_SECONDS: Final = 1.0
MOST_CONNECTIONS: Final = 64


class _Packing(Connection):
    """Packs commands in C, as redis-py does where it is not asynchronous: a grouped call has hundreds of arguments."""

    def pack_command(self, *args: Any) -> list[bytes]:
        packed: list[bytes] = HiredisRespSerializer().pack(*args)
        return packed


class _PackingTLS(_Packing, SSLConnection):
    pass


@dataclass(frozen=True, slots=True)
class Clients:
    """The three ways in which a worker talks to its server: each waits on its own, so none waits for another."""

    commands: Any
    peek: Any
    bell: Any


def open_clients(options: RedisOptions, *, peek_seconds: float) -> Clients:
    """Make the clients of a worker; each connects with its first command. Raises ConfigError as `open_client`."""
    return Clients(
        commands=open_client(options, read_timeout=None),  # Link bounds its calls, for a third of what this costs
        peek=open_client(options, read_timeout=peek_seconds + READ_SECONDS),
        bell=open_client(options, read_timeout=None),
    )


def is_cluster(options: RedisOptions) -> bool:
    """Say whether the URL names a Redis Cluster."""
    return "+cluster" in options.url.partition(":")[0]


def open_client(options: RedisOptions, *, read_timeout: float | None = READ_SECONDS) -> Any:
    """Make a client; it connects with its first command. Raises ConfigError for a URL that makes no sense.

    `read_timeout` in seconds must exceed the time that a blocking command is told to wait.
    """
    url = _split(options.url)
    scheme, _, kind = url.scheme.partition("+")
    if scheme not in {"redis", "rediss"} or kind not in {"", "sentinel", "cluster"}:
        accepted = "redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster or rediss+cluster"
        raise ConfigError(f"Redis URL: the scheme {url.scheme!r} is unknown; {accepted} is accepted")
    if kind and read_timeout is None:
        read_timeout = NODE_SECONDS
    settings = _settings(options, url, tls=scheme == "rediss", read_timeout=read_timeout)
    if kind == "sentinel":
        return _sentinel(url, settings)
    if kind == "cluster":
        return _cluster(url, settings)
    settings.pop("ssl", None)
    pool = ConnectionPool(
        connection_class=_PackingTLS if scheme == "rediss" else _Packing,
        host=url.hostname or "127.0.0.1",
        port=url.port or 6379,
        db=_database(url.path),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **settings,
    )
    return Redis.from_pool(pool)


async def close(client: Any) -> None:
    """Close a client's connections, and those to the Sentinels it asked."""
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


def _settings(options: RedisOptions, url: SplitResult, *, tls: bool, read_timeout: float | None) -> dict[str, Any]:
    username = options.username or (unquote(url.username) if url.username else None)
    password = options.password or (unquote(url.password) if url.password else None)
    settings: dict[str, Any] = {
        "username": username,
        "password": password,
        "socket_timeout": read_timeout,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MOST_CONNECTIONS,
        "driver_info": None,
        "protocol": 3,
    }
    if tls:
        settings |= {
            "ssl": True,
            "ssl_ca_certs": options.ca_file,
            "ssl_certfile": options.cert_file,
            "ssl_keyfile": options.key_file,
        }
    return settings


def _hosts(url: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """Read `host:port,host:port`, which urlsplit leaves in one piece; IPv6 addresses stand in brackets."""
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


def _sentinel(url: SplitResult, settings: dict[str, Any]) -> Any:
    from redis.asyncio.sentinel import Sentinel  # noqa: PLC0415  only who uses Sentinel pays for its import

    master, _, database = url.path.strip("/").partition("/")
    if not master:
        raise ConfigError("Redis URL: redis+sentinel://host:port,host:port/NAME-OF-MASTER/0 is expected")
    own = {"retry", "driver_info"}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py has no types there
        _hosts(url, 26379),
        sentinel_kwargs={
            "socket_timeout": SENTINEL_SECONDS,
            "socket_connect_timeout": SENTINEL_SECONDS,
            **{name: value for name, value in settings.items() if name in own or name.startswith("ssl")},
        },
    )
    return sentinel.master_for(master, db=_database(database), **settings)


def _cluster(url: SplitResult, settings: dict[str, Any]) -> Any:
    from redis.asyncio.cluster import ClusterNode, RedisCluster  # noqa: PLC0415  likewise

    nodes = [ClusterNode(host, port) for host, port in _hosts(url, 6379)]
    return RedisCluster(startup_nodes=nodes, **settings)
