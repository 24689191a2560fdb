"""The place that the settings name."""

import os
from collections.abc import Callable

from greenscale_worker import ConfigError, RedisOptions

from kubeserve.domain import Quota
from kubeserve.places import Place
from kubeserve.places.layout import Layout
from kubeserve.places.local import Fetch, LocalPlace
from kubeserve.places.sources import Sources
from kubeserve.settings import Settings


def check_place(settings: Settings) -> None:
    """Raise ConfigError if pods of a cluster could not reach what they need."""
    if settings.place == "local":
        return
    for name, value, needed, why in (
        ("KUBESERVE_DATABASE_URL", settings.database, "postgresql://", "more than one process reads it"),
        ("KUBESERVE_OBJECTS", settings.objects_url, "s3://", "pods fetch their models from there"),
    ):
        if not value.startswith(needed):
            raise ConfigError(f"{name}: {needed}… is accepted where KUBESERVE_PLACE is cluster: {why}")


def open_place(  # noqa: PLR0913  what a process has opened
    settings: Settings,
    redis: RedisOptions,
    fetch: Fetch,
    sources: Sources,
    *,
    installation: str,
    lapsed: Callable[[], bool],
) -> Place:
    """Return the place. A cluster is not written to while `lapsed` holds; a data directory has one process anyway.

    Raises ConfigError where there is no cluster, or nothing to talk to one.
    """
    if settings.place == "local":
        return LocalPlace(Layout(settings.data), fetch)
    try:
        from kubeserve.places import cluster  # noqa: PLC0415  one machine has no client for it
    except ImportError as error:
        raise ConfigError(f"KUBESERVE_PLACE: cluster needs {error.name}: pip install 'kubeserve[cluster]'") from error
    quota = Quota(settings.quota_replicas, settings.quota_memory)
    told = cluster.ClusterSettings.of(settings, redis, os.environ, installation)
    users = cluster.RedisUsers(redis, settings.signing_secret(), installation)
    return cluster.ClusterPlace(cluster.Cluster.open(lapsed), cluster.Rendering(told, quota, sources), users)
