"""What is known about a run, by those who saw it. Nothing here is what a worker says of itself."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Push:
    """What a producer sent, and whether it was told that it was accepted; if not, it may be so all the same.

    `producer`: who sent it, if it waited for each answer before it went on; else None. `code`: the dead letter it must
    become, as nothing else can come of it; `poisoned`: the endpoint refuses it for good, and code is how.
    """

    job_id: str
    payload: bytes
    producer: int | None = 0
    told: bool = True
    code: str = ""
    poisoned: bool = False


@dataclass(frozen=True, slots=True)
class Execution:
    """A call as the endpoint saw it. `fate`: `ok`, the fault it was given, or `abandoned`: nobody stayed for it.

    `ill <illness>`: the endpoint was ill for all, or for its model. `poisoned`: for this job.
    """

    job: str
    worker: str
    fate: str
    answer: str
    began: float
    ended: float | None


@dataclass(slots=True)
class Disturbance:
    """A fault as it took place; `worker`: whom it hit, None: everybody. Times are monotonic seconds."""

    kind: str
    worker: str | None
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter."""

    code: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended: by which code, told to or not, and what it said to nobody's asking."""

    worker: str
    code: int | None
    asked: str = ""
    stderr: str = ""


@dataclass(slots=True, kw_only=True)
class Facts:
    """All of it. `journal` counts payloads that Redis took, `written` has every result it was ever given."""

    pushes: Sequence[Push]
    journal: Mapping[bytes, int]
    written: Mapping[str, Sequence[str]]
    results: Mapping[str, str]
    records: Mapping[str, Mapping[str, str]]
    letters: Sequence[Letter]
    cancellations: Mapping[str, str]
    executions: Sequence[Execution]
    disturbances: Sequence[Disturbance]
    left: Mapping[str, int]
    exits: Sequence[Exit] = ()


@dataclass(slots=True)
class Verdict:
    """What was found: breaches of the promises in words, and counts."""

    breaches: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
