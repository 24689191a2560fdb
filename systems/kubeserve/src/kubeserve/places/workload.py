"""What shall run, as the reconciler writes it and a place reads it."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from kubeserve.domain import Format

Id = Annotated[str, Field(pattern=r"[0-9a-f-]{36}", max_length=36)]


class Replicable(BaseModel):
    """A revision, complete: every replica of it is made from this. Sizes are bytes, times seconds.

    `key` is where the object store has the model; `model` is its file once a place has fetched it. `environment` is
    the folder of the interpreter's environment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: int
    version: Id
    tag: str
    key: str
    model: Path | None = None
    format: Format
    environment: Path
    minimum: int = Field(ge=0)
    maximum: int = Field(ge=1)
    concurrency: int = Field(ge=1)
    idle: float = Field(gt=0)
    timeout: float = Field(gt=0)
    memory: int = Field(gt=0)


class Workload(BaseModel):
    """A deployment: what shall answer (`target`), and what answers as long as that does not (`fallback`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    tenant: Id
    generation: int
    target: Replicable
    fallback: Replicable | None = None
