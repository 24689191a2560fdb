"""What the API answers. Times are RFC 3339 in UTC, sizes bytes, durations seconds."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from kubeserve.domain import DeploymentState, Desired, Format, Key, Outcome, VersionState


class Shape(BaseModel):
    """Made from the domain's values by their fields."""

    model_config = ConfigDict(from_attributes=True)


class UserShape(Shape):
    """An account."""

    id: str
    email: str
    role: str
    namespace: str
    created_at: datetime


class RegisteredShape(UserShape):
    """A new account. `warning` says what comes later, null where all is there."""

    warning: str | None = None


class LoginShape(Shape):
    """`token` goes into `Authorization: Bearer`; null where the cookie has it."""

    token: str | None
    expires_in: float
    user: UserShape


class KeyShape(Shape):
    """An API key, recognised by its `prefix`. `deployment_id` null: it is for all of its owner's.

    `deployment` is the name of that one.
    """

    id: str
    name: str
    prefix: str
    deployment_id: str | None
    deployment: str | None = None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, key: Key, deployment: str | None) -> "KeyShape":
        """Tell the deployment's name beside the key."""
        return cls.model_validate(key).model_copy(update={"deployment": deployment})


class NewKeyShape(KeyShape):
    """`key` is its text, told this once."""

    key: str

    @classmethod
    def made(cls, key: Key, text: str, deployment: str | None) -> Self:
        """Tell the text beside the rest."""
        return cls(**KeyShape.of(key, deployment).model_dump(), key=text)


class ModelShape(Shape):
    """A model: a name for versions."""

    id: str
    name: str
    description: str
    created_at: datetime
    updated_at: datetime


class NewestShape(Shape):
    """The newest version of a model."""

    id: str
    tag: str
    state: VersionState
    state_reason: str
    updated_at: datetime


class ListedModelShape(ModelShape):
    """A model in the list of models: how many versions it has, and the newest of them."""

    versions: int = 0
    newest: NewestShape | None = None


class FileShape(Shape):
    """A file of a version: `size` bytes of `total` are here (null: it was not announced)."""

    name: str
    size: int
    total: int | None = None
    complete: bool = True
    sha256: str | None = None


class StepShape(Shape):
    """A step of a version's proof; `detail` is one line."""

    name: str
    outcome: Outcome
    seconds: float | None
    detail: str


class VersionShape(Shape):
    """A version. `state_reason` says in one line why it is in its state."""

    id: str
    model_id: str
    tag: str
    state: VersionState
    state_reason: str
    s3_path: str
    files: list[FileShape]
    steps: list[StepShape]
    format: Format | None
    signature: dict[str, Any] | None
    environment: str | None
    level: dict[str, Any] | None
    attempt: int
    created_at: datetime
    updated_at: datetime


class AliasShape(Shape):
    """A name for one version of a model."""

    name: str
    version_id: str
    updated_at: datetime


class RevisionShape(Shape):
    """What a deployment runs, or ran. `memory` is bytes of one replica."""

    number: int
    version_id: str
    minimum: int
    maximum: int
    concurrency: int
    idle: float
    timeout: float
    memory: int
    created_at: datetime


class DeploymentShape(Shape):
    """A deployment. `active_revision` answers, `target_revision` is what its owner wants. `curl` works when pasted.

    `version` is the tag of what answers, or is to.
    """

    id: str
    name: str
    model_id: str
    model: str
    version: str
    state: DeploymentState
    state_reason: str
    desired: Desired
    url: str
    curl: str
    active_revision: int | None
    target_revision: int
    replicas: int
    revisions: list[RevisionShape]
    created_at: datetime
    updated_at: datetime


class EventShape(Shape):
    """What happened, such as `version` `state`. `id` is where to read on."""

    id: int
    at: datetime
    actor: str
    subject: str
    action: str
    detail: dict[str, Any]


class PredictionShape(Shape):
    """The answer to a prediction: one of `predictions` for each row.

    `id` is null where a replica that was awake answered at once: that answer is not kept.
    """

    id: str | None
    predictions: list[Any]
    model: str
    version: str
    deployment: str
    revision: int


class ManifestsShape(Shape):
    """A List of Kubernetes, with its fields' names: what `kubectl apply` takes."""

    apiVersion: str = "v1"  # noqa: N815  as Kubernetes calls it
    kind: str = "List"
    items: list[dict[str, Any]]


class HealthShape(Shape):
    """`ok`, or what does not answer: of `database`, `queue` and `door`."""

    status: str
    away: list[str]
