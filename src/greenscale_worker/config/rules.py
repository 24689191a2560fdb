"""Rules for the text of a setting, beyond its type: each in words, and as a test."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson
from pydantic import BeforeValidator, GetCoreSchemaHandler, SecretStr
from pydantic_core import CoreSchema, core_schema

from greenscale_worker.errors import ConfigError
from greenscale_worker.files.store import ACCEPTED as FILES_ACCEPTED
from greenscale_worker.files.store import names_a_store
from greenscale_worker.queues.redis.keys import Keys

CHAT_PATH: Final = "/chat/completions"
SPACES: Final = re.compile(r"(\s+)")
HIGHEST_PORT: Final = 65535
LARGEST_PEM: Final = 4 * 1024 * 1024
HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
REDIS_PATHS: Final = {
    "": re.compile(r"/?\d*/?"),
    "sentinel": re.compile(r"/[^/]+(/\d*)?"),
    "cluster": re.compile(r"/?0?"),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule in a field's annotation, checked by pydantic. `accepts` says it in words, `holds` tests it."""

    accepts: str
    holds: Callable[[str], bool]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: str | SecretStr) -> str | SecretStr:
        if not self.holds(value.get_secret_value() if isinstance(value, SecretStr) else value):
            raise ValueError(self.accepts)
        return value


class SecretUrl(SecretStr):
    """A URL that may hold a password; shown without user and password, or hidden entirely if it is no URL."""

    def _display(self) -> str:
        url = self.get_secret_value()
        return masked(url) if "://" in url else super()._display()


def masked(text: str) -> str:
    """Hide user and password of URLs: all up to the last @, as an unquoted password may hold anything."""
    return "".join(map(_masked_word, SPACES.split(text)))


def _masked_word(word: str) -> str:
    scheme, separator, rest = word.partition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme}{separator}***@{host}" if at else word


def is_http_url(text: str) -> bool:
    """Return whether a text is an http or https URL with a host."""
    try:
        url = urlsplit(text)
        sound = url.port != 0 and not url.fragment and text.isprintable() and " " not in text
    except ValueError:
        return False
    return sound and url.scheme in {"http", "https"} and bool(url.hostname)


def _is_base_url(text: str) -> bool:
    return is_http_url(text) and "?" not in text and not text.rstrip("/").endswith(CHAT_PATH)


def _is_redis_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        scheme, _, kind = url.scheme.partition("+")
        hosts = url.netloc.rpartition("@")[2].split(",")
        sound = REDIS_PATHS[kind].fullmatch(url.path) and all(urlsplit(f"//{host}").port != 0 for host in hosts)
    except (ValueError, KeyError):
        return False
    known = scheme in {"redis", "rediss"} and "://" in text and (bool(kind) or len(hosts) == 1)
    return known and bool(sound) and text.isprintable() and not {"?", "#"} & set(text)


def _is_host(text: str) -> bool:
    try:
        return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", text) is not None or bool(IPv6Address(text))
    except AddressValueError:
        return False


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return (
        _is_host(bare)
        and (":" not in bare or bare != host)
        and re.fullmatch(r"\d{1,5}", port) is not None
        and (int(port) <= HIGHEST_PORT)
    )


def _is_list_name(text: str) -> bool:
    untagged = re.sub(r"\{[^{}]+\}", "", text, count=1)
    try:
        Keys(text)
    except ConfigError:
        return False
    return text.isprintable() and not {"{", "}"} & set(untagged)


def _are_headers(text: str) -> bool:
    try:
        headers = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return isinstance(headers, dict) and all(
        isinstance(value, str) and value.isprintable() and HEADER_NAME.fullmatch(name)
        for name, value in headers.items()
    )


def _is_pem_file(name: str) -> bool:
    try:
        with Path(name).open("rb") as file:
            return b"-----BEGIN " in file.read(LARGEST_PEM)
    except (OSError, ValueError):
        return False


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


MOST_IN_FLIGHT: Final = 1_000_000

# For numbers that an empty value switches off.
OR_NOTHING: Final = BeforeValidator(lambda value: None if value == "" else value)

FLEET_LIMIT: Final = Rule(
    f"a count from 1 to {MOST_IN_FLIGHT}, engine, or nothing",
    lambda text: text in ("", "engine") or (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_IN_FLIGHT),
)
HTTP_URLS: Final = Rule(
    "full URLs, http://host:port/metrics, separated by commas, or nothing",
    lambda text: not text or all(is_http_url(url.strip()) for url in text.split(",")),
)
HTTP_URL: Final = Rule("a full URL, https://host/path or http://host/path", is_http_url)
BASE_URL: Final = Rule(f"a URL such as https://host/v1, without {CHAT_PATH}, which is added", _is_base_url)
REDIS_URL: Final = Rule(
    "redis://host:port/0, redis+sentinel://host:port,host:port/master/0 or redis+cluster://host:port,"
    " with rediss for redis where there is TLS; no ?options",
    _is_redis_url,
)
API_KEY: Final = Rule("a key, without spaces and line breaks, or nothing", _matches(r"[!-~]*"))
FILES: Final = Rule(FILES_ACCEPTED, names_a_store)
GATEWAY_KEY: Final = Rule(
    "gs_, an id of small letters and digits, _, and 32 to 128 letters and digits",
    _matches(r"gs_[a-z0-9]{1,32}_[A-Za-z0-9]{32,128}"),
)
HEADERS: Final = Rule('a JSON object of texts such as {"X-Team": "search"}', _are_headers)
ADDRESS: Final = Rule("host:port, such as 0.0.0.0:6000 or [::]:6000", _is_address)
HOSTNAME: Final = Rule("a host name or an IP address", _is_host)
POD_NAME: Final = Rule(
    "the name of a pod: small letters, digits, - and .", _matches(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
)
LIST_NAME: Final = Rule(
    "a name that does not begin with result:, job: or body:, has braces only around one hash tag as in {team}:jobs, and"
    " is not what {team} calls its own keys",
    _is_list_name,
)
RESULT_PREFIX: Final = Rule("at most 64 of letters, digits and . _ : -", _matches(r"[A-Za-z0-9._:-]{0,64}"))
GROUP_NAME: Final = Rule("1 to 128 of letters, digits and . _ : -", _matches(r"[A-Za-z0-9._:-]{1,128}"))
PEM_FILE: Final = Rule("the name of a PEM file that can be read", _is_pem_file)
# Any value is accepted until it is used: it may be meant for other programs.
PROXY: Final = Rule("http://host:port", bool)
HTTP_PATH: Final = Rule("a path that begins with a single /", _matches(r"/([^/\s]\S*)?"))
