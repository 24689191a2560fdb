"""Loads a model and asks it once in the sandbox, with its own environment, and believes nothing that comes out of it.

Before the walls stand, only the platform's code runs: what goes wrong there is FailedError. Behind them runs the model:
however it ends there, that is our judgement of it.
"""

import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, JsonValue, StringConstraints, TypeAdapter, ValidationError

import kubeserve.runtime
from kubeserve.domain import Format
from kubeserve.intake.processes import Ended, run
from kubeserve.intake.verdicts import FailedError, RejectedError

RUNTIME: Final = Path(kubeserve.runtime.__file__).parent
MIB: Final = 1024**2
MOST_LINES: Final = 16
NOT_ASKED: Final = "sample_needed"  # it loads, and does not tell what it takes
OURS: Final = "walls"  # the stage in which nothing of the model has run

Line = Annotated[str, StringConstraints(max_length=500)]
Name = Annotated[str, StringConstraints(max_length=256)]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one proof may take: seconds from start to end, and of the processor; bytes of memory and of files."""

    seconds: float = 120.0
    cpu: int = 60
    memory: int = 2048 * MIB
    file: int = 256 * MIB
    minimum: Mapping[str, Any] = field(default_factory=dict)  # the walls that must stand, as keys of a level


@dataclass(frozen=True, slots=True)
class Proof:
    """What was seen: which walls stood, what the model is, how long it took; `not_asked` says why, if it was not."""

    level: dict[str, Any]
    kind: str
    signature: dict[str, Any]
    load_seconds: float
    predict_seconds: float
    predictions: int
    not_asked: str = ""


class _Port(BaseModel):
    name: Name
    datatype: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{1,16}$")]
    shape: Annotated[list[int], Field(max_length=16)] | None = None


class _Signature(BaseModel):
    kind: Literal["tabular", "tensor"]
    features: Annotated[int, Field(ge=0, le=100_000)] | None
    inputs: Annotated[list[_Port], Field(max_length=100_000)]
    outputs: Annotated[list[_Port], Field(max_length=1000)]
    classes: Annotated[list[Name | int | float | bool], Field(max_length=1000)] | None


class _Walls(BaseModel):
    step: Literal["walls"]
    level: Annotated[dict[Name, JsonValue], Field(max_length=16)]


class _Loaded(BaseModel):
    step: Literal["loaded"]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    kind: Line
    signature: _Signature


class _Predicted(BaseModel):
    step: Literal["predicted"]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    predictions: Annotated[list[JsonValue], Field(max_length=100_000)]


class _Fault(BaseModel):
    code: Name
    message: str = ""
    stage: Name = ""


class _Error(BaseModel):
    error: _Fault


_Said = _Walls | _Loaded | _Predicted | _Error
_LINE: Final[TypeAdapter[_Said]] = TypeAdapter(_Said)


async def prove(  # noqa: PLR0913  each is another part of one question
    python: Path,
    model: Path,
    model_format: Format,
    scratch: Path,
    bounds: Bounds,
    *,
    sample: list[JsonValue] | None = None,
) -> Proof:
    """Prove one model with the Python of its environment, by the rows of `sample`, else by made-up ones.

    Raises RejectedError, also if the model does not answer the sample, and FailedError.

    All that runs for it has ended when this does, also when this is cancelled. `scratch` is a directory of its own.
    """
    limits = {"memory": bounds.memory, "cpu": bounds.cpu, "file": bounds.file}
    asked = {
        "model": str(model), "format": model_format.value, "sample": sample, "scratch": str(scratch),
        "limits": limits, "minimum": dict(bounds.minimum),
    }  # fmt: skip
    given = TypeAdapter(dict[str, Any]).dump_json(asked)
    try:
        ended = await run(python, "-I", "-S", "-B", RUNTIME, "prove", seconds=bounds.seconds, given=given)
    except OSError as error:
        raise FailedError(f"the sandbox cannot be started: {error}") from None
    return _judged(ended, bounds, asked_with_rows=sample is not None)


def _judged(ended: Ended, bounds: Bounds, *, asked_with_rows: bool) -> Proof:
    """The lines in the order in which they must come: what a model writes later cannot change an earlier one."""
    said = _said(ended)
    walls, loaded, predicted = next(said, None), next(said, None), next(said, None)
    if isinstance(walls, _Error):
        raise (FailedError if walls.error.stage == OURS else RejectedError)(_text(walls.error))
    if not isinstance(walls, _Walls):
        raise FailedError(f"the sandbox {_how(ended, bounds)} before its walls stood: {_tail(ended)}")
    if isinstance(loaded, _Error):
        raise RejectedError(f"it does not load: {_text(loaded.error)}")
    if not isinstance(loaded, _Loaded):
        raise RejectedError(f"it does not load: the model {_how(ended, bounds)}")
    signature = loaded.signature.model_dump(exclude_unset=True)
    if isinstance(predicted, _Predicted) and ended.status == 0:
        count = len(predicted.predictions)
        return Proof(walls.level, loaded.kind, signature, loaded.seconds, predicted.seconds, count)
    if isinstance(predicted, _Error) and predicted.error.code == NOT_ASKED and not asked_with_rows:
        return Proof(walls.level, loaded.kind, signature, loaded.seconds, 0.0, 0, _text(predicted.error))
    if isinstance(predicted, _Error):
        raise RejectedError(f"it does not predict: {_text(predicted.error)}")
    raise RejectedError(f"it does not predict: the model {_how(ended, bounds)}")


def _said(ended: Ended) -> Iterator[_Said]:
    """Up to the first line that is none of the protocol's."""
    for line in ended.out.split(b"\n")[:MOST_LINES]:
        try:
            yield _LINE.validate_json(line)
        except ValidationError:
            return


def _text(fault: _Fault) -> str:
    return _one_line(fault.message) or fault.code


def _how(ended: Ended, bounds: Bounds) -> str:
    if ended.late:
        return f"took longer than {bounds.seconds:g} s and was ended"
    if ended.cut:
        return "said too much"
    if ended.status == -signal.SIGXCPU:
        return f"took more than {bounds.cpu} s of the processor"
    if ended.status == -signal.SIGSYS:
        return "asked the system for what the walls refuse"
    return ended.how


def _tail(ended: Ended) -> str:
    return _one_line(ended.err.decode("utf-8", "replace")[-500:])


def _one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text[:500]).split())
