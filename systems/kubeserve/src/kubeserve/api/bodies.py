"""What requests may say."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

LONGEST_TEXT = 4096
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_DAY = datetime(9999, 1, 1, tzinfo=UTC)
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]  # a service says what is accepted
Moment = Annotated[AwareDatetime, Field(ge=EPOCH, le=LAST_DAY)]
Sample = Annotated[list[Any], Field(description="Rows that a proof and the page may try it with.")]


class Body(BaseModel):
    """A field that is not known is a mistake, and told."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Page(BaseModel):
    """A page of a list: at most `limit` things behind the one with the id `after`. `Link` names the next page."""

    after: Annotated[str, Field(max_length=36)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class EventPage(BaseModel):
    """A page of events: at most `limit` behind the one with the id `after`."""

    after: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class UsageSpan(BaseModel):
    """From when and up to when, RFC 3339 with a zone."""

    from_: Moment | None = Field(None, alias="from")
    to: Moment | None = None


class UsageQuery(UsageSpan):
    """`step`: seconds that are summed together, in whole minutes."""

    step: Annotated[int, Field(ge=60, le=366 * 86_400, multiple_of=60)] | None = None


class LogQuery(BaseModel):
    """`follow`: go on when all is told."""

    follow: bool = True


class Registration(Body):
    """A new account."""

    email: Text
    password: Text


class Login(Registration):
    """`cookie`: keep the token in a cookie, for the page."""

    cookie: bool = False


class NewKey(Body):
    """A new key, for one deployment or for all."""

    name: Text
    deployment_id: Text | None = None
    expires_at: datetime | None = None
    requests_per_minute: int | None = None


class NewModel(Body):
    """A new model."""

    name: Text
    description: Text = ""


class ModelChange(Body):
    """What is to be changed of a model."""

    name: Text | None = None
    description: Text | None = None


class NewVersion(Body):
    """A new version."""

    tag: Text


class Finish(Body):
    """SHA-256 in hex of files, by name: they are compared with what has come."""

    sha256: dict[Text, Text] = {}


class AliasChange(Body):
    """The version that the alias shall name."""

    version_id: Text


class SpecBody(Body):
    """How a deployment runs; what is left out is as before, or as usual."""

    minimum: int | None = None
    maximum: int | None = None
    concurrency: int | None = None
    idle: float | None = None
    timeout: float | None = None
    memory: int | None = None
    sample: Sample | None = None


class NewDeployment(SpecBody):
    """A new deployment of a version that is ready. Its model is told by the version."""

    name: Text
    version_id: Text
    model_id: Text | None = None
    requests_per_minute: int | None = None


class LimitChange(Body):
    """How many requests a minute may come: with a key, or of all who call a deployment; null: as many as come."""

    requests_per_minute: int | None


class Revise(SpecBody):
    """A new revision of a deployment."""

    version_id: Text | None = None


class Rollback(Body):
    """The number of the revision that shall answer again."""

    revision: int
