"""The settings, from the environment. Those of Redis have GreenScale's names and are read by it."""

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from greenscale_worker import ConfigError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
)

INJECTED: Final = re.compile(r"(tcp|udp|sctp)://")  # what Kubernetes sets KUBESERVE_PORT to for a Service of this name
LEAST: Final[Mapping[str, Any]] = {"landlock": 1, "seccomp": True}  # as a level of the runtime tells them
WALLS: Final = "landlock, seccomp or both are accepted, or none where the machine has neither"
SHORTEST_SECRET: Final = 32
LARGEST_SECRET: Final = 64 * 1024
SECRETS: Final = ("KUBESERVE_SECRET", "KUBESERVE_DATABASE_URL")
MIB: Final = 1024**2
DATABASE: Final = "sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME is accepted"
OBJECTS: Final = "the path of a directory, or s3://BUCKET/PREFIX, is accepted"
SECRET: Final = f"at least {SHORTEST_SECRET} characters are accepted, such as what 'openssl rand -hex 32' prints"
HTTP_URL: Final = "http://HOST:PORT or https://HOST is accepted"
PROXIES: Final = "addresses or networks, with spaces between them, are accepted, such as 10.0.0.7 192.168.0.0/16"
BASE_PATH: Final = "a path that begins with '/' is accepted, such as /api/v1/predict"
IMAGE: Final = "the name of an image with its tag is accepted, such as registry.example.org/kubeserve:0.1.0"
LABEL: Final = "up to 63 of a-z, 0-9 and '-' are accepted, as in names of Kubernetes"
WHERE: Final = "local or cluster is accepted"
HOST: Final = "the name or the address of a host is accepted"


def _accepted(holds: Callable[[str], bool], words: str) -> AfterValidator:
    def check(value: str | SecretStr) -> str | SecretStr:
        if not holds(value.get_secret_value() if isinstance(value, SecretStr) else value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and text.isprintable()
    except ValueError:
        return False


def _is_objects(text: str) -> bool:
    return re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[\w./-]*)?", text) is not None or "://" not in text


def _data() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "kubeserve"


Network = IPv4Network | IPv6Network


def _networks(value: object) -> object:
    try:
        return tuple(ip_network(each) for each in value.split()) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(PROXIES) from None


Networks = Annotated[tuple[Network, ...], BeforeValidator(_networks)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Host = Annotated[Text, _accepted(lambda text: bool(re.fullmatch(r"[A-Za-z0-9_.:-]{1,253}", text)), HOST)]
Where = Annotated[Text, _accepted(lambda text: text in {"local", "cluster"}, WHERE)]
Image = Annotated[Text, _accepted(lambda text: bool(re.fullmatch(r"[\w./:@-]{1,512}", text, re.ASCII)), IMAGE)]
Label = Annotated[Text, _accepted(lambda text: bool(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text)), LABEL)]
Url = Annotated[Text, _accepted(_is_url, HTTP_URL)]
BasePath = Annotated[Text, _accepted(lambda text: bool(re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", text)), BASE_PATH)]
Objects = Annotated[Text, _accepted(_is_objects, OBJECTS)]
Walls = Annotated[Text, _accepted(lambda text: text == "none" or set(text.split()) <= set(LEAST), WALLS)]
Secret = Annotated[SecretStr, _accepted(lambda text: len(text) >= SHORTEST_SECRET, SECRET)]
DatabaseUrl = Annotated[SecretStr, _accepted(lambda text: bool(re.match("sqlite:///.|postgresql://.", text)), DATABASE)]


class Settings(BaseModel):
    """What the platform is told by the environment. Times are in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    data: Path = Field(default_factory=_data, alias="KUBESERVE_DATA")
    database_url: DatabaseUrl | None = Field(None, alias="KUBESERVE_DATABASE_URL")
    objects: Objects | None = Field(None, alias="KUBESERVE_OBJECTS")
    secret: Secret | None = Field(None, alias="KUBESERVE_SECRET")
    host: Host = Field("127.0.0.1", alias="KUBESERVE_HOST")
    port: Port = Field(8600, alias="KUBESERVE_PORT")
    token_ttl: float = Field(12 * 3600, alias="KUBESERVE_TOKEN_TTL", ge=60, le=365 * 86_400)
    quota_replicas: int = Field(5, alias="KUBESERVE_QUOTA_REPLICAS", ge=1, le=1000)
    quota_memory: int = Field(4 * 1024 * MIB, alias="KUBESERVE_QUOTA_MEMORY", ge=64 * MIB)
    quota_answers: int = Field(1024 * MIB, alias="KUBESERVE_QUOTA_ANSWERS", ge=MIB)
    quota_storage: int = Field(20 * 1024 * MIB, alias="KUBESERVE_QUOTA_STORAGE", ge=MIB)
    usage_days: int = Field(30, alias="KUBESERVE_USAGE_DAYS", ge=1, le=3660)
    trusted_proxies: Networks = Field((), alias="KUBESERVE_TRUSTED_PROXIES")
    walls: Walls = Field("landlock seccomp", alias="KUBESERVE_WALLS")
    ingress_host: Host | None = Field(None, alias="INGRESS_HOST")
    ingress_base_path: BasePath = Field("/api/v1/predict", alias="INGRESS_BASE_PATH")
    grafana_url: Url | None = Field(None, alias="GRAFANA_URL")
    place: Where = Field("local", alias="KUBESERVE_PLACE")
    image: Image | None = Field(None, alias="KUBESERVE_IMAGE")
    namespace: Label = Field("kubeserve", alias="KUBESERVE_NAMESPACE")
    registry_file: Path | None = Field(None, alias="KUBESERVE_REGISTRY_FILE")
    runtime_class: Label | None = Field(None, alias="KUBESERVE_RUNTIME_CLASS")
    user_namespaces: bool = Field(False, alias="KUBESERVE_USER_NAMESPACES")  # noqa: FBT003  its default

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read and check all settings; an empty value is as good as none, and so is a link to a Service in a port.

        NAME_FILE names a file with the value of a secret NAME. Raises ConfigError with one line that names the
        variable, and what is accepted.
        """
        given = {name: value.strip() for name, value in environ.items() if value.strip()}
        if INJECTED.match(given.get("KUBESERVE_PORT", "")):
            del given["KUBESERVE_PORT"]
        for name in SECRETS:
            if path := given.get(f"{name}_FILE"):
                if name in given:
                    raise ConfigError(f"{name} and {name}_FILE contradict each other; one of the two is accepted")
                given[name] = _read_secret(f"{name}_FILE", Path(path))
        aliases = {field.alias for field in cls.model_fields.values()}
        values: dict[str, Any] = {name: value for name, value in given.items() if name in aliases}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"{fault['loc'][0]}: {fault['msg'].removeprefix('Value error, ')}") from None

    @property
    def minimum(self) -> dict[str, Any]:
        """The walls without which no model is loaded, as keys of a level with the least that is accepted."""
        return {wall: LEAST[wall] for wall in self.walls.split() if wall != "none"}

    @property
    def database(self) -> str:
        """The URL of the database; SQLite in the data directory unless another one is set."""
        return self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.data}/kubeserve.db"

    @property
    def objects_url(self) -> str:
        """Where files are kept; in the data directory unless another place is set."""
        return self.objects or str(self.data / "objects")

    def signing_secret(self) -> bytes:
        """Give the secret that signs tokens. Unless it is set, it is made once, and kept in the data directory.

        Processes that ask at once get the same one. Raises ConfigError if it cannot be kept or read.
        """
        if self.secret is not None:
            return self.secret.get_secret_value().encode()
        path = self.data / "secret"
        if not path.exists():
            _make_secret(path)
        text = _read_secret("KUBESERVE_DATA", path)
        if len(text) < SHORTEST_SECRET:
            raise ConfigError(f"KUBESERVE_DATA: {path}: {SECRET}; or remove it, and a new one is made")
        return text.encode()


def _make_secret(path: Path) -> None:
    draft = path.with_name(".secret")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.parent):
            if path.exists():  # another process was first
                return
            draft.unlink(missing_ok=True)  # of one that died here
            with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
    except OSError as error:
        raise ConfigError(f"KUBESERVE_DATA: {path}: {error.strerror}; a directory to write is accepted") from None


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read_secret(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_SECRET + 1)
        if len(content) > LARGEST_SECRET:
            raise ConfigError(f"{name}: {path} is too large; at most {LARGEST_SECRET} bytes are accepted")
        return content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{name}: {path}: {reason}; a file with the secret is accepted") from None
