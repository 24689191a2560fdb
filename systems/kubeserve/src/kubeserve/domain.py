"""What the platform is about: users, models, versions, deployments. Plain values, no behaviour but their rules.

Ids are UUIDs as text. Times are aware, in UTC.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")  # models, tags and aliases; safe in paths and URLs
EMAIL: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@([A-Za-z0-9-]{1,63}\.)+[A-Za-z][A-Za-z0-9-]{1,62}")
LONGEST_EMAIL: Final = 254
EMAIL_ACCEPTED: Final = "an address such as name@example.org is accepted, in ASCII"
SHORTEST_PASSWORD: Final = 12  # characters
LARGEST_MODEL: Final = 500 * 1024 * 1024
LARGEST_REQUIREMENTS: Final = 1024 * 1024
LARGEST_SAMPLE: Final = 64 * 1024
REQUIREMENTS: Final = "requirements.txt"
SAMPLE: Final = "sample.json"
SUFFIXES: Final = (".joblib", ".pkl", ".pickle", ".skops", ".onnx")
NAMESPACE: Final = "ks-"  # before the id of a user: where a cluster runs what is theirs
COOKIE: Final = "kubeserve"  # of the page: the API gives it to who logs in


def is_email(text: str) -> bool:
    """Tell whether a text may be the e-mail address of a user."""
    return len(text) <= LONGEST_EMAIL and EMAIL.fullmatch(text) is not None and ".." not in text


class VersionState(StrEnum):
    """`rejected` is our judgement and final; `failed` names something that was away, and may be tried again."""

    DRAFT = "draft"
    RECEIVING = "receiving"
    SCANNING = "scanning"
    BUILDING = "building"
    CHECKING = "checking"
    READY = "ready"
    ARCHIVED = "archived"
    REJECTED = "rejected"
    FAILED = "failed"


class DeploymentState(StrEnum):
    """What a deployment is. `asleep` runs nothing and answers: the first call wakes it."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"
    DELETED = "deleted"


class Desired(StrEnum):
    """What the owner wants of a deployment. Deleting is a wish like others: the row goes when all else is gone."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


class Format(StrEnum):
    """How a model is written, told by its content."""

    JOBLIB = "joblib"
    PICKLE = "pickle"
    SKOPS = "skops"
    ONNX = "onnx"


class Outcome(StrEnum):
    """How a step of an upload stands."""

    RUNNING = "running"
    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class User:
    """`namespace` is the user's own in a cluster, derived from the id."""

    id: str
    email: str
    role: str
    namespace: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """An API key; the secret is shown once, at its creation. `deployment_id` None: for all of the owner's."""

    id: str
    owner_id: str
    name: str
    prefix: str
    deployment_id: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: a user by token (`deployment_id` None, `key_id` None), or a key, perhaps with a limit."""

    user: User
    key_id: str | None = None
    deployment_id: str | None = None
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A name under which its owner keeps versions."""

    id: str
    owner_id: str
    name: str
    description: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class File:
    """A file of a version: `name` as uploaded, `sha256` in hex, `key` where the object store has it."""

    name: str
    size: int
    sha256: str
    key: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the proof of an upload. `detail` is one line for people."""

    name: str
    outcome: Outcome
    seconds: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Version:
    """An upload: immutable once ready. `state_reason` says in one line why it is in its state.

    `signature` is as the runtime told it (see runtime/signature.py), `environment` the id of its environment, `level`
    which walls its sandbox had, `attempt` how often its proof was begun.
    """

    id: str
    model_id: str
    owner_id: str
    tag: str
    state: VersionState
    state_reason: str
    s3_path: str
    files: tuple[File, ...]
    steps: tuple[Step, ...]
    format: Format | None
    signature: dict[str, Any] | None
    environment: str | None
    level: dict[str, Any] | None
    attempt: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that stands for one version of a model at a time, such as `champion`."""

    model_id: str
    name: str
    version_id: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Quota:
    """What a user may hold: replicas, bytes of their memory, bytes of answers in an hour, bytes of uploaded files."""

    replicas: int = 5
    memory: int = 4 * 1024**3
    answers: int = 1024**3
    storage: int = 20 * 1024**3


@dataclass(frozen=True, slots=True)
class Spec:
    """What a revision runs: immutable. `minimum` 0 lets it sleep, after `idle` seconds without a call.

    `timeout` is the seconds that one prediction may take, `memory` what one replica may use, in bytes.
    """

    version_id: str
    minimum: int = 0
    maximum: int = 5
    concurrency: int = 16
    idle: float = 60.0
    timeout: float = 30.0
    memory: int = 1024 * 1024 * 1024
    sample: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """A numbered, immutable spec of a deployment."""

    number: int
    spec: Spec
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Deployment:
    """`active` is the revision that answers, `target` the one that the owner asked for; they differ while it starts.

    `generation` rises with each wish, `observed` is the last one that the reconciler has carried out.
    `requests_per_minute` bounds all who call it; it is none of a revision, and holds from one call to the next.
    """

    id: str
    owner_id: str
    model_id: str
    name: str
    desired: Desired
    state: DeploymentState
    state_reason: str
    target: int
    active: int | None
    generation: int
    observed: int
    replicas: int
    revisions: tuple[Revision, ...]
    created_at: datetime
    updated_at: datetime
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a deployment used in some minutes, from the minute `at` since the epoch on.

    `predictions` are calls that have ended, `errors` those of them that failed, `rows` what they asked. `busy` is the
    seconds in which replicas worked, `replicas` those for which replicas stood, of all replicas together.
    """

    at: int
    predictions: int
    errors: int
    rows: int
    busy: float
    replicas: float


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to one thing: append-only."""

    id: int
    at: datetime
    owner_id: str
    actor: str
    subject: str
    subject_id: str
    action: str
    detail: dict[str, Any] = field(default_factory=dict)
