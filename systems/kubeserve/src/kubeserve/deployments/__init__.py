"""Deployments: what an owner wants to run, and what the reconciler says of it. An owner sees only his own.

A wish is written here as a new generation, and carried out by the reconciler, which says so by `observe`.

The quota counts what a deployment that shall run is sure to get: the memory of max(1, `minimum`) replicas. How many
run above that is for the place to bound, by the same quota.
"""

from kubeserve.deployments.service import Deployments

__all__ = ["Deployments"]
