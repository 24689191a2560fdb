"""The account of `make chaos`: it finds what is lost, doubled, changed or left over, and nothing else."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos import journal, report
from chaos.account import judge
from chaos.document import OF_GATEWAYS, PROMISES
from chaos.facts import Disturbance, Execution, Exit, Facts, Letter, Push, Request, Verdict
from chaos.outcome import FOLDER, Outcome
from chaos.peers import EVERYBODY, KEPT, Comparison
from chaos.scenarios import SCENARIOS
from chaos.schedule import GATEWAY_ENDED, GATEWAY_KILLED, KILL, KINDS, Plan, draw
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
        "written": {"a": ["a #1"], "b": ["b #1"]},
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
        (b"SET", b"result:a", b"a #2", b"PXAT", b"60"),
        (b"SET", b"other", b"x"),
    ]
    (folder / "appendonly.aof.1.incr.aof").write_bytes(b"".join(encoded(*command) for command in commands))
    found = journal.read(tmp_path)
    assert found.pushed == {b"A": 2, b"B": 1, b"C": 1}
    assert found.put == {b"D": 1, b"E": 1, b"F": 1, b"G": 1}
    assert found.written == {"a": ["a #1", "a #2"]}


@pytest.mark.parametrize("path", [report.DOCUMENT, README], ids=["document", "readme"])
def test_the_text_is_what_the_kept_runs_render(path: Path) -> None:
    assert report.texts()[path] == path.read_text(), "stale: python -m chaos report"


def test_what_is_published_is_whole() -> None:
    """A breach, or a peer that took no part, is told; nothing is left out."""
    runs = [Outcome.load(path) for path in FOLDER.glob("*.json") if path != KEPT]
    assert {run.settings["queue"] for run in runs} == {"list", "stream"}
    assert all(
        breach.partition(":")[0] in {**PROMISES, **OF_GATEWAYS} for run in runs for breach in run.verdict.breaches
    )
    outcomes = Comparison.load().outcomes
    assert outcomes.keys() == SCENARIOS.keys()
    assert all(each.keys() == {system.name for system in EVERYBODY} for each in outcomes.values())
