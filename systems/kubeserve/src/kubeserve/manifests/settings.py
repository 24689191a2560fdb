"""What the manifests have to know of the cluster, from the settings and from where the platform finds its own parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import orjson
from greenscale_worker import ConfigError, RedisOptions

from kubeserve.settings import Settings

REDIS_PORT: Final = 6379
STORE_PORT: Final = 9000  # of kubeserve-s3, which comes with the platform
AMAZON: Final = "s3.amazonaws.com"
ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # as the store of files reads them
AUTHORITIES: Final = "SSL_CERT_FILE"  # as uv, OpenSSL and the client of the store read it
REGISTRY: Final = "KUBESERVE_REGISTRY_FILE"
LARGEST: Final = 900_000  # bytes; an object of Kubernetes has 1 MiB
LOGIN: Final = "JSON with `auths` is accepted, such as Docker keeps and `kubectl create secret docker-registry` makes"
ONE_REDIS: Final = "redis://HOST:PORT or rediss://HOST:PORT is accepted on a cluster; KEDA reads it by the same address"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host, as pods of every namespace find it, and a port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Redis:
    """The Redis of the platform. `authority` has PEM certificates, to be trusted instead of the system's."""

    endpoint: Endpoint
    database: int = 0
    tls: bool = False
    authority: str | None = None


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What all manifests have in common.

    `image` has KubeServe; `namespace` is the platform's own, whose pods call the doors. `store` is where pods fetch
    models; `store_authorities` has PEM certificates, to be trusted there instead of the usual ones. `registry` is the
    login for the image, as Docker keeps it. `installation` tells this platform's objects from those of others. `walls`
    are the least that must stand around a model, as keys of a level of the runtime. `answers` are the bytes of answers
    that a person may have in an hour.
    """

    image: str
    namespace: str
    redis: Redis
    store: Endpoint
    installation: str
    walls: Mapping[str, Any] = field(default_factory=dict)
    store_authorities: str | None = None
    registry: str | None = field(default=None, repr=False)
    runtime_class: str | None = None
    user_namespaces: bool = False
    answers: int = 1024**3

    @classmethod
    def of(cls, settings: Settings, redis: RedisOptions, environ: Mapping[str, str], installation: str) -> Self:
        """Derive them; `environ` names the object store by AWS_ENDPOINT_URL, and its authorities by SSL_CERT_FILE.

        A Redis or a store of this machine alone stands for the one beside the platform on a cluster. Raises
        ConfigError for a Redis that pods cannot use, and for files that cannot be read.
        """
        return cls(
            image=settings.image or f"kubeserve:{version('kubeserve')}",
            namespace=settings.namespace,
            redis=_redis(redis, settings.namespace),
            store=_store(settings, _endpoint(environ)),
            installation=installation,
            walls=settings.minimum,
            store_authorities=_authorities(environ),
            registry=_registry(settings.registry_file),
            runtime_class=settings.runtime_class,
            user_namespaces=settings.user_namespaces,
            answers=settings.quota_answers,
        )


def _redis(redis: RedisOptions, namespace: str) -> Redis:
    url = urlsplit(redis.url)
    database = url.path.strip("/") or "0"
    if url.scheme not in {"redis", "rediss"} or not url.hostname or not database.isdecimal():
        raise ConfigError(f"REDIS_URL: {ONE_REDIS}")
    if _is_local(url.hostname):
        return Redis(Endpoint(f"redis-service.{namespace}.svc", REDIS_PORT))
    endpoint = Endpoint(_full(url.hostname, namespace), url.port or REDIS_PORT)
    return Redis(endpoint, int(database), url.scheme == "rediss", _read("GREENSCALE_REDIS_CA_FILE", redis.ca_file))


def _endpoint(environ: Mapping[str, str]) -> str:
    return next((environ[name] for name in ENDPOINTS if environ.get(name)), "")


def _authorities(environ: Mapping[str, str]) -> str | None:
    """Return those of a store that was named; Amazon's is trusted by the usual ones."""
    return _read(AUTHORITIES, environ.get(AUTHORITIES)) if _endpoint(environ).startswith("https:") else None


def _store(settings: Settings, endpoint: str) -> Endpoint:
    if settings.objects_url.startswith("s3://") and not endpoint:
        return Endpoint(AMAZON, 443)
    url = urlsplit(endpoint)
    if not url.hostname or _is_local(url.hostname):
        return Endpoint(f"kubeserve-s3.{settings.namespace}.svc", STORE_PORT)
    return Endpoint(_full(url.hostname, settings.namespace), url.port or (443 if url.scheme == "https" else 80))


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _full(host: str, namespace: str) -> str:
    """Return a host by which pods of other namespaces find it, too: the platform may call its neighbours by name."""
    return host if "." in host or ":" in host else f"{host}.{namespace}.svc"


def _registry(path: Path | None) -> str | None:
    text = _read(REGISTRY, path)
    if text is None:
        return None
    try:
        login = orjson.loads(text)
    except orjson.JSONDecodeError:
        login = None
    if not isinstance(login, dict) or not isinstance(login.get("auths"), dict):
        raise ConfigError(f"{REGISTRY}: {path}: {LOGIN}")
    return text


def _read(name: str, path: str | Path | None) -> str | None:
    if not path:
        return None
    try:
        content = Path(path).read_bytes()
        if len(content) > LARGEST:
            raise ConfigError(f"{name}: {path} is too large for an object of Kubernetes; {LARGEST} bytes are accepted")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: {path}: it cannot be read: {error}") from None
