"""Brings objects about, and takes them away: always all of them, whatever is there already."""

from collections.abc import Iterable, Mapping
from typing import Final

from kubeserve.errors import NotFoundError, UnavailableError
from kubeserve.manifests import Manifest
from kubeserve.places.cluster.client import Cluster, RefusedError, UnknownKindError
from kubeserve.places.cluster.kinds import DEPLOYMENTS, OPTIONAL, ORDER, is_going, name_of

MISSING: Final = {"ScaledObject": "KEDA", "TriggerAuthentication": "KEDA"}


async def put(cluster: Cluster, manifests: Iterable[Manifest]) -> list[Manifest]:
    """Apply them, namespaces and quotas first, pods' readers of a Secret after it. Returns them as they now are."""
    ordered = sorted(manifests, key=lambda manifest: ORDER[manifest["kind"]])
    return [made for manifest in ordered if (made := await _put(cluster, manifest)) is not None]


async def _put(cluster: Cluster, manifest: Manifest) -> Manifest | None:
    kind = manifest["kind"]
    try:
        return await cluster.apply(manifest)
    except UnknownKindError as error:
        if kind in OPTIONAL:
            return None
        missing = MISSING.get(kind, manifest["apiVersion"])
        raise RefusedError(f"the cluster knows no {kind}: {missing} has to be installed") from error
    except NotFoundError as error:
        raise UnavailableError("its namespace is gone; it is made again") from error


async def found(cluster: Cluster, selector: Mapping[str, str]) -> list[Manifest]:
    """Return the objects of deployments with these labels, in any namespace; those first that bring pods about."""
    objects = list[Manifest]()
    for kind in reversed(DEPLOYMENTS):
        try:
            objects += (await cluster.list(kind, selector))[0]
        except UnknownKindError:
            continue
    return objects


async def prune(cluster: Cluster, selector: Mapping[str, str], kept: Iterable[Manifest]) -> list[Manifest]:
    """Delete the objects with these labels that are not `kept`. Returns those that are still there."""
    names = {name_of(manifest) for manifest in kept}
    spare = [each for each in await found(cluster, selector) if name_of(each) not in names]
    for each in spare:
        if not is_going(each):
            await cluster.delete(*name_of(each))
    return spare
