"""How many pods a deployment has: as many as its work needs, none without work where its minimum is 0."""

import math
from typing import Any, Final

from kubeserve.manifests.names import redis_user_of
from kubeserve.manifests.resources import most_memory
from kubeserve.manifests.settings import ClusterSettings
from kubeserve.places.workload import Replicable
from kubeserve.queueing import queue_options

Rule = dict[str, Any]
POLL_SECONDS: Final = 1  # a call that finds no pod waits for this
FIRST_SECONDS: Final = 120  # a deployment that nobody calls is brought up once, and seen to answer
CPU_PERCENT: Final = "80"  # of what a model has reserved
MEMORY_SHARE: Final = 0.85  # of what it may use: what a model always holds does not add pods
LOGIN: Final = {"username": "REDIS_USERNAME", "password": "REDIS_PASSWORD"}  # KEDA's words for the keys of the Secret


def terms(deployment_id: str) -> dict[str, str]:
    """Return the keys in Redis whose lengths add up to the work: waiting, taken up, and lately by HTTP."""
    queue = queue_options(deployment_id).name
    return {"waiting": queue, "open": f"{{{queue}}}:open", "hot": f"{{{queue}}}:hot"}


def scaled_object(deployment_id: str, name: str, what: Replicable, settings: ClusterSettings) -> Rule:
    """Return the spec of a ScaledObject. All work counts, so that a pod is not taken while it works."""
    asleep: Rule = {
        "pollingInterval": POLL_SECONDS,
        "cooldownPeriod": math.ceil(what.idle),
        "initialCooldownPeriod": FIRST_SECONDS,
    }
    return {
        "scaleTargetRef": {"name": name},
        "minReplicaCount": what.minimum,
        "maxReplicaCount": what.maximum,
        **({} if what.minimum else asleep),  # KEDA warns of them where there is always a pod
        # Redis does not answer: as many pods as there are, none included.
        "fallback": {"failureThreshold": 3, "replicas": max(1, what.minimum), "behavior": "currentReplicas"},
        "advanced": {
            "scalingModifiers": {
                "formula": " + ".join(terms(deployment_id)),
                "target": str(what.concurrency),
                "activationTarget": "0",
                "metricType": "AverageValue",
            },
            "horizontalPodAutoscalerConfig": {"behavior": _behavior(what)},
        },
        "triggers": [
            *_of_work(deployment_id, name, what, settings),
            *(_of_resources(what) if what.minimum else []),
        ],
    }


def trigger_authentication(secret: str, authority: str | None) -> Rule:
    """Return the spec of a TriggerAuthentication; `authority` is a ConfigMap with the certificates of Redis."""
    spec: Rule = {
        "secretTargetRef": [{"parameter": word, "name": secret, "key": key} for word, key in LOGIN.items()],
    }
    if authority is not None:
        spec["configMapTargetRef"] = [{"parameter": "ca", "name": authority, "key": "ca.crt"}]
    return spec


def login(deployment_id: str, password: str) -> dict[str, str]:
    """Return the content of the Secret by which the door and KEDA log in."""
    return {"REDIS_USERNAME": redis_user_of(deployment_id), "REDIS_PASSWORD": password}


def _behavior(what: Replicable) -> Rule:
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "policies": [{"type": "Pods", "value": max(1, what.maximum), "periodSeconds": 15}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": 120,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }


def _of_work(deployment_id: str, name: str, what: Replicable, settings: ClusterSettings) -> list[Rule]:
    redis = settings.redis
    return [
        {
            "name": term,
            "type": "redis",
            "metadata": {
                "address": f"{redis.endpoint.host}:{redis.endpoint.port}",
                "databaseIndex": str(redis.database),
                "enableTLS": "true" if redis.tls else "false",
                "listName": key,
                "listLength": str(what.concurrency),
            },
            "authenticationRef": {"name": name},
        }
        for term, key in terms(deployment_id).items()
    ]


def _of_resources(what: Replicable) -> list[Rule]:
    memory = int(most_memory(what.memory) * MEMORY_SHARE)
    return [
        {"type": "cpu", "metricType": "Utilization", "metadata": {"value": CPU_PERCENT, "containerName": "model"}},
        {"type": "memory", "metricType": "AverageValue", "metadata": {"value": str(memory), "containerName": "model"}},
    ]
