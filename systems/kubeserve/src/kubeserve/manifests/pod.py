"""The pod that answers: `fetch` brings the model, `door` (ours) has the credentials, `model` (theirs) has none."""

import json
from typing import Any, Final

from kubeserve.manifests import resources
from kubeserve.manifests.names import ACCOUNT, AUTHORITIES, DEPLOYMENT, name_of, revision_name
from kubeserve.manifests.networks import DOOR
from kubeserve.manifests.settings import ClusterSettings
from kubeserve.manifests.told import FETCHED, MODELS, Urls, environment_of
from kubeserve.places.workload import Replicable, Workload
from kubeserve.runtime import PRELOAD

Part = dict[str, Any]
PORT: Final = 8601
RUNTIME: Final = "/opt/kubeserve/runtime"  # in the image
RUN: Final = "/run/kubeserve"
ZYGOTE: Final = f"{RUN}/zygote.sock"
TOLD: Final = "/etc/kubeserve"
URLS: Final = "/etc/kubeserve-urls"
TRUSTED: Final = "/etc/kubeserve-store"
OURS: Final = 65532
THEIRS: Final = 65533
LAST_LINES: Final = "FallbackToLogsOnError"  # so that its status says why it ended
GRACE_SECONDS: Final = 45  # for a door to drain (20), to hand back what is left (5), and for a slow node
PATHS: Final = {"models": MODELS, "environment": FETCHED}
SIZES: Final = {"run": "640Mi", "models": "640Mi", "environment": "12Gi", "tmp": "256Mi"}


def pod(workload: Workload, what: Replicable, settings: ClusterSettings, urls: Urls) -> Part:
    """Return the spec of the pods of a revision."""
    name = revision_name(workload.id, what.revision)
    spec: Part = {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": OURS,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # Both containers are told at once to end. The door lets the calls that run end; the zygote ends when it goes.
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {DEPLOYMENT: workload.id}},
            }
        ],
        "initContainers": [_fetch(settings, urls)],
        "containers": [_door(workload, settings), _model(what, settings, urls)],
        "volumes": [
            {"name": "told", "configMap": {"name": name}},
            {"name": "urls", "secret": {"secretName": f"{name}-urls"}},
            *([{"name": "store", "configMap": {"name": AUTHORITIES}}] if settings.store_authorities else []),
            *({"name": each, "emptyDir": {"sizeLimit": SIZES[each]}} for each in ("run", "tmp", *_fetched(urls))),
        ],
    }
    if settings.runtime_class is not None:
        spec["runtimeClassName"] = settings.runtime_class
    if settings.user_namespaces:
        spec["hostUsers"] = False
    return spec


def _fetch(settings: ClusterSettings, urls: Urls) -> Part:
    mounts = [_mount("told", TOLD), _mount("urls", URLS), _mount("tmp", "/tmp", write=True)]  # noqa: S108  the pod's own
    trust: Part = {}
    if settings.store_authorities:
        mounts.append(_mount("store", TRUSTED))
        trust = {"env": [{"name": "REQUESTS_CA_BUNDLE", "value": f"{TRUSTED}/ca.crt"}]}
    return {
        "name": "fetch",
        "image": settings.image,
        "command": ["kubeserve", "fetch", "--workload", f"{TOLD}/workload.json", "--urls", f"{URLS}/urls.json"],
        **trust,
        "volumeMounts": [*mounts, *(_mount(name, PATHS[name], write=True) for name in _fetched(urls))],
        "resources": resources.of_door(),
        "terminationMessagePolicy": LAST_LINES,
        "securityContext": _walls(OURS),
    }


def _door(workload: Workload, settings: ClusterSettings) -> Part:
    redis = settings.redis
    url = f"{'rediss' if redis.tls else 'redis'}://{redis.endpoint.host}:{redis.endpoint.port}/{redis.database}"
    trusted = [{"name": "GREENSCALE_REDIS_CA_FILE", "value": f"{TOLD}/ca.crt"}] if redis.authority else []
    alive = {"httpGet": {"path": "/healthz", "port": DOOR}}
    return {
        "name": "door",
        "image": settings.image,
        "command": ["kubeserve", "door", "--workload", f"{TOLD}/workload.json", "--zygote", ZYGOTE],
        "envFrom": [{"secretRef": {"name": f"{name_of(workload.id)}-redis"}}],
        "env": [
            {"name": "REDIS_URL", "value": url},
            {"name": "KUBESERVE_QUOTA_ANSWERS", "value": str(settings.answers)},
            *trusted,
        ],
        "ports": [{"name": DOOR, "containerPort": PORT}],
        "startupProbe": {**alive, "initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 5},
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": DOOR},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "volumeMounts": [_mount("told", TOLD), _mount("run", RUN, write=True), _mount("tmp", "/tmp", write=True)],  # noqa: S108  as above
        "resources": resources.of_door(),
        "terminationMessagePolicy": LAST_LINES,
        "securityContext": _walls(OURS),
    }


def _model(what: Replicable, settings: ClusterSettings, urls: Urls) -> Part:
    """Return the container of the zygote: no environment, no secret, and nothing to write but the folder of sockets.

    The readiness of a pod is told by its door, and so is a zygote that hangs: its container has no port, and what would
    be run in it by a probe is paid for by its tenant. One that ends is started again without a probe.
    """
    minimum = json.dumps(dict(settings.walls), sort_keys=True)
    return {
        "name": "model",
        "image": settings.image,
        "command": [
            *(f"{environment_of(what, urls)}/bin/python", "-I", "-S", "-B", RUNTIME, "zygote", "--stay"),
            *("--socket", ZYGOTE, "--models", MODELS, "--scratch", f"{RUN}/scratch"),
            *("--preload", ",".join(PRELOAD), "--minimum", minimum),
        ],
        "livenessProbe": {
            "httpGet": {"path": "/zygotez", "port": PORT},
            "initialDelaySeconds": 300,  # imports take seconds; on a cold disk a minute
            "periodSeconds": 10,
            "timeoutSeconds": 5,
        },
        "volumeMounts": [_mount("run", RUN, write=True), *(_mount(name, PATHS[name]) for name in _fetched(urls))],
        "resources": resources.of_model(what.memory),
        "terminationMessagePolicy": LAST_LINES,
        "securityContext": _walls(THEIRS),
    }


def _fetched(urls: Urls) -> tuple[str, ...]:
    return ("models", "environment") if urls.environment else ("models",)


def _mount(name: str, path: str, *, write: bool = False) -> Part:
    return {"name": name, "mountPath": path} if write else {"name": name, "mountPath": path, "readOnly": True}


def _walls(user: int) -> Part:
    return {
        "runAsUser": user,
        "runAsGroup": user,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
