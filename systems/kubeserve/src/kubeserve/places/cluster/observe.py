"""How a deployment stands, read from what the cluster tells of it and of its pods. Pure: it asks nothing.

Containers have `terminationMessagePolicy: FallbackToLogsOnError`, so that the status of one that died has the last
lines of its log.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kubeserve.domain import DeploymentState
from kubeserve.manifests import GENERATION, REVISION, Manifest
from kubeserve.places import Observation
from kubeserve.places.cluster.kinds import is_going, labels_of
from kubeserve.places.logs import CONTROLS

IMAGE: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
CONTAINER: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun"}
)
LONGEST: Final = 240
State = DeploymentState


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod is not ready. `broken`: it does not get better by waiting for room."""

    why: str
    broken: bool


def observation(deployment: Manifest, pods: Sequence[Manifest]) -> Observation:
    """Say how it stands: a Deployment as it was read, and the pods of its revisions, former ones included."""
    about, spec = deployment["metadata"], deployment["spec"]
    generation = _number((about.get("annotations") or {}).get(GENERATION))
    target = _number(labels_of(spec["template"]).get(REVISION))
    alive = [pod for pod in pods if not is_going(pod)]
    ready = [_revision(pod) for pod in alive if _is_ready(pod)]
    active = target if target in ready else max(ready, default=None)
    wanted = spec.get("replicas", 1)
    if wanted == 0 and not ready:
        return Observation(generation, State.ASLEEP, "no calls lately; the next one wakes it", target, 0)
    trouble = _trouble([pod for pod in alive if _revision(pod) == target and not _is_ready(pod)], deployment)
    state, reason = _told(target, active, trouble, ready.count(target), wanted)
    return Observation(generation, state, reason, active, len(ready))


def _told(target: int, active: int | None, trouble: Trouble | None, ready: int, wanted: int) -> tuple[State, str]:
    if active == target:
        more = f"; {trouble.why}" if trouble else ""
        return State.READY, f"{ready} of {max(ready, wanted)} replicas answer{more}"
    if active is not None:
        answers = f"revision {active} answers"
        if trouble is None:
            return State.STARTING, f"revision {target} starts; {answers}"
        state = State.DEGRADED if trouble.broken else State.STARTING
        return state, f"revision {target}: {trouble.why}; {answers}"
    if trouble is None:
        return State.STARTING, f"revision {target} starts"
    return (State.FAILED if trouble.broken else State.PENDING), trouble.why


def _trouble(pods: Iterable[Manifest], deployment: Manifest) -> Trouble | None:
    """Return the worst of what keeps pods from being ready, or from coming about."""
    found = [trouble for pod in pods if (trouble := _of_pod(pod)) is not None]
    if found:
        return max(found, key=lambda trouble: trouble.broken)
    failure = _condition(deployment, "ReplicaFailure")
    if failure.get("status") != "True":
        return None
    message = str(failure.get("message", ""))
    kind, _, quota = message.partition("exceeded quota:")
    if quota:
        return Trouble(f"the quota of its owner has no room for a pod:{_line(quota)}", broken=False)
    return Trouble(f"the cluster refuses its pods: {_line(kind)}", broken=True)


def _of_pod(pod: Manifest) -> Trouble | None:
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        why = status.get("message") or status.get("reason") or "it ended"
        return Trouble(f"its pod failed: {_line(why)}", broken=False)  # another one takes its place
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return Trouble(f"no node has room for it: {_line(scheduled.get('message', ''))}", broken=False)
    for group, what in (("initContainerStatuses", "what it needs could not be fetched"), ("containerStatuses", "")):
        for container in status.get(group) or ():
            if trouble := _of_container(container, what or f"its container {container.get('name')} ended"):
                return trouble
    return None


def _of_container(container: dict[str, Any], ended: str) -> Trouble | None:
    now = container.get("state") or {}
    waiting, over = now.get("waiting") or {}, now.get("terminated") or {}
    reason = waiting.get("reason")
    if reason in IMAGE:
        return Trouble(f"its image {container.get('image')} cannot be pulled ({reason})", broken=True)
    if reason in CONTAINER:
        return Trouble(f"its container cannot be started: {_line(waiting.get('message') or reason)}", broken=True)
    last = over if over.get("exitCode") else (container.get("lastState") or {}).get("terminated") or {}
    if not last or container.get("ready") or (reason != "CrashLoopBackOff" and last is not over):
        return None
    return Trouble(f"{ended} ({_ending(last)})", broken=True)


def _ending(last: dict[str, Any]) -> str:
    """Return how a container ended, with the last line that it wrote."""
    if last.get("reason") == "OOMKilled":
        return "it needed more than its memory"
    lines = [line for line in str(last.get("message") or "").splitlines() if line.strip()]
    said = f": {_line(lines[-1])}" if lines else ""
    return f"exit code {last.get('exitCode')}{said}"


def _revision(pod: Manifest) -> int:
    return _number(labels_of(pod).get(REVISION))


def _number(text: str | None) -> int:
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text, re.ASCII) else -1


def _is_ready(pod: Manifest) -> bool:
    return _condition(pod, "Ready").get("status") == "True"


def _condition(of: Manifest, kind: str) -> dict[str, Any]:
    conditions = (of.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind), {})


def _line(text: str) -> str:
    return " ".join(CONTROLS.sub("\N{REPLACEMENT CHARACTER}", str(text)).split())[:LONGEST]
