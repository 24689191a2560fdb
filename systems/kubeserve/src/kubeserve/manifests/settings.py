"""What the manifests have to know of the cluster, from the settings and from where the platform finds its own parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from greenscale_worker import ConfigError, RedisOptions

from kubeserve.settings import Settings

REDIS_PORT: Final = 6379
STORE_PORT: Final = 9000  # of kubeserve-s3, which comes with the platform
AMAZON: Final = "s3.amazonaws.com"
ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # as the store of files reads them
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
    models. `installation` tells this platform's objects from those of others. `walls` are the least that must stand
    around a model, as keys of a level of the runtime. `answers` are the bytes of answers that a deployment may have in
    an hour.
    """

    image: str
    namespace: str
    redis: Redis
    store: Endpoint
    installation: str
    walls: Mapping[str, Any] = field(default_factory=dict)
    runtime_class: str | None = None
    user_namespaces: bool = False
    answers: int = 1024**3

    @classmethod
    def of(cls, settings: Settings, redis: RedisOptions, environ: Mapping[str, str], installation: str) -> Self:
        """Derive them; `environ` names the object store by AWS_ENDPOINT_URL.

        A Redis or a store of this machine alone stands for the one beside the platform on a cluster. Raises
        ConfigError for a Redis that pods cannot use.
        """
        return cls(
            image=settings.image or f"kubeserve:{version('kubeserve')}",
            namespace=settings.namespace,
            redis=_redis(redis, settings.namespace),
            store=_store(settings, environ),
            installation=installation,
            walls=settings.minimum,
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
    return Redis(endpoint, int(database), url.scheme == "rediss", _read(redis.ca_file))


def _store(settings: Settings, environ: Mapping[str, str]) -> Endpoint:
    endpoint = next((environ[name] for name in ENDPOINTS if environ.get(name)), "")
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


def _read(path: str | None) -> str | None:
    try:
        return Path(path).read_text("utf-8") if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"GREENSCALE_REDIS_CA_FILE: {path}: it cannot be read: {error}") from None
