"""The account of batches, of their lines, and of the events of webhooks."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import orjson

from chaos.facts import Batch, Facts, Letter, Line
from chaos.schedule import GATEWAY, STOOD_STILL

Breach = Callable[[str, str], None]
Excused = Callable[[str, Letter], bool]
ENDED_BADLY: Final = "batch ended badly"
LINE_LOST: Final = "line lost or twice"
WRONG_LINE: Final = "line ended wrongly"
PUT_AGAIN: Final = "line put again"
KEPT: Final = "line left over"
EVENT_LOST: Final = "event lost"
EVENT_OF_NOBODY: Final = "event of nobody"
# After these a gateway may still be at work that has an heir: both put the lines.
STALE: Final = (f"{GATEWAY}SIGSTOP", f"{GATEWAY}connections", f"{GATEWAY}put", STOOD_STILL)
MOST_AGAIN: Final = 256  # lines of one batch: a window
REPLAYED: Final = "dead letters replayed"


def judge_batches(
    facts: Facts, breach: Breach, count: Counter[str], excused: Excused, failures: frozenset[str]
) -> None:
    """Check that each batch and each line of it ended once, as it should.

    `excused` says whether an illness of the endpoint may have buried a job; `failures` are the codes that a line may
    have whose calls met the endpoint's faults.
    """
    audit = _Audit(facts, breach, count, excused, failures)
    for batch in facts.batches:
        audit.end(batch)
        audit.jobs(batch)
        if not batch.refused:
            audit.lines(batch)
    audit.strangers()
    judge_events(facts, breach, count)


def judge_events(facts: Facts, breach: Breach, count: Counter[str]) -> None:
    """Check that each end was told, with a signature, and by the same id each time; and nothing else."""
    ends = {batch.id: f"batch.{batch.told.get('status')}" for batch in facts.batches}
    for push in facts.pushes:
        if push.notify and (state := facts.records.get(push.job_id, {}).get("state")):
            ends[push.job_id] = f"job.{state}"
    replayed = any(each.kind == REPLAYED for each in facts.disturbances)
    told = dict[tuple[str, str], set[str]]()
    for event in facts.events:
        may_end_twice = replayed and event.kind == "job.failed"
        if event.about not in ends or (event.kind != ends[event.about] and not may_end_twice):
            breach(EVENT_OF_NOBODY, f"{event}, and the end is {ends.get(event.about)}")
        elif not event.signed:
            breach(EVENT_OF_NOBODY, f"its signature is wrong, {event}")
        told.setdefault((event.about, event.kind), set()).add(event.id)
    for end in ends.items():
        ids = told.get(end, set())
        if not ids or (len(ids) > 1 and not (replayed and end[1] == "job.failed")):
            breach(EVENT_LOST, f"{end} was told by {len(ids)} events")
    count["events"] = sum(map(len, told.values()))
    count["events sent again"] = len(facts.events) - count["events"]


class _Audit:
    def __init__(
        self, facts: Facts, breach: Breach, count: Counter[str], excused: Excused, failures: frozenset[str]
    ) -> None:
        self._facts = facts
        self._breach = breach
        self._count = count
        self._excused = excused
        self._failures = failures
        self._given = {(call.job, call.answer) for call in facts.executions}
        self._replayed = any(each.kind == REPLAYED for each in facts.disturbances)
        self._may_be_stale = any(each.kind.startswith(STALE) for each in facts.disturbances)

    def end(self, batch: Batch) -> None:
        """Check how a batch ended, what it said of itself, and that it stayed so."""
        status = batch.told.get("status")
        self._count["batches"] += 1
        self._count[f"batches {status}"] += 1
        right = {"failed"} if batch.refused else {"completed"}
        bad = partial(self._breach, ENDED_BADLY)
        if status not in (right | {"cancelled"} if batch.cancelled else right):
            bad(f"{batch.id}: {status}, {batch.told.get('errors')}")
        elif status == "failed" and batch.refused not in {each["code"] for each in batch.told["errors"]["data"]}:
            bad(f"{batch.id}: {batch.told['errors']}, not {batch.refused}")
        if batch.again != batch.told:
            bad(f"{batch.id}: it ended as {batch.told}, and is {batch.again} now")
        if not batch.output.startswith(batch.partial):
            bad(f"{batch.id}: its output is not what was read of it")
        read = [len(each.splitlines()) for each in (batch.output, batch.errors)]
        counts = batch.told.get("request_counts", {})
        if status != "failed" and [counts.get(name) for name in ("completed", "failed", "total")] != [*read, sum(read)]:
            bad(f"{batch.id}: {counts}, and {read} lines of output and errors")

    def lines(self, batch: Batch) -> None:
        """Check that each line is in one of the two files, once, and in the right one."""
        self._count["lines of batches"] += len(batch.lines)
        output, errors = (list(map(orjson.loads, each.splitlines())) for each in (batch.output, batch.errors))
        found = Counter(each["custom_id"] for each in (*output, *errors))
        if found != Counter(line.name for line in batch.lines):
            once = dict.fromkeys((line.name for line in batch.lines), 1)
            wrong = {name: found[name] for name in found | once if found[name] != once.get(name, 0)}
            self._breach(LINE_LOST, f"{batch.id}: {wrong}")
        known = {line.name: (batch.job_id(number), line) for number, line in enumerate(batch.lines, 1)}
        for each in (*output, *errors):
            if each["custom_id"] in known and (wrong_end := self._wrong(batch, *known[each["custom_id"]], each)):
                self._breach(WRONG_LINE, f"{each['custom_id']}, {known[each['custom_id']][0]}: {wrong_end}")

    def _wrong(self, batch: Batch, job_id: str, line: Line, end: dict[str, Any]) -> str:
        """Return what is wrong with the end of a line."""
        if end["response"] is not None:
            self._count["lines answered"] += 1
            answer = end["response"]["body"]["choices"][0]["message"]["content"]
            if line.code:
                return f"it was answered, and must be {line.code}"
            return "" if (job_id, answer) in self._given else f"no call of it gave {answer!r}"
        code = end["error"]["code"]
        if code == "batch_cancelled" and batch.told.get("status") == "cancelled":
            self._count["lines cancelled"] += 1
            return ""
        self._count["lines failed"] += 1
        if line.code:
            right = {line.code} | (self._failures if line.poisoned else set())
            return "" if code in right else f"{code}, not {line.code}"
        return "" if self._excused(job_id, Letter(code, b"")) else f"{code}, and it is a good one"

    def jobs(self, batch: Batch) -> None:
        """Check that the job of each line was put once, ended once, and is forgotten."""
        facts, again, kept = self._facts, 0, list[str]()
        for job_id in (batch.job_id(number) for number, _ in enumerate(batch.lines, 1)):
            puts, ends = facts.lines.get(job_id, 0), len(facts.written.get(job_id, ()))
            again += max(0, puts - 1)
            if ends > max(1, puts):
                self._breach(LINE_LOST, f"{job_id}: put {puts} times, {ends} results")
            state = facts.lines_kept.get(job_id, "cancelled")  # one that ran when it was cancelled ends afterwards
            may_stay = puts > 1 or self._replayed
            if not may_stay and (job_id in facts.lines_buried or state != "cancelled"):
                kept.append(f"{job_id}: {state}")
        if kept:
            self._breach(KEPT, f"{len(kept)} lines, such as {kept[0]}")
        self._count["lines put again"] += again
        if again > (MOST_AGAIN if self._may_be_stale else 0):
            self._breach(PUT_AGAIN, f"{batch.id}: {again} lines")

    def strangers(self) -> None:
        """Check that all batches and lines that there are were made by a client."""
        known = {batch.id for batch in self._facts.batches}
        if len(self._facts.listed) != len(known) or set(self._facts.listed) != known:
            self._breach("put twice", f"batches {sorted(set(self._facts.listed) ^ known)}, or one is listed twice")
        allowed = {
            batch.job_id(number)
            for batch in self._facts.batches
            if not batch.refused
            for number, _ in enumerate(batch.lines, 1)
        }
        if others := [job_id for job_id in self._facts.lines if job_id not in allowed]:
            self._breach("refused and run", f"lines of no batch that was accepted: {others[:5]}")
