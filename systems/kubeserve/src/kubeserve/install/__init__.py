"""KubeServe on a cluster by one command, and away by another. All of it is done by kubectl, as a person would."""

from kubeserve.install.cluster import By, Options
from kubeserve.install.down import remove
from kubeserve.install.up import install

__all__ = ["By", "Options", "install", "remove"]
