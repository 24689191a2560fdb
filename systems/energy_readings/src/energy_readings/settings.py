"""The settings. Those of Redis have GreenScale's names, so that one environment serves the worker and the APIs."""

import re
from collections.abc import Callable, Mapping
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from greenscale_worker import ConfigError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

INJECTED: Final = re.compile(r"(tcp|udp|sctp)://")  # what Kubernetes sets REDIS_PORT to for a Service called redis
SECRETS: Final = ("REDIS_URL", "REDIS_PASSWORD")
LARGEST_SECRET: Final = 64 * 1024
REDIS_URL: Final = "redis://host:port/0 or rediss://host:port/0 is accepted"
HTTP_URL: Final = "http://host:port is accepted"
UNIT: Final = "W, VA or var is accepted, or Wh, VAh or varh, also after m, k, M, G or T, such as kW"
HOST: Final = "the name or the address of a host is accepted"


def _is_host(text: str) -> bool:
    labels = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?"
    try:
        return re.fullmatch(labels, text) is not None or bool(IPv6Address(text))
    except AddressValueError:
        return False


def _is_url(text: str, schemes: set[str], path: str) -> bool:
    try:
        url = urlsplit(text)
        sound = url.port != 0 and text.isprintable() and " " not in text and not url.query and not url.fragment
    except ValueError:
        return False
    host = url.hostname or ("localhost" if "redis" in schemes else "")
    return bool(sound and url.scheme in schemes and _is_host(host) and re.fullmatch(path, url.path))


def _accepted(holds: Callable[[str], bool], words: str) -> AfterValidator:
    def check(value: str | SecretStr) -> str | SecretStr:
        if not holds(value.get_secret_value() if isinstance(value, SecretStr) else value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Unit = Annotated[Text, _accepted(lambda text: bool(re.fullmatch("[mkMGT]?(W|VA|var)h?", text)), UNIT)]
Host = Annotated[Text, _accepted(_is_host, HOST)]
Url = Annotated[Text, _accepted(lambda text: _is_url(text, {"http", "https"}, "(/.*)?"), HTTP_URL)]
Secret = Annotated[SecretStr, _accepted(lambda text: not re.search("[\ud800-\udfff]", text), "UTF-8 is accepted")]
RedisUrl = Annotated[
    SecretStr, _accepted(lambda text: _is_url(text.strip(), {"redis", "rediss"}, r"/?\d*/?"), REDIS_URL)
]


class Settings(BaseModel):
    """What the roles are told by the environment."""

    model_config = ConfigDict(frozen=True)

    redis_url: RedisUrl | None = Field(None, alias="REDIS_URL")
    redis_host: Host = Field("127.0.0.1", alias="REDIS_HOST")
    redis_port: Port = Field(6379, alias="REDIS_PORT")
    redis_db: int = Field(0, alias="REDIS_DB", ge=0, le=1_000_000)
    redis_username: Text | None = Field(None, alias="REDIS_USERNAME")
    redis_password: Secret | None = Field(None, alias="REDIS_PASSWORD")
    redis_password_file: Path | None = Field(None, alias="REDIS_PASSWORD_FILE")
    redis_ca_file: Path | None = Field(None, alias="GREENSCALE_REDIS_CA_FILE")
    redis_cert_file: Path | None = Field(None, alias="GREENSCALE_REDIS_CERT_FILE")
    redis_key_file: Path | None = Field(None, alias="GREENSCALE_REDIS_KEY_FILE")
    stream: Text = Field("energy_readings", alias="REDIS_STREAM_NAME")
    host: Host = Field("127.0.0.1", alias="ENERGY_HOST")
    ingest_port: Port = Field(8000, alias="ENERGY_PORT_INGEST")
    readings_port: Port = Field(8001, alias="ENERGY_PORT_READINGS")
    page_port: Port = Field(3000, alias="ENERGY_PORT_PAGE")
    ingest_url: Url | None = Field(None, alias="ENERGY_INGEST_URL")
    readings_url: Url | None = Field(None, alias="ENERGY_READINGS_URL")
    keep_readings: int = Field(100_000, alias="ENERGY_KEEP_READINGS", ge=0)
    unit: Unit = Field("W", alias="ENERGY_UNIT")
    keep_days: float = Field(0, alias="ENERGY_KEEP_DAYS", ge=0, le=36_500)

    @property
    def ingest(self) -> str:
        """The root URL of the ingestion API."""
        return (self.ingest_url or f"http://127.0.0.1:{self.ingest_port}").rstrip("/")

    @property
    def readings(self) -> str:
        """The root URL of the readings API."""
        return (self.readings_url or f"http://127.0.0.1:{self.readings_port}").rstrip("/")


def read(environ: Mapping[str, str]) -> Settings:
    """Read and check all settings; an empty value is as good as none, and so is a link to a Service in REDIS_PORT.

    Raises ConfigError with one line that names the variable, and what is accepted.
    """
    given = {name: value for name, value in environ.items() if value.strip()}
    if INJECTED.match(given.get("REDIS_PORT", "")):
        del given["REDIS_PORT"]
    for name in SECRETS:
        if path := given.get(f"{name}_FILE"):
            if name in given:
                raise ConfigError(f"{name} and {name}_FILE contradict each other; one of the two is accepted")
            given[name] = secret(f"{name}_FILE", Path(path))
    try:
        return Settings.model_validate({name: value for name, value in given.items() if value})
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"{fault['loc'][0]}: {fault['msg'].removeprefix('Value error, ')}") from None


def secret(name: str, path: Path) -> str:
    """Read a file that holds a secret. Raises ConfigError, which names the variable."""
    try:
        with path.open("rb") as file:
            secret = file.read(LARGEST_SECRET + 1)
        if len(secret) > LARGEST_SECRET:
            raise ConfigError(f"{name}: {path} is too large; at most {LARGEST_SECRET} bytes are accepted")
        return secret.decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{name}: {path}: {reason}; a file with the secret is accepted") from None
