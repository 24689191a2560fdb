"""The facts of a run, as seen from outside; nothing here is reported by a worker itself."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Push:
    """A payload that a producer sent. `told`: it was told that it is accepted; if not, it may have been so anyway.

    `producer`: the sender, and the class if it has one, if it waited for each answer before the next push; else None.
    `code`: of the dead letter that it must become, if any; `poisoned`: the endpoint always refuses it, as `code` says.
    `once`: however often it was sent, it is to be put once, as a gateway does. `due`: when it may begin, in monotonic
    seconds. `notify`: its end is told to the receiver of webhooks.
    """

    job_id: str
    payload: bytes
    producer: int | str | None = 0
    told: bool = True
    code: str = ""
    poisoned: bool = False
    once: bool = False
    due: float = float("-inf")
    notify: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a batch. `code`: of the error that it must get, if any; `poisoned` as for a push."""

    name: str
    code: str = ""
    poisoned: bool = False


@dataclass(slots=True, kw_only=True)
class Batch:
    """A batch that a gateway accepted, as its client saw it.

    `refused`: the code with which its file fails, if it must. `cancelled`: somebody asked for it. `told` is the object
    of its end, `again` that of the end of the run. `partial` is output that was read while it ran.
    """

    id: str
    lines: Sequence[Line]
    refused: str = ""
    cancelled: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)
    again: Mapping[str, Any] = field(default_factory=dict)
    partial: bytes = b""
    output: bytes = b""
    errors: bytes = b""

    def job_id(self, number: int) -> str:
        """Return the id of a line's job; lines count from 1."""
        return f"{self.id}.{number}"


@dataclass(frozen=True, slots=True)
class Event:
    """A message that the receiver of webhooks got. `signed`: its signature is right."""

    id: str
    kind: str
    about: str
    signed: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a gateway, as its client saw it. `status` 0: the connection broke, or no answer came.

    `wanted`: the statuses that it may get where nothing is wrong. `said`: the object in the answer. `unclear`: what is
    wrong with the form of the answer. Times are monotonic seconds.
    """

    job_id: str
    gateway: str
    began: float
    ended: float
    status: int = 202
    wanted: Sequence[int] = (200, 202)
    said: Mapping[str, Any] = field(default_factory=dict)
    unclear: str = ""


@dataclass(frozen=True, slots=True)
class Execution:
    """A call as the endpoint saw it. `fate`: `ok`, the fault it got, or `abandoned`: the caller left.

    `ill <illness>`: the endpoint was ill for all, or for its model. `poisoned`: it always fails for this job.
    """

    job: str
    worker: str
    fate: str
    answer: str
    began: float
    ended: float | None


@dataclass(slots=True)
class Disturbance:
    """A fault as it took place. `worker`: the one it hit, or the gateway; None: all. Times are monotonic seconds."""

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
    """How a worker or a gateway ended: exit code, the signal it was sent, and its stderr."""

    worker: str
    code: int | None
    asked: str = ""
    stderr: str = ""


@dataclass(slots=True, kw_only=True)
class Facts:
    """All facts. `journal` counts payloads that Redis accepted, `written` has every result that was ever written.

    `requests` are those to gateways. `batches` are those that clients made, `listed` the ids of those that gateways
    know. `lines` counts how often the job of each line was put, `lines_kept` has the states of those whose records are
    still there, `lines_buried` the ids of those with a dead letter.
    """

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
    requests: Sequence[Request] = ()
    batches: Sequence[Batch] = ()
    listed: Sequence[str] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    lines_kept: Mapping[str, str] = field(default_factory=dict)
    lines_buried: Sequence[str] = ()
    events: Sequence[Event] = ()


@dataclass(slots=True)
class Verdict:
    """The result of the account: broken promises in words, and counts."""

    breaches: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
