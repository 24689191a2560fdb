"""What the objects of a cluster are called, and how they are found again. Ids are UUIDs: every name is one of DNS."""

from typing import Final

from kubeserve.domain import NAMESPACE

PART_OF: Final = "app.kubernetes.io/part-of"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
NAME: Final = "app.kubernetes.io/name"
USER: Final = "kubeserve/user"
DEPLOYMENT: Final = "kubeserve/deployment"
INSTALLATION: Final = "kubeserve/installation"  # which platform made it; pods have none, so that no change rolls them
REVISION: Final = "kubeserve/revision"  # a label of pods, and of what belongs to one revision
GENERATION: Final = "kubeserve/generation"  # an annotation of the Deployment: the wish that it carries out
VERSION: Final = "kubeserve/version"  # an annotation of pods: the tag of the version, for people
HASH: Final = "kubeserve/hash"  # an annotation of pods: they are made anew when what they are told changes

PLATFORM: Final = "kubeserve"
MODEL: Final = "kubeserve-model"  # the name of pods that answer
ACCOUNT: Final = "model"  # the account of such pods, which has no rights and no token
REGISTRY: Final = "registry"  # the Secret of a user's namespace by which nodes get the image
AUTHORITIES: Final = "store-authorities"  # the ConfigMap there by which pods trust the store


def namespace_of(user_id: str) -> str:
    """Return the namespace in which a user's models run."""
    return f"{NAMESPACE}{user_id}"


def name_of(deployment_id: str) -> str:
    """Return the name of a deployment's objects that last: Deployment, Service, ScaledObject and others."""
    return f"d-{deployment_id}"


def revision_name(deployment_id: str, revision: int) -> str:
    """Return the name of the ConfigMap of one revision; with `-urls` behind it, that of its Secret."""
    return f"{name_of(deployment_id)}-r{revision}"


def redis_user_of(deployment_id: str) -> str:
    """Return the user of Redis as which the pods of a deployment, and KEDA for it, log in."""
    return f"ks-{deployment_id}"


def labels_of_user(user_id: str) -> dict[str, str]:
    """Return the labels of everything that a user has in a cluster."""
    return {PART_OF: PLATFORM, MANAGED_BY: PLATFORM, USER: user_id}


def labels_of_deployment(user_id: str, deployment_id: str) -> dict[str, str]:
    """Return the labels of everything that belongs to one deployment, by which it is pruned."""
    return {**labels_of_user(user_id), NAME: MODEL, DEPLOYMENT: deployment_id}
