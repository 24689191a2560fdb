"""What a spec may say."""

import json
import math
from collections.abc import Iterator
from typing import Final

from kubeserve.domain import Quota, Spec
from kubeserve.errors import Fault, KubeServeError

MIB: Final = 1024**2
LEAST_MEMORY: Final = 64 * MIB
LARGEST_CONCURRENCY: Final = 1024
LONGEST_IDLE: Final = 30 * 86_400.0
LONGEST_TIMEOUT: Final = 3_600.0
LARGEST_SAMPLE: Final = 64 * 1024  # as JSON


def check_spec(spec: Spec, quota: Quota) -> None:
    """Raise KubeServeError with a fault for each field that is not accepted."""
    if faults := list(_faults(spec, quota)):
        raise KubeServeError("; ".join(f"{each.field}: {each.message}" for each in faults), faults=faults)


def _faults(spec: Spec, quota: Quota) -> Iterator[Fault]:
    if not 1 <= spec.maximum <= quota.replicas:
        yield Fault("maximum", f"1 to {quota.replicas} replicas are accepted")
    most = max(1, spec.maximum)
    if not 0 <= spec.minimum <= most:
        yield Fault("minimum", f"0 to {most}, the maximum, are accepted")
    if not 1 <= spec.concurrency <= LARGEST_CONCURRENCY:
        yield Fault("concurrency", f"1 to {LARGEST_CONCURRENCY} calls at a time are accepted")
    if not (math.isfinite(spec.idle) and 1 <= spec.idle <= LONGEST_IDLE):
        yield Fault("idle", f"1 to {LONGEST_IDLE:.0f} seconds are accepted")
    if not (math.isfinite(spec.timeout) and 0 < spec.timeout <= LONGEST_TIMEOUT):
        yield Fault("timeout", f"more than 0 and at most {LONGEST_TIMEOUT:.0f} seconds are accepted")
    if not LEAST_MEMORY <= spec.memory <= quota.memory:
        yield Fault("memory", f"{LEAST_MEMORY // MIB} to {quota.memory // MIB} MiB are accepted")
    if spec.sample is not None and not _is_sample(spec.sample):
        yield Fault("sample", f"a list of rows of at most {LARGEST_SAMPLE // 1024} KiB as JSON is accepted")


def _is_sample(sample: object) -> bool:
    try:
        return isinstance(sample, list) and len(json.dumps(sample, allow_nan=False)) <= LARGEST_SAMPLE
    except (TypeError, ValueError, RecursionError):
        return False
