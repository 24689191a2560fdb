"""User and password. Where they come from a file, it is read again for each connection: passwords are renewed."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from redis.credentials import CredentialProvider

User = tuple[str | None, str | None]


class Credentials(CredentialProvider):
    """What a connection is let in with; `()` where nothing is to be sent.

    `read` makes user and password of the text of `file`. A file that cannot be read, or is empty, changes nothing.
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
        """Give (username, password), as redis-py wants it."""
        return self.get_credentials()

    def get_credentials(self) -> tuple[str, str]:
        """Give the same where nobody can wait."""
        if self._file is not None:
            with suppress(OSError, ValueError):
                if text := Path(self._file).read_text(encoding="utf-8").rstrip("\r\n"):
                    self._user = self._read(text)
        username, password = self._user
        if not username and not password:
            return ()  # type: ignore[return-value]  # redis-py sends no AUTH then
        # By name, so that a Redis without a password takes one; before Redis 6, redis-py sends the password alone.
        return username or "default", password or ""


def of_url(text: str) -> User:
    """Read user and password from a URL. Raises ValueError where it is none."""
    url = urlsplit(text)
    return unquote(url.username) if url.username else None, unquote(url.password) if url.password else None
