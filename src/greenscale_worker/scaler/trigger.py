"""What the metadata of a ScaledObject's trigger say: which queue, and what one pod takes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from greenscale_worker.errors import ConfigError
from greenscale_worker.queues.redis.keys import Keys

# The names of KEDA's own triggers `redis` and `redis-streams`: of the queue, and of the work that one pod takes.
KINDS: Final[Mapping[str, tuple[Literal["list", "stream"], str]]] = {
    "listName": ("list", "listLength"),
    "stream": ("stream", "streamLength"),
}
START: Final = "podStartSeconds"
START_SECONDS: Final = 5.0
LONGEST_START: Final = 3600.0
MOST_LENGTH: Final = 1_000_000.0
LONGEST_NAME: Final = 1000  # the look for arrivals sends it several times, ten times a second
OF_KEDA: Final = frozenset({"scalerAddress", "enableTLS", "unsafeSsl"})  # it passes on what it read itself
ACCEPTED: Final = f"listName and listLength, or stream and streamLength, and {START}"


@dataclass(frozen=True, slots=True)
class Trigger:
    """A queue, as one ScaledObject names it.

    `target` is how many jobs one pod runs at the same time. Of what becomes due, KEDA is told `start` seconds ahead.
    """

    kind: Literal["list", "stream"]
    name: str
    target: float
    start: float


@dataclass(frozen=True, slots=True)
class Own:
    """What the scaler's own settings say, for triggers that do not: the queue, by key and name, and the target.

    `name` None: the settings name no queue.
    """

    target: float
    key: Literal["listName", "stream"] = "listName"
    name: str | None = None


def read(metadata: Mapping[str, str], own: Own) -> Trigger:
    """Read a trigger. Raises ConfigError, which says what is wrong and what is accepted."""
    named = [key for key in KINDS if key in metadata]
    if not named and own.name is not None:
        metadata = {own.key: own.name, **metadata}
        named = [own.key]
    if len(named) != 1:
        raise ConfigError(f"metadata: {' and '.join(named) or 'no queue'} named; expected: {ACCEPTED}")
    (key,) = named
    kind, length = KINDS[key]
    for each in metadata:
        if each not in {key, length, START} | OF_KEDA:
            raise ConfigError(f"metadata: {each[:100]} is unknown; accepted beside {key}: {length} and {START}")
    name = metadata[key]
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"metadata: {key} has {len(name):,} characters; at most {LONGEST_NAME:,} are accepted")
    try:
        Keys(name)
    except ConfigError as error:
        raise ConfigError(f"metadata: {key}: {error}") from None
    return Trigger(
        kind,
        name,
        _number(metadata, length, own.target, least=1.0, most=MOST_LENGTH),
        _number(metadata, START, START_SECONDS, least=0.0, most=LONGEST_START),
    )


def _number(metadata: Mapping[str, str], key: str, default: float, *, least: float, most: float) -> float:
    text = metadata.get(key)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        raise ConfigError(f"metadata: {key} is {text[:100]!r}; expected: a number from {least:g} to {most:g}")
    return number
