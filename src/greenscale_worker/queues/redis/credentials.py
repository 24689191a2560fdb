"""User and password. A file with them is read again for each connection, as passwords are renewed."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from redis.credentials import CredentialProvider

User = tuple[str | None, str | None]


class Credentials(CredentialProvider):
    """Provides user and password for a connection; `()` if neither is to be sent.

    `read` parses the text of `file`. If that is empty or cannot be read, the last credentials stay in use.
    """

    def __init__(
        self,
        username: str | None,
        password: str | None,
        *,
        file: str | None = None,
        read: Callable[[str], User] | None = None,
    ) -> None:
        self._user: User = username, password
        self._file = file
        self._read = read or (lambda text: (username, text))

    async def get_credentials_async(self) -> tuple[str, str]:
        """Return (username, password), as redis-py expects it."""
        return self.get_credentials()

    def get_credentials(self) -> tuple[str, str]:
        """Return the same, without await."""
        if self._file is not None:
            with suppress(OSError, ValueError):
                if text := Path(self._file).read_text(encoding="utf-8").rstrip("\r\n"):
                    self._user = self._read(text)
        username, password = self._user
        if not username and not password:
            return ()  # type: ignore[return-value]  # redis-py sends no AUTH then
        # With a user name, so that a Redis without a password accepts one.
        return username or "default", password or ""


def of_url(text: str) -> User:
    """Return user and password of a URL. Raises ValueError if it is invalid."""
    url = urlsplit(text)
    return unquote(url.username) if url.username else None, unquote(url.password) if url.password else None
