"""The account of `make chaos`: it finds what is lost, doubled, changed or left over, and nothing else."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from chaos import journal, report
from chaos.account import judge
from chaos.document import ALL
from chaos.facts import Batch, Disturbance, Event, Execution, Exit, Facts, Letter, Line, Push, Request, Verdict
from chaos.outcome import FOLDER, Outcome
from chaos.peers import EVERYBODY, KEPT, Comparison
from chaos.scenarios import SCENARIOS
from chaos.schedule import FILES_AWAY, GATEWAY_ENDED, GATEWAY_KILLED, GATEWAY_STOPPED, KILL, KINDS, Plan, draw
from harness.report import README

FIRST, SECOND, RUBBISH = Push("a", b"A"), Push("b", b"B"), Push("c", b"C", code="not_json")
CALLED = Execution("a", "0.0", "ok", "a #1", 10.0, 11.0)
AGAIN = Execution("a", "1.0", "ok", "a #2", 14.0, 15.0)
POISON = Push("d", b"D", code="http_403", poisoned=True)
POISONED: dict[str, Any] = {"pushes": [FIRST, SECOND, RUBBISH, POISON], "journal": {b"A": 1, b"B": 1, b"C": 1, b"D": 1}}
LETTER = Letter("not_json", b"C")
ILLNESS = Disturbance("endpoint ill for all: 400", None, 9.0, 12.0)
DEATH = Disturbance(KILL, "0.0", 10.5, 10.5)
HANDED_IN = replace(FIRST, once=True)
ENDED = Request("a", "gateway 0.0", 9.0, 11.5, 200, said={"id": "a", "state": "succeeded", "result": "a #1"})
PUT_OFF = Request("a", "gateway 0.0", 9.0, 9.5, 503, said={"error": {"code": "queue_unavailable"}})
LEAVING = replace(PUT_OFF, said={"error": {"code": "shutting_down"}})
NO_FILES = replace(PUT_OFF, said={"error": {"code": "files_unavailable"}})
AWAY = Disturbance(FILES_AWAY, None, 9.0, 9.2)
WRITTEN = {"a": ["a #1"], "b": ["b #1"]}
CUT_OFF = Request("a", "gateway 0.0", 9.0, 9.5, 0)


def told(**said: Any) -> dict[str, Any]:
    """Give a run in which a gateway said this of the first job."""
    return {"requests": [replace(ENDED, said={**ENDED.said, **said})]}


def at_the_gateway(kind: str, gateway: str = "gateway 0.0", began: float = 9.2) -> dict[str, Any]:
    """Give a run in which a fault hit a gateway."""
    return {"disturbances": [Disturbance(kind, gateway, began, began + 0.1)]}


def facts(**changes: Any) -> Facts:
    """Give a run in which all went well but for what is changed: two jobs with answers, one that is rubbish."""
    well: dict[str, Any] = {
        "pushes": [FIRST, SECOND, RUBBISH],
        "journal": {b"A": 1, b"B": 1, b"C": 1},
        "written": WRITTEN,
        "results": {"a": "a #1", "b": "b #1"},
        "records": {
            "a": {"state": "succeeded", "first_claimed_ms": "1"},
            "b": {"state": "succeeded", "first_claimed_ms": "2"},
        },
        "letters": [Letter("not_json", b"C")],
        "cancellations": {},
        "executions": [CALLED, Execution("b", "0.0", "ok", "b #1", 10.0, 11.0)],
        "disturbances": [],
        "left": {"the queue": 0},
        "exits": [Exit("0.0", 0, "SIGTERM")],
    }
    return Facts(**well | changes)


def broken(verdict: Verdict) -> set[str]:
    return {breach.partition(":")[0] for breach in verdict.breaches}


def test_what_went_well_is_found_well() -> None:
    verdict = judge(facts())
    assert verdict.breaches == []
    assert verdict.counts["jobs"] == 3
    assert verdict.counts["answered"] == 2
    assert verdict.counts["malformed"] == 1


FAILED = {"a": {"state": "failed"}, "b": {"state": "succeeded"}}
CANCELLED = {"a": {"state": "cancelled"}, "b": {"state": "succeeded"}}
ONLY_B = {"written": {"b": ["b #1"]}, "results": {"b": "b #1"}}


def ill_for(how: str, jobs: int, code: str = "400") -> dict[str, Any]:
    """An illness said with `code`, and so many jobs that met `how` and are dead letters."""
    names = "efg"[:jobs]
    return {
        "pushes": [FIRST, SECOND, RUBBISH, *(Push(name, name.encode()) for name in names)],
        "journal": {b"A": 1, b"B": 1, b"C": 1} | {name.encode(): 1 for name in names},
        "letters": [LETTER, *(Letter(f"http_{code}", name.encode()) for name in names)],
        "records": {
            "a": {"state": "succeeded"},
            "b": {"state": "succeeded"},
            **{name: {"state": "failed"} for name in names},
        },
        "executions": [
            *(Execution(name, "0.0", f"ill {how}", "", 10.0, 10.1) for name in names),
            CALLED,
            Execution("b", "0.0", "ok", "b #1", 10.0, 11.0),
        ],
        "disturbances": [replace(ILLNESS, kind=f"endpoint ill for all: {code}")],
    }


def again_and_buried(code: str = "http_400") -> dict[str, Any]:
    """A job that had its answer when it was pushed again and met an illness, and that failed with `code`."""
    return {
        "pushes": [FIRST, FIRST, SECOND, RUBBISH],
        "journal": {b"A": 2, b"B": 1, b"C": 1},
        "letters": [LETTER, Letter("http_400", b"A")],
        "records": {"a": {"state": "failed", "error_code": code}, "b": {"state": "succeeded"}},
        "executions": [
            replace(CALLED, began=1.0, ended=2.0),
            Execution("b", "0.0", "ok", "b #1", 10.0, 11.0),
            Execution("a", "0.0", "ill 400", "", 10.0, 10.1),
        ],
        "disturbances": [ILLNESS],
    }


def ill_twice(answered: float, code: str = "400") -> dict[str, Any]:
    """Three jobs that met both of two illnesses and are dead letters; another was answered then."""
    ill = ill_for(code, 3, code)
    first = [Execution(name, "0.0", f"ill {code}", "", 1.5, 1.6) for name in "efg"]
    between = Execution("b", "0.0", "ok", "b #1", answered, answered + 1.0)
    (later,) = ill["disturbances"]
    both = [replace(later, began=1.0, ended=2.0), later]
    return ill | {"executions": [*first, *ill["executions"][:-1], between], "disturbances": both}


def answer(name: str, text: str) -> bytes:
    body = {"choices": [{"message": {"content": text}}]}
    return orjson.dumps({"custom_id": name, "response": {"body": body}, "error": None}) + b"\n"


def failure(name: str, code: str) -> bytes:
    return orjson.dumps({"custom_id": name, "response": None, "error": {"code": code}}) + b"\n"


LINES = (Line("one"), Line("two"), Line("bad", "bad_request"))
BATCH_CALLS = [
    Execution("batch_1.1", "0.0", "ok", "one #1", 10.0, 11.0),
    Execution("batch_1.2", "0.0", "ok", "two #1", 10.0, 11.0),
]
COMPLETED = Event("evt_1", "batch.completed", "batch_1")
REFUSED = Event("evt_1", "batch.failed", "batch_1")
CANCELLED_EVENT = Event("evt_1", "batch.cancelled", "batch_1")
CANCELLED_THEN = {"cancelled": True, "output": answer("one", "one #1"), "partial": b""} | {
    "errors": failure("two", "batch_cancelled") + failure("bad", "bad_request")
}


def batch(counts: tuple[int, int, int] = (3, 2, 1), status: str = "completed", **changes: Any) -> dict[str, Any]:
    """Give a run with a batch of three lines, two of them good. `counts`: all, completed, failed."""
    told = {"status": status, "request_counts": dict(zip(("total", "completed", "failed"), counts, strict=True))}
    of_facts = {name: changes.pop(name) for name in list(changes) if name in Facts.__dataclass_fields__}
    well: dict[str, Any] = {
        "told": told,
        "again": told,
        "partial": answer("one", "one #1"),
        "output": answer("one", "one #1") + answer("two", "two #1"),
        "errors": failure("bad", "bad_request"),
    }
    return {
        "batches": [Batch(id="batch_1", lines=LINES, **well | changes)],
        "listed": ["batch_1"],
        "lines": {"batch_1.1": 1, "batch_1.2": 1, "batch_1.3": 1},
        "executions": [*facts().executions, *BATCH_CALLS],
        "events": [COMPLETED],
        **of_facts,
    }


def refused(**changes: Any) -> dict[str, Any]:
    """Give a run with a batch whose file is faulty."""
    told = {"status": "failed", "errors": {"data": [{"code": "duplicate_custom_id"}]}}
    empty = {"partial": b"", "output": b"", "errors": b"", "lines": {}}
    told_of = {"told": told, "again": told, "refused": "duplicate_custom_id", "events": [REFUSED]}
    return batch(**told_of | empty | changes)


def buried_line(code: str, began: float) -> dict[str, Any]:
    """Give a run in which a good line met a call at a time, and is in the error file with a code."""
    ill = Execution("batch_1.2", "0.0", "ill 400", "", began, began + 0.1)
    return batch(
        (3, 1, 2),
        output=answer("one", "one #1"),
        errors=failure("two", code) + failure("bad", "bad_request"),
        executions=[*facts().executions, BATCH_CALLS[0], ill],
        disturbances=[ILLNESS],
    )


def notified(*events: Event, **changes: Any) -> dict[str, Any]:
    """Give a run in which the end of the first job is to be told."""
    return {"pushes": [replace(FIRST, notify=True), SECOND, RUBBISH], "events": events, **changes}


JOB_EVENT = Event("evt_2", "job.succeeded", "a")


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "accepted and nowhere": ("lost", {"journal": {b"A": 1, b"C": 1}}),
    "no answer": ("lost", ONLY_B),
    "rubbish that is no dead letter": ("lost", {"letters": []}),
    "two answers": (
        "recorded twice",
        {"written": {"a": ["a #1", "a #2"], "b": ["b #1"]}, "executions": [CALLED, AGAIN]},
    ),
    "two dead letters": ("recorded twice", {"letters": 2 * [Letter("not_json", b"C")]}),
    "an answer that was replaced": ("changed", {"results": {"a": "a #2", "b": "b #1"}}),
    "an answer that has gone": ("changed", {"results": {"b": "b #1"}}),
    "a record that says otherwise": ("changed", {"records": FAILED}),
    "answered, pushed again and buried, and the record says something else": ("changed", again_and_buried("timeout")),
    "an answer that no call gave": ("answer of nobody", {"written": {"a": ["?"], "b": ["b #1"]}}),
    "a dead letter that nobody pushed": (
        "dead letter of nobody",
        {"letters": [Letter("not_json", b"C"), Letter("x", b"?")]},
    ),
    "a dead letter of a good job": ("wrong ending", {"letters": [Letter("not_json", b"C"), Letter("crashed", b"A")]}),
    "cancelled and answered": ("cancelled in vain", {"cancellations": {"a": "cancelled"}}),
    "cancelled, and nobody asked": ("lost", ONLY_B | {"records": CANCELLED}),
    "a poisoned job without an end": ("lost", POISONED),
    "a poisoned job that was answered": (
        "wrong ending",
        POISONED | {"letters": [LETTER, Letter("http_403", b"D")], "written": {"a": ["a #1"], "d": ["?"]}},
    ),
    "a poisoned job that died of something else": (
        "wrong ending",
        POISONED | {"letters": [LETTER, Letter("crashed", b"D")]},
    ),
    "a good job that died of its endpoint": ("wrong ending", {"letters": [LETTER, Letter("http_400", b"A")]}),
    "buried by an illness that did not hit it": (
        "wrong ending",
        {"letters": [LETTER, Letter("http_400", b"A")], "disturbances": [ILLNESS]},
    ),
    "buried by an illness of another kind": ("wrong ending", ill_for("500", 1)),
    "three buried by one illness": ("wrong ending", ill_for("400", 3)),
    "buried by two illnesses, with no answer between": ("wrong ending", ill_twice(10.5)),
    "buried by two illnesses that are no fault of a job": ("wrong ending", ill_twice(5.0, "500")),
    "something is left": ("left over", {"left": {"lease": 1}}),
    "out of order": (
        "out of order",
        {
            "records": {
                name: {"state": "succeeded", "first_claimed_ms": when} for name, when in (("a", "2"), ("b", "1"))
            }
        },
    ),
    "called again for no reason": ("executed again for no reason", {"executions": [CALLED, AGAIN]}),
    "called again after another worker's death": (
        "executed again for no reason",
        {"executions": [CALLED, AGAIN], "disturbances": [replace(DEATH, worker="2.0")]},
    ),
    "called again before the death": (
        "executed again for no reason",
        {"executions": [CALLED, AGAIN], "disturbances": [replace(DEATH, began=20.0, ended=20.0)]},
    ),
    "called again after a fault that undoes no work": (
        "executed again for no reason",
        {"executions": [CALLED, AGAIN], "disturbances": [Disturbance("Redis killed", None, 10.5, 12.0)]},
    ),
    "a worker that ends by itself": ("worker broken", {"exits": [Exit("0.0", 1)]}),
    "a worker that complains": ("worker broken", {"exits": [Exit("0.0", 0, "SIGTERM", "Traceback")]}),
    "a gateway that ends by itself": ("worker broken", {"exits": [Exit("gateway 0.0", 0)]}),
    "a gateway that leaves work undone": ("worker broken", {"exits": [Exit("gateway 0.0", 1, "SIGTERM")]}),
    "a gateway that does not handle SIGTERM": (
        "worker broken",
        {"exits": [Exit("gateway 0.0", -15, "SIGTERM")], "requests": [ENDED]},
    ),
    "a gateway's job that Redis does not know": (
        "lost",
        {"journal": {b"B": 1, b"C": 1}, "pushes": [HANDED_IN, SECOND]},
    ),
    "put twice by gateways": (
        "put twice",
        {"pushes": [HANDED_IN, SECOND, RUBBISH], "journal": {b"A": 2, b"B": 1, b"C": 1}},
    ),
    "put twice with other bytes": (
        "put twice",
        {
            "pushes": [HANDED_IN, replace(HANDED_IN, payload=b"A2"), SECOND, RUBBISH],
            "journal": {b"A": 1, b"A2": 1, b"B": 1, b"C": 1},
        },
    ),
    "a gateway's job that is called again for no reason": (
        "executed again for no reason",
        {"pushes": [HANDED_IN, SECOND, RUBBISH], "executions": [CALLED, AGAIN]} | at_the_gateway(GATEWAY_KILLED),
    ),
    "refused and in the journal": ("refused and run", {"journal": {b"A": 1, b"B": 1, b"C": 1, b"E": 1}}),
    "called before it is due": ("too early", {"pushes": [replace(FIRST, due=12.0), SECOND, RUBBISH]}),
    "out of order in its class": (
        "out of order",
        {
            "pushes": [
                replace(FIRST, producer="client 0, background"),
                replace(SECOND, producer="client 0, background"),
            ],
            "records": {
                name: {"state": "succeeded", "first_claimed_ms": when} for name, when in (("a", "2"), ("b", "1"))
            },
        },
    ),
    "told another answer": ("told otherwise", told(result="a #2")),
    "told of an end that was none": ("told otherwise", told(state="cancelled", result=None)),
    "told that it failed": ("told otherwise", told(state="failed", result=None, error={"code": "http_400"})),
    "told of another job": ("told otherwise", told(id="b")),
    "a good job that is refused": ("answered badly", {"requests": [replace(ENDED, status=400, said={})]}),
    "a bad job that is accepted": ("answered badly", {"requests": [replace(ENDED, wanted=(400,))]}),
    "an answer that cannot be read": ("answered badly", {"requests": [replace(ENDED, unclear="not JSON")]}),
    "a fault of the gateway's own": ("answered badly", {"requests": [replace(PUT_OFF, status=500)]}),
    "no answer for no reason": ("answered badly", {"requests": [CUT_OFF]}),
    "no answer after another gateway's death": (
        "answered badly",
        {"requests": [CUT_OFF]} | at_the_gateway(GATEWAY_KILLED, "gateway 1.0"),
    ),
    "no answer from a gateway that was told to end, and to answer before": (
        "answered badly",
        {"requests": [replace(CUT_OFF, began=1.0)]} | at_the_gateway(GATEWAY_ENDED),
    ),
    "put off for no reason": ("answered badly", {"requests": [PUT_OFF]}),
    "put off long after Redis came back": (
        "answered badly",
        {"requests": [PUT_OFF], "disturbances": [Disturbance("Redis killed", None, 1.0, 2.0)]},
    ),
    "a batch that did not end": ("batch ended badly", batch(status="in_progress")),
    "a batch cancelled that nobody cancelled": (
        "batch ended badly",
        batch((3, 1, 2), "cancelled", **CANCELLED_THEN | {"cancelled": False}),
    ),
    "a faulty file that was run": ("batch ended badly", batch(refused="duplicate_custom_id")),
    "a good file that failed": ("batch ended badly", refused(refused="")),
    "another fault than the file has": ("batch ended badly", refused(refused="empty_file")),
    "an end that changed": ("batch ended badly", batch(again={"status": "in_progress"})),
    "counts that are not those of the files": ("batch ended badly", batch((3, 3, 0))),
    "output that was written in another order": ("batch ended badly", batch(partial=answer("two", "two #1"))),
    "a line in neither file": (
        "line lost or twice",
        batch((2, 1, 1), output=answer("one", "one #1")),
    ),
    "a line in both files": (
        "line lost or twice",
        batch((4, 2, 2), errors=failure("one", "http_400") + failure("bad", "bad_request")),
    ),
    "a line that nobody wrote": (
        "line lost or twice",
        batch((4, 2, 2), errors=failure("three", "bad_request") + failure("bad", "bad_request")),
    ),
    "a line with two results": ("line lost or twice", batch(written={**WRITTEN, "batch_1.1": ["one #1", "one #1"]})),
    "a line with the answer of another": (
        "line ended wrongly",
        batch(partial=b"", output=answer("one", "two #1") + answer("two", "one #1")),
    ),
    "a good line that failed": ("line ended wrongly", buried_line("http_400", 20.0)),
    "a good line that failed of something else": ("line ended wrongly", buried_line("answer_lost", 10.0)),
    "a good line cancelled in a batch that was not": ("line ended wrongly", buried_line("batch_cancelled", 10.0)),
    "a bad line that was answered": (
        "line ended wrongly",
        batch((3, 3, 0), errors=b"", output=b"".join(answer(name, f"{name} #1") for name in ("one", "two", "bad"))),
    ),
    "a bad line with another code": ("line ended wrongly", batch(errors=failure("bad", "http_400"))),
    "a line put again for no reason": ("line put again", batch(lines={"batch_1.1": 2, "batch_1.2": 1, "batch_1.3": 1})),
    "a line put again and again": (
        "line put again",
        batch(lines={"batch_1.1": 300}, **at_the_gateway(GATEWAY_STOPPED)),
    ),
    "a line called again for no reason": (
        "executed again for no reason",
        batch(executions=[*facts().executions, *BATCH_CALLS, replace(BATCH_CALLS[0], began=14.0, ended=15.0)]),
    ),
    "a line whose record is still there": ("line left over", batch(lines_kept={"batch_1.1": "succeeded"})),
    "a line whose dead letter is still there": ("line left over", batch(lines_buried=["batch_1.3"])),
    "a batch made twice": ("put twice", batch(listed=["batch_1", "batch_2"])),
    "lines of a faulty file": ("refused and run", refused(lines={"batch_1.1": 1})),
    "an end that nobody was told": ("event lost", batch(events=[])),
    "an end told by two ids": ("event lost", batch(events=[COMPLETED, replace(COMPLETED, id="evt_9")])),
    "an end that was none": ("event of nobody", batch(events=[COMPLETED, replace(COMPLETED, kind="batch.failed")])),
    "an event without a signature": ("event of nobody", batch(events=[replace(COMPLETED, signed=False)])),
    "an event of another's batch": ("event of nobody", batch(events=[COMPLETED, replace(COMPLETED, about="batch_2")])),
    "a job's end that nobody was told": ("event lost", notified()),
    "an event of a job that asked for none": ("event of nobody", {"events": [JOB_EVENT]}),
    "a job's end that was another": ("event of nobody", notified(JOB_EVENT, replace(JOB_EVENT, kind="job.cancelled"))),
    "files away, and Redis does not answer": (
        "answered badly",
        {"requests": [PUT_OFF], "disturbances": [AWAY]},
    ),
    "leaving, and nobody asked": ("answered badly", {"requests": [LEAVING]} | at_the_gateway(GATEWAY_KILLED)),
}


@pytest.mark.parametrize(("promise", "changes"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_found(promise: str, changes: dict[str, Any]) -> None:
    assert promise in broken(judge(facts(**changes)))


HARMLESS: dict[str, dict[str, Any]] = {
    "refused, or never known to be accepted": {"pushes": [FIRST, SECOND, RUBBISH, Push("d", b"D", told=False)]},
    "called again after its worker's death": {"executions": [CALLED, AGAIN], "disturbances": [DEATH]},
    "called again after a fault of the endpoint": {"executions": [replace(CALLED, fate="5xx"), AGAIN]},
    "answered, pushed again and buried by an illness": again_and_buried(),
    "folded into its twin": {"pushes": [FIRST, FIRST, SECOND, RUBBISH], "journal": {b"A": 2, b"B": 1, b"C": 1}},
    "two buried by an illness": ill_for("400", 2),
    "buried by two illnesses, with an answer between": ill_twice(5.0),
    "a poisoned job that ended": POISONED | {"letters": [LETTER, Letter("http_403", b"D")]},
    "a poisoned job whose last call met another fault": POISONED | {"letters": [LETTER, Letter("timeout", b"D")]},
    "cancelled as asked": ONLY_B | {"records": CANCELLED, "cancellations": {"a": "will_be_cancelled"}},
    "told what is so": {"requests": [ENDED], "pushes": [HANDED_IN, SECOND, RUBBISH]},
    "refused as it should be": {"requests": [Request("x", "gateway 0.0", 9.0, 9.1, 422, (422,))]},
    "told of a failure that was replayed since": told(state="failed", result=None, error={"code": "http_400"})
    | {"disturbances": [Disturbance("dead letters replayed", None, 12.0, 12.1)]},
    "no answer when the gateway was killed": {"requests": [CUT_OFF]} | at_the_gateway(GATEWAY_KILLED),
    "no answer from a gateway that is leaving": {"requests": [CUT_OFF]} | at_the_gateway(GATEWAY_ENDED),
    "told by a gateway that is leaving": {"requests": [LEAVING]} | at_the_gateway(GATEWAY_ENDED),
    "put off while Redis was away": {
        "requests": [PUT_OFF],
        "disturbances": [Disturbance("Redis killed", None, 8.0, 9.1)],
    },
    "gateways that ended as told": {
        "exits": [
            Exit("gateway 0.0", 0, "SIGTERM"),
            Exit("gateway 0.1", -9, "SIGKILL"),
            Exit("gateway 0.2", -15, "SIGTERM"),
        ]
    },
    "begun when it was due": {"pushes": [replace(FIRST, due=10.0), SECOND, RUBBISH]},
    "a batch as it should be": batch(),
    "a batch cancelled as asked": batch((3, 1, 2), "cancelled", **CANCELLED_THEN, events=[CANCELLED_EVENT]),
    "a batch cancelled too late": batch(cancelled=True),
    "a batch of a faulty file": refused(),
    "a line buried by an illness": buried_line("http_400", 10.0),
    "lines put again by a gateway that was stopped": batch(
        lines={"batch_1.1": 2, "batch_1.2": 1, "batch_1.3": 1}, **at_the_gateway(GATEWAY_STOPPED)
    ),
    "a line that ran when its batch was cancelled": batch(
        (3, 1, 2), "cancelled", **CANCELLED_THEN, events=[CANCELLED_EVENT], lines_kept={"batch_1.2": "cancelled"}
    ),
    "told twice, by the same id": batch(events=[COMPLETED, COMPLETED]),
    "a job's end that was told": notified(JOB_EVENT),
    "put off while the files were away": {"requests": [NO_FILES], "disturbances": [AWAY]},
    "conflict with its namesake": {
        "pushes": [FIRST, Push("a", b"A2"), SECOND, RUBBISH],
        "journal": {b"A": 1, b"A2": 1, b"B": 1, b"C": 1},
        "letters": [Letter("not_json", b"C"), Letter("conflict", b"A2")],
    },
}


@pytest.mark.parametrize("changes", HARMLESS.values(), ids=HARMLESS)
def test_what_is_allowed_is_no_breach(changes: dict[str, Any]) -> None:
    executions = changes.get("executions")
    if executions is not None and len(executions) == 2:
        answer = executions[-1].answer
        changes = changes | {"written": {"a": [answer], "b": ["b #1"]}, "results": {"a": answer, "b": "b #1"}}
        changes["executions"] = [*executions, *facts().executions[1:]]
    assert judge(facts(**changes)).breaches == []


def test_recovery_is_the_time_until_the_last_call_that_was_cut_off_is_made_anew() -> None:
    cut = replace(CALLED, fate="abandoned")
    assert judge(facts(executions=[cut, AGAIN], disturbances=[DEATH])).recoveries == [3.5]


def test_a_seed_replays_its_schedule() -> None:
    first, again, other = (draw(Plan(seed=seed, seconds=60)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert max(fault.at for fault in first) >= 60
    assert {fault.kind for seed in range(20) for fault in draw(Plan(seed=seed, seconds=60))} == set(KINDS)


def test_a_schedule_has_as_many_kills_as_are_asked_for() -> None:
    kinds = Counter(fault.kind for fault in draw(Plan(seed=3, kills=50)))
    assert kinds[KILL] == 50


def encoded(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def script(*writes: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    return [(b"MULTI",), *writes, (b"EXEC",)]


def test_the_journal_is_read_as_redis_writes_it(tmp_path: Path) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    commands = [
        (b"SELECT", b"0"),
        (b"LPUSH", b"jobs", b"A", b"B"),
        (b"lpush", b"jobs", b"A"),
        (b"XADD", b"jobs", b"1-1", b"job", b"C"),
        *script(
            (b"XADD", b"jobs", b"2-1", b"job", b"replayed by a script"),
            (b"HDEL", b"{jobs}:dead", b"1"),
            (b"SET", b"result:a", b"a #1", b"EX", b"60"),
        ),
        *script((b"LPUSH", b"jobs", b"D"), (b"HSET", b"job:d", b"state", b"waiting")),
        *script((b"LPUSH", b"{jobs}:background", b"E"), (b"HSET", b"job:e", b"state", b"waiting")),
        *script((b"XADD", b"jobs", b"3-1", b"job", b"F"), (b"HSET", b"job:f", b"state", b"waiting")),
        *script((b"HSET", b"{jobs}:later:payload", b"g", b"interactive G"), (b"ZADD", b"{jobs}:later", b"9", b"g")),
        *script(
            (b"LPUSH", b"{jobs}:interactive", b"G"),
            (b"ZREM", b"{jobs}:later", b"g"),
            (b"HDEL", b"{jobs}:later:payload", b"g"),
        ),
        *script(
            (b"RPOP", b"{jobs}:interactive"),
            (b"XADD", b"jobs", b"4-1", b"job", b"claimed from its class"),
            (b"XCLAIM", b"jobs", b"greenscale", b"-", b"0", b"4-1", b"FORCE"),
        ),
        *script((b"LPUSH", b"{jobs}:recent", b"1 succeeded a "), (b"LTRIM", b"{jobs}:recent", b"0", b"999")),
        *script((b"LPUSH", b"{jobs}:webhooks", b"of the gateways"), (b"SET", b"webhooks:result:a", b"delivered")),
        *script((b"HSET", b"{jobs}:webhooks:later:payload", b"h", b"standard H"), (b"LPUSH", b"{jobs}:batches", b"B")),
        (b"ZADD", b"{jobs}:webhooks:workers", b"5", b"gateway:12:abc"),
        (b"ZADD", b"{jobs}:workers", b"7", b"host:13:abc"),
        (b"SET", b"result:a", b"a #2", b"PXAT", b"60"),
        (b"SET", b"other", b"x"),
    ]
    (folder / "appendonly.aof.1.incr.aof").write_bytes(b"".join(encoded(*command) for command in commands))
    found = journal.read(tmp_path)
    assert found.pushed == {b"A": 2, b"B": 1, b"C": 1}
    assert found.put == {b"D": 1, b"E": 1, b"F": 1, b"G": 1}
    assert found.written == {"a": ["a #1", "a #2"]}
    assert found.beats == {13: [7]}


@pytest.mark.parametrize("path", [report.DOCUMENT, README], ids=["document", "readme"])
def test_the_text_is_what_the_kept_runs_render(path: Path) -> None:
    assert report.texts()[path] == path.read_text(), "stale: python -m chaos report"


def test_what_is_published_is_whole() -> None:
    """A breach, or a peer that took no part, is told; nothing is left out."""
    runs = [Outcome.load(path) for path in FOLDER.glob("*.json") if path != KEPT]
    assert {run.settings["queue"] for run in runs} == {"list", "stream"}
    assert all(breach.partition(":")[0] in ALL for run in runs for breach in run.verdict.breaches)
    outcomes = Comparison.load().outcomes
    assert outcomes.keys() == SCENARIOS.keys()
    assert all(each.keys() == {system.name for system in EVERYBODY} for each in outcomes.values())
