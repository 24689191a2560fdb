"""Asks the doors of a deployment by HTTP, past its queue. What no door answers becomes a job there: nothing is lost."""

from kubeserve.gateway.doors import Address, ClusterDoors, Doors, LocalDoors
from kubeserve.gateway.gateway import Gateway

__all__ = ["Address", "ClusterDoors", "Doors", "Gateway", "LocalDoors"]
