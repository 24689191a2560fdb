"""What a deployment has in a cluster. Each revision has what its pods are told under a name of its own.

So pods of a former revision that start once more while a new one comes up still find theirs.
"""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

import orjson

from kubeserve.manifests import scaling
from kubeserve.manifests.names import (
    DEPLOYMENT,
    GENERATION,
    HASH,
    INSTALLATION,
    REVISION,
    VERSION,
    labels_of_deployment,
    name_of,
    namespace_of,
    revision_name,
)
from kubeserve.manifests.networks import DOOR
from kubeserve.manifests.pod import PORT, pod
from kubeserve.manifests.settings import ClusterSettings
from kubeserve.manifests.told import Urls, urls_json, workload_json
from kubeserve.places.workload import Replicable, Workload

Manifest = dict[str, Any]
LONGEST_PROGRESS: Final = 900  # seconds for a model to be fetched, loaded and ready


def deployment(
    workload: Workload, settings: ClusterSettings, *, redis_password: str, urls: Mapping[int, Urls]
) -> list[Manifest]:
    """Return all that a deployment has, in the order in which to apply it; KEDA looks for the Deployment.

    `urls` names by its number what the pods of the target fetch, and of the fallback where there is one; new ones of
    the same files make no new pods. The number of pods is the autoscaler's: it is in none of this.
    """
    render = _Rendering(workload, settings)
    revisions = [what for what in (workload.target, workload.fallback) if what is not None]
    password = scaling.login(workload.id, redis_password)
    told = {what.revision: render.told(what, urls[what.revision]) for what in revisions}
    content = hashlib.sha256(orjson.dumps([told[workload.target.revision], password], option=orjson.OPT_SORT_KEYS))
    manifests = [render.secret(f"{render.name}-redis", password)]
    for what in revisions:
        name = revision_name(workload.id, what.revision)
        manifests += [
            render.object("v1", "ConfigMap", name, {"data": told[what.revision]}, what),
            render.secret(f"{name}-urls", {"urls.json": urls_json(what, urls[what.revision])}, what),
        ]
    return [
        *manifests,
        render.service(),
        render.deployment(urls[workload.target.revision], content.hexdigest()[:16]),
        *render.autoscaler(),
        render.monitor(),
        *render.disruption_budget(),
    ]


class _Rendering:
    def __init__(self, workload: Workload, settings: ClusterSettings) -> None:
        self._workload = workload
        self._settings = settings
        self.name = name_of(workload.id)
        self._selector = {DEPLOYMENT: workload.id}
        self._labels = labels_of_deployment(workload.tenant, workload.id)

    def object(self, version: str, kind: str, name: str, content: Manifest, what: Replicable | None = None) -> Manifest:
        labels = {**self._labels, INSTALLATION: self._settings.installation}
        labels |= {REVISION: str(what.revision)} if what else {}
        metadata = {"name": name, "namespace": namespace_of(self._workload.tenant), "labels": labels}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}

    def secret(self, name: str, content: Mapping[str, str], what: Replicable | None = None) -> Manifest:
        data = {key: b64encode(value.encode()).decode() for key, value in content.items()}
        return self.object("v1", "Secret", name, {"type": "Opaque", "data": data}, what)

    def told(self, what: Replicable, urls: Urls) -> dict[str, str]:
        authority = self._settings.redis.authority
        told = {"workload.json": workload_json(self._workload, what, urls)}
        return told if authority is None else {**told, "ca.crt": authority}

    def service(self) -> Manifest:
        """Without an address of its own: its name has those of the pods that are ready."""
        ports = [{"name": DOOR, "port": PORT, "targetPort": DOOR}]
        return self.object(
            "v1", "Service", self.name, {"spec": {"clusterIP": "None", "selector": self._selector, "ports": ports}}
        )

    def deployment(self, urls: Urls, content: str) -> Manifest:
        target = self._workload.target
        template = {
            "metadata": {
                "labels": {**self._labels, REVISION: str(target.revision)},
                "annotations": {HASH: content, VERSION: target.tag},
            },
            "spec": pod(self._workload, target, self._settings, urls),
        }
        spec = {
            "selector": {"matchLabels": self._selector},
            "progressDeadlineSeconds": LONGEST_PROGRESS,
            "revisionHistoryLimit": 2,
            # A former pod answers until a new one is ready; of four or five, one may go first, where the quota is full.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}},
            "template": template,
        }
        made = self.object("apps/v1", "Deployment", self.name, {"spec": spec})
        made["metadata"]["annotations"] = {GENERATION: str(self._workload.generation)}
        return made

    def autoscaler(self) -> list[Manifest]:
        target = self._workload.target
        authority = revision_name(self._workload.id, target.revision) if self._settings.redis.authority else None
        login = scaling.trigger_authentication(f"{self.name}-redis", authority)
        scaled = scaling.scaled_object(self._workload.id, self.name, target, self._settings)
        return [
            self.object("keda.sh/v1alpha1", "TriggerAuthentication", self.name, {"spec": login}),
            self.object("keda.sh/v1alpha1", "ScaledObject", self.name, {"spec": scaled}),
        ]

    def monitor(self) -> Manifest:
        spec = {
            "selector": {"matchLabels": self._selector},
            "endpoints": [{"port": DOOR, "path": "/metrics", "interval": "15s"}],
        }
        return self.object("monitoring.coreos.com/v1", "ServiceMonitor", self.name, {"spec": spec})

    def disruption_budget(self) -> list[Manifest]:
        """Let a node be drained of one pod at a time, where there may be several."""
        if self._workload.target.maximum == 1:
            return []
        spec = {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": self._selector},
        }
        return [self.object("policy/v1", "PodDisruptionBudget", self.name, {"spec": spec})]
