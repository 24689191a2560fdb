"""How much of a node a pod takes: what all of them reserve fits the quota of their user.

A door reserves `DOOR_MEMORY`. A model reserves half of what it may use: a replica's memory, and room for the zygote
that it was forked from. So five pods of the default memory take 3,840 MiB of 4 GiB; and whatever the platform's own
quota lets a user deploy, one replica each or its minimum, is reserved within the namespace's, too.
"""

from typing import Any, Final

from kubeserve.domain import Quota

MIB: Final = 1024**2
ROOM: Final = 256 * MIB  # the packages that a zygote imports, and what it needs itself
DOOR_MEMORY: Final = 128
DOOR_MOST: Final = 384  # MiB; bodies of calls, of 4 MiB at most
DOOR_CPU: Final = 100  # thousandths of a processor
MODEL_CPU: Final = 300
ONE_CPU: Final = "1"  # an event loop, or a replica, uses no more
MOST_OVER: Final = "3"  # times its reservation that a container may use of memory

Resources = dict[str, dict[str, str]]


def of_door() -> Resources:
    """Return what a door, and the step before it that fetches, may use."""
    return _resources(DOOR_CPU, DOOR_MEMORY, DOOR_MOST)


def of_model(memory: int) -> Resources:
    """Return what the container of models may use, whose replica may use `memory` bytes."""
    most = -(-(memory + ROOM) // MIB)
    return _resources(MODEL_CPU, -(-most // 2), most)


def most_memory(memory: int) -> int:
    """Return the bytes that the container of models may use."""
    return -(-(memory + ROOM) // MIB) * MIB


def namespace_bounds(quota: Quota) -> dict[str, str]:
    """Return what a ResourceQuota says: 2 processors, 4 GiB and 5 pods, unless the platform's own quota differs."""
    rounded = ROOM // 2 + MIB
    needed = quota.memory // 2 + quota.replicas * (DOOR_MEMORY * MIB + rounded)
    return {
        "requests.cpu": _whole(quota.replicas * (DOOR_CPU + MODEL_CPU), 1000, "m", ""),
        "requests.memory": _whole(-(-max(quota.memory, needed) // MIB), 1024, "Mi", "Gi"),
        "pods": str(quota.replicas),
    }


def container_limits(quota: Quota) -> dict[str, Any]:
    """Return what a LimitRange says of containers: bounds, and defaults for one that says nothing."""
    largest = -(-(quota.memory + ROOM) // MIB)
    return {
        "type": "Container",
        "default": {"cpu": "500m", "memory": "256Mi"},
        "defaultRequest": {"cpu": f"{DOOR_CPU}m", "memory": f"{DOOR_MEMORY}Mi"},
        "max": {"cpu": ONE_CPU, "memory": f"{largest}Mi"},
        "maxLimitRequestRatio": {"memory": MOST_OVER},
    }


def _resources(cpu: int, memory: int, most: int) -> Resources:
    return {
        "requests": {"cpu": f"{cpu}m", "memory": f"{memory}Mi"},
        "limits": {"cpu": ONE_CPU, "memory": f"{most}Mi"},
    }


def _whole(count: int, many: int, unit: str, larger: str) -> str:
    """Return a quantity in the larger unit, of which `many` are one, where it is whole there."""
    return f"{count}{unit}" if count % many else f"{count // many}{larger}"
