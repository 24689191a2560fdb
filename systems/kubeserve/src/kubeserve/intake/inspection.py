"""Identifies and scans a file in a process of its own, for parsing hostile bytes may crash, hang or swell.

`python -m kubeserve.intake.inspection` is that process: a question as JSON on stdin, an answer on stdout.
"""

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kubeserve.intake.identify import Identity, identify
from kubeserve.intake.processes import Ended, run
from kubeserve.intake.scan import Imports, scan
from kubeserve.intake.verdicts import FailedError, RejectedError

MEMORY: Final = 2 * 1024**3
SECONDS: Final = 60.0  # of reading; the process has some more to start, and to end by itself
SLACK: Final = 30.0
LIMITS: Final[Mapping[int, int]] = {
    resource.RLIMIT_AS: MEMORY,
    resource.RLIMIT_CPU: int(SECONDS + SLACK),
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
}


class Question(BaseModel):
    """What is asked of the process."""

    path: Path
    name: str
    identity: Identity | None = None
    seconds: float = SECONDS


class Answer(BaseModel):
    """What it says. It has parsed hostile bytes, so its answer is checked as well."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["identity", "imports", "rejected"]
    identity: Identity | None = None
    imports: Imports | None = None
    reason: str = Field(default="", max_length=2000)


async def identified(path: Path, name: str) -> Identity:
    """What the file at `path`, uploaded as `name`, is by its content. Raises RejectedError, FailedError."""
    answer = await _ask(Question(path=path, name=name))
    if isinstance(answer, Ended):
        raise RejectedError(f"telling its format {answer.how}: the file is not accepted")
    if answer.identity is None:
        raise FailedError("the inspection gave no format")
    return answer.identity


async def scanned(path: Path, identity: Identity, *, seconds: float = SECONDS) -> Imports:
    """What it names; told as incomplete when the scan crashed or took too long. Raises RejectedError, FailedError."""
    answer = await _ask(Question(path=path, name="", identity=identity, seconds=seconds))
    if isinstance(answer, Ended):
        return Imports((), (), f"not looked into: the scan {answer.how}")
    if answer.imports is None:
        raise FailedError("the inspection gave no imports")
    return answer.imports


async def _ask(question: Question) -> Answer | Ended:
    """The answer, or how the process ended without one."""
    try:
        ended = await run(
            sys.executable, "-I", "-B", "-m", "kubeserve.intake.inspection",
            seconds=question.seconds + SLACK, given=question.model_dump_json().encode(), limits=LIMITS,
        )  # fmt: skip
    except OSError as error:
        raise FailedError(f"the inspection cannot be started: {error}") from None
    try:
        answer = Answer.model_validate_json(ended.out)
    except ValidationError:
        if not ended.out and ended.status > 0:
            raise FailedError(f"the inspection did not begin: {_last_line(ended.err)}") from None
        return ended
    if answer.kind == "rejected":
        raise RejectedError(answer.reason)
    return answer


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def main() -> None:
    """Answer the one question on stdin. The line before the answer says that whatever follows is the file's doing."""
    sys.stdout.write("\n")
    sys.stdout.flush()
    question = Question.model_validate_json(sys.stdin.buffer.read())
    try:
        if question.identity is None:
            answer = Answer(kind="identity", identity=identify(question.path, question.name))
        else:
            answer = Answer(kind="imports", imports=scan(question.path, question.identity, question.seconds))
    except RejectedError as error:
        answer = Answer(kind="rejected", reason=str(error)[:2000])
    except MemoryError:
        answer = Answer(kind="rejected", reason=f"reading it takes more than {MEMORY} bytes of memory")
    sys.stdout.write(answer.model_dump_json())


if __name__ == "__main__":
    main()
