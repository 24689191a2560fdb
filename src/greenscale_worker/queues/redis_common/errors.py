"""Which of Redis' errors mean what. Everything else is a bug and is not caught."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis import exceptions

from greenscale_worker.errors import ConfigError, QueueUnavailableError

REFUSED: Final = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
AWAY: Final = (
    exceptions.ConnectionError,  # also LOADING, and every pool that has no connection left
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterError,
    exceptions.RedisClusterException,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.AskError,
    exceptions.OutOfMemoryError,
    OSError,
)
# Answers that redis-py has no class for. A foreign type under one of our keys is waited out, too: somebody has to
# repair it, and until then nothing is lost.
AWAY_WORDS: Final = re.compile(
    r"(UNBLOCKED|BUSY|MISCONF|NOREPLICAS|MASTERDOWN|LOADING|READONLY|CLUSTERDOWN|TRYAGAIN|OOM|WRONGTYPE|FOREIGN)\b"
    r"|Protocol error"
)
REFUSED_WORDS: Final = re.compile(
    r"NOAUTH\b|WRONGPASS\b|NOPERM\b|ACL failure in script|The user executing the script|DB index is out of range"
)


@contextmanager
def mapped() -> Iterator[None]:
    """Raise ConfigError where Redis refuses us, QueueUnavailableError where it cannot answer now."""
    try:
        yield
    except REFUSED as error:
        raise ConfigError(f"Redis refuses this client: {error}") from error
    except AWAY as error:
        raise QueueUnavailableError(_describe(error)) from error
    except exceptions.ResponseError as error:
        if REFUSED_WORDS.search(str(error)) is not None:
            raise ConfigError(f"Redis refuses this client: {error}") from error
        if AWAY_WORDS.search(str(error)) is None:
            raise
        raise QueueUnavailableError(_describe(error)) from error


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
