"""Maps every error of redis-py and of the server to our own; none is passed on as it is."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis import exceptions

from greenscale_worker.errors import ConfigError, GreenScaleError, QueueFullError, QueueUnavailableError

LEAST: Final = (6, 2)  # of Redis: BLMOVE, LPOP with a count, XPENDING with IDLE
NEEDED: Final = f"Redis {'.'.join(map(str, LEAST))} or newer is needed"

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
    OSError,
)
# How redis-py's message begins if no connection could be made, so that nothing was sent.
UNCONNECTED: Final = re.compile(r"Error (?:.* )?connecting to |Timeout connecting to server")
REPEATED: Final = re.compile(r"^Error (-?\d+) connecting to (\S+)\. (.*?)\.?$")
ANONYMOUS: Final = "Authentication required"
NAMELESS: Final = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_AGAIN)
LONGEST: Final = 300  # characters of an answer that are repeated
KNOWN: Final = (exceptions.RedisError, exceptions.RedisClusterException)
# Temporary errors that redis-py has no class for.
AWAY_WORDS: Final = re.compile(
    r"(UNBLOCKED|BUSY|MISCONF|NOREPLICAS|MASTERDOWN|LOADING|READONLY|CLUSTERDOWN|TRYAGAIN|OOM)\b"
    r"|Protocol error(?!: unauthenticated)"
)
FULL_WORDS: Final = re.compile(r"\bOOM\b|used memory > 'maxmemory'")
COMMAND_WORDS: Final = re.compile(r"unknown command|unknown redis command|not allowed from script", re.IGNORECASE)
# "Unauthenticated" answers a command of more than ten words from a client that gave no password.
RIGHTS_WORDS: Final = re.compile(r"NOPERM\b|unauthenticated|ACL failure in script|The user executing the script")
PLAIN_WORDS: Final = re.compile(r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|record layer failure|HTTP_REQUEST")
FIRST_BYTE: Final = re.compile(r'Protocol error, got "(.*)" as reply type byte', re.DOTALL)
SPEAKERS: Final = {
    "H": "HTTP",
    "<": "HTTP",
    "S": "SSH",
    "2": "SMTP or FTP",
    "E": "Memcached or PostgreSQL",
    "N": "PostgreSQL",
    "\x15": "TLS: REDIS_URL=rediss://… is expected",
}


@contextmanager
def mapped() -> Iterator[None]:
    """Raise QueueUnavailableError if Redis cannot answer now, and ConfigError for every other error.

    ConfigError ends a start; a running worker logs it once and retries, as an operator may repair the server.
    """
    try:
        yield
    except GreenScaleError:
        raise
    except Exception as error:
        raise _meaning(error) from error


def _meaning(error: Exception) -> GreenScaleError:
    if isinstance(error, exceptions.RedisClusterException):
        cause = error.__cause__ or error.__context__
        if isinstance(cause, KNOWN) and isinstance(found := _meaning(cause), ConfigError):
            return found
    text = " ".join(str(error).split())[:LONGEST] or ("no answer in time" if isinstance(error, TimeoutError) else "")
    undone = UNCONNECTED.match(text) is not None
    text = REPEATED.sub(_said_once, text).removesuffix(".") or type(error).__name__
    if (what := _misplaced(error, text)) is not None:
        return ConfigError(what)
    if isinstance(error, REFUSED):
        wanted = "; expected: REDIS_PASSWORD, or a password in REDIS_URL" if ANONYMOUS in text else ""
        return ConfigError(f"Redis refuses this client: {text}{wanted}")
    if isinstance(error, AWAY):
        away = QueueUnavailableError(text)
        away.undone = undone
        return away
    if isinstance(error, exceptions.ResponseError):
        return _answered(text)
    return ConfigError(f"what answers does not answer as Redis does: {type(error).__name__}: {text}")


def _said_once(found: re.Match[str]) -> str:
    """Return `127.0.0.1:6379: Connection refused`; redis-py gives an error number, and the address twice."""
    number = int(found[1])
    if number in NAMELESS:
        return f"{found[2]}: the name of this host cannot be resolved"
    return f"{found[2]}: {os.strerror(number)}" if found[3].startswith("Connect call failed") else found[0]


def _misplaced(error: Exception, text: str) -> str | None:
    """Return what is there instead of the Redis that the URL names; None if it is that Redis."""
    if isinstance(error, exceptions.InvalidResponse):
        return f"what answers is not Redis: {_speaker(text)}; check REDIS_URL, REDIS_HOST and REDIS_PORT"
    if PLAIN_WORDS.search(text):
        return f"no TLS is spoken there; REDIS_URL=redis://… is expected: {text}"
    if "cluster support disabled" in text:
        return f"Redis is no part of a Cluster; REDIS_URL=redis://… is expected: {text}"
    moved = text.removeprefix("MOVED ")  # before redis-py 8, only a client of a Cluster has a class for it
    if isinstance(error, exceptions.MovedError) or moved != text:
        return f"Redis is part of a Cluster; REDIS_URL=redis+cluster://… is expected: MOVED {moved}"
    return None


def _answered(text: str) -> GreenScaleError:
    if text.startswith("FOREIGN "):
        what = text.removeprefix("FOREIGN ")
        return ConfigError(f"in Redis {what}: check GREENSCALE_QUEUE and the name of the queue")
    if "WRONGTYPE" in text:
        return ConfigError("in Redis a key of this queue is of another type: check GREENSCALE_QUEUE and its name")
    if (full := FULL_WORDS.search(text)) or AWAY_WORDS.search(text):
        return QueueFullError(text.partition(". script: ")[0]) if full else QueueUnavailableError(text)
    if COMMAND_WORDS.search(text):
        what = text.partition(", with args")[0]
        return ConfigError(f"Redis refuses this client: {what}; {NEEDED}, with its commands neither renamed nor off")
    if RIGHTS_WORDS.search(text):
        return ConfigError(f"Redis refuses this client: {text}")
    return ConfigError(f"Redis answers with an error: {text}")


def _speaker(text: str) -> str:
    found = FIRST_BYTE.search(text)
    if found is None:
        return text
    byte = found[1].encode("latin-1", "replace").decode("unicode_escape") if "\\" in found[1] else found[1]
    return f"its answer begins with {byte!r}" + (f", as of {SPEAKERS[byte]}" if byte in SPEAKERS else "")
