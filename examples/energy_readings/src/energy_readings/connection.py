"""Redis: how it is reached, and which errors say that it cannot do what was asked."""

from typing import Any, Final

from greenscale_worker import ConfigError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from energy_readings.settings import Settings

AWAY: Final = (RedisError, OSError)
MOST_CONNECTIONS: Final = 32
ANSWER_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 2.0


def connect(settings: Settings) -> Any:
    """Make a client; it connects with its first command, and repeats none. Raises ConfigError for a wrong URL.

    What it cannot do in time raises one of `AWAY`.
    """
    url = f"redis://{settings.redis_host}:{settings.redis_port}/{settings.redis_db}"
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
    password = settings.redis_password
    given = {
        "username": settings.redis_username,
        "password": password.get_secret_value() if password else None,
        "ssl_ca_certs": _text(settings.redis_ca_file),
        "ssl_certfile": _text(settings.redis_cert_file),
        "ssl_keyfile": _text(settings.redis_key_file),
    }
    if not url.startswith("rediss://") and any(name.startswith("ssl") and value for name, value in given.items()):
        raise ConfigError("GREENSCALE_REDIS_…_FILE is set without TLS; expected beside it: REDIS_URL=rediss://…")
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MOST_CONNECTIONS,
            timeout=ANSWER_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            **{name: value for name, value in given.items() if value},
        )
    except ValueError:
        raise ConfigError("REDIS_URL: redis://host:port/0 or rediss://host:port/0 is accepted") from None
    return Redis.from_pool(pool)


def _text(path: object) -> str | None:
    return None if path is None else str(path)
