"""Proves an upload: its format by content, what it imports, its environment, a load and a prediction in the sandbox."""

from kubeserve.intake.archives import Archive, Archives
from kubeserve.intake.environments import Environment, Environments, usual_packages
from kubeserve.intake.pipeline import Intake, IntakeSettings
from kubeserve.intake.prove import Bounds

__all__ = ["Archive", "Archives", "Bounds", "Environment", "Environments", "Intake", "IntakeSettings", "usual_packages"]
