"""The hash of a deployment's usage in Redis: a field for each bucket, MINUTE/NAME, and in it five whole numbers."""

import re
from dataclasses import astuple, dataclass
from typing import Final

from kubeserve.queueing import queue_options

MINUTE: Final = 60
LARGEST: Final = 10**12  # of one number; a minute of a million replicas has fewer microseconds
LATE_MINUTES: Final = 24 * 60  # for which what could not be written or taken is kept
FIELD: Final = re.compile(r"([0-9]{1,10})/([0-9a-f]{16})")
VALUE: Final = re.compile(r"[0-9]{1,13}( [0-9]{1,13}){4}")


@dataclass(slots=True)
class Sums:
    """What was counted. `busy` is microseconds in which the model worked, `replicas` those for which replicas stood."""

    predictions: int = 0
    errors: int = 0
    rows: int = 0
    busy: int = 0
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class Bucket:
    """The sums of one door, of a minute since the epoch, by the clock of Redis."""

    minute: int
    name: str
    sums: Sums


def key_of(deployment_id: str) -> str:
    """Return the key of a deployment's usage."""
    return f"{{{queue_options(deployment_id).name}}}:usage"


def written(bucket: Bucket) -> tuple[str, str]:
    """Return a bucket's field and value."""
    return f"{bucket.minute}/{bucket.name}", " ".join(str(min(number, LARGEST)) for number in astuple(bucket.sums))


def read(field: str, value: str) -> Bucket | None:
    """Return the bucket, None if it is none."""
    found = FIELD.fullmatch(field)
    if found is None or not VALUE.fullmatch(value):
        return None
    numbers = [int(number) for number in value.split()]
    return None if max(numbers) > LARGEST else Bucket(int(found[1]), found[2], Sums(*numbers))
