"""Which KubeServe a command calls, and as whom: from the environment, else as the last login left it.

Tokens lie in one file of the user's configuration directory that nobody else can read, each with the address that it
is for: a token is never sent to another one.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from greenscale_worker import ConfigError

from kubeserve.client import KubeServe

DEFAULT_URL: Final = "http://127.0.0.1:8600"
HURRIED: Final = 3.0  # seconds for which a command that a person waits for tries again
PATIENT: Final = 60.0


def connect(*, patient: bool = False) -> KubeServe:
    """Return a client as whoever is logged in. `patient`: for work that shall outlast a restart of the server."""
    where = url()
    return KubeServe(where, token=_credential(where), patience=PATIENT if patient else HURRIED, first=HURRIED)


def has_credential() -> bool:
    """Tell whether commands call as somebody."""
    return _credential(url()) is not None


def url() -> str:
    """Return the address. Raises ConfigError if it is none."""
    return checked(os.environ.get("KUBESERVE_URL", "").strip() or str(_read().get("url") or DEFAULT_URL))


def checked(text: str) -> str:
    """Return an address as it is remembered. Raises ConfigError if it is none."""
    parts = urlsplit(text.strip())
    with suppress(ValueError):
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return text.strip().rstrip("/")
    raise ConfigError(f"KUBESERVE_URL={text}: http://HOST:PORT or https://HOST is accepted")


def remember(address: str, token: str) -> None:
    """Keep a token, and call that address from now on."""
    known = _read()
    known["url"] = address
    known["tokens"] = {**known.get("tokens", {}), address: token}
    _write(known)


def forget(address: str) -> bool:
    """Forget the token of an address. Return whether there was one."""
    known = _read()
    there = known.get("tokens", {}).pop(address, None) is not None
    if there:
        _write(known)
    return there


def place() -> Path:
    """Return where tokens are kept."""
    root = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(root) / "kubeserve" / "login.json"


def _credential(address: str) -> str | None:
    if given := os.environ.get("KUBESERVE_TOKEN", "").strip():
        return given
    token = _read().get("tokens", {}).get(address)
    return token if isinstance(token, str) else None


def _read() -> dict[str, Any]:
    try:
        known = json.loads(place().read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not what `kubeserve login` writes; remove it"
        raise ConfigError(f"{place()}: {reason}") from None
    if not isinstance(known, dict) or not isinstance(known.get("tokens", {}), dict):
        raise ConfigError(f"{place()}: it is not what `kubeserve login` writes; remove it")
    return known


def _write(known: dict[str, Any]) -> None:
    path = place()
    draft = path.with_name(f".login-{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            json.dump(known, file)
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; KUBESERVE_TOKEN needs no file") from None
