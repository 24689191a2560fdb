"""Producers, people and workers, calling the scripts as queue.py, fetcher.py and client.py of the queues do."""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from redis import Redis

from greenscale_worker.job import DRAIN
from greenscale_worker.queues.redis.factory import (
    CLIENT_SCRIPTS,
    LETTER_SCRIPTS,
    SHARED,
    WORKER_SCRIPTS,
)
from greenscale_worker.queues.redis.keys import Keys
from greenscale_worker.queues.redis.list import ListStore
from greenscale_worker.queues.redis.script_loader import load
from greenscale_worker.queues.redis.stream import StreamStore
from tests.support.crew import Call, Held, Process, id_in
from tests.support.entries import (
    BACKEND,
    BATCH,
    BEAT,
    BURIAL_MARGIN,
    CLASSES,
    GROUP,
    LARGEST,
    LEASE,
    LEDGER_DAYS,
    LIVE_SECONDS,
    MOST_NOTICES,
    NOBODY,
    NOTICES_MS,
    STRANGER,
    SUSPECT_CRASHES,
    TOMBSTONE_SECONDS,
    Binding,
    Ending,
    Fault,
    Kind,
    Return,
    Setup,
    number_of,
)
from tests.support.ledger import Ledger
from tests.support.tenancy import TENANTS
from tests.support.witness import Witness

SCRIPTS: Final = (*WORKER_SCRIPTS, *CLIENT_SCRIPTS, "check_format")
STORES: Final[dict[Kind, type[ListStore | StreamStore]]] = {"list": ListStore, "stream": StreamStore}
A_LONG_TIME: Final = 3_600_000
GROUPED: Final = {"bind", "settle", "release", "retry"}
MAX_CRASHES: Final = [2, 5]
ALL_NOTICES: Final = [10**12, 10**6]  # are kept
NO_BOUNDS: Final = ["", "", "", 0]  # those have a walk of their own: tests/flow_walk.py
DONE: Final = {b"OK", b"BADTYPE"}
RUNS: Final = {b"RUN", b"BADTYPE"}

JOB_IDS: Final = [f"j-{n}" for n in range(20)]
TEXTS: Final = ["", "a|b||c", 'said "no"\n{"code": 1}\n', "\x00\x1f\u2028 ü", "x" * 200]
JUNK: Final = [b"|", b"\n{}\n", b'"\\u0000', b"\xff\xfe\x00\r\n", b"a|b|3|4|5|c\n"]


def sources(kind: Kind) -> dict[str, bytes]:
    """Load the scripts as the worker does, fitted to a walk."""
    scripts = load(STORES[kind].script, *SCRIPTS, *LETTER_SCRIPTS, shared=SHARED)
    return {name: fitted(script.source) for name, script in scripts.items()}


def fitted(source: bytes) -> bytes:
    """Let a small payload be too large to be read, and an entry idle only where the walk says so.

    Redis measures idle time by its own clock, and a walk on a slow machine takes longer than a lease.
    """
    source = source.replace(b"8 * 1024 * 1024", b"%d" % LARGEST)
    return source.replace(b"ipairs(store.strays(lease_ms))", b"ipairs(store.strays(%d))" % (A_LONG_TIME // 2))


@dataclass(frozen=True, slots=True)
class Fails:
    """How calls fail. `used` is thousandths of a try, `delay` milliseconds."""

    prior: str
    used: int
    delay: int


class Actors:
    """One queue, everybody who uses it, and what is known of it."""

    def __init__(self, redis: Redis, kind: Kind, scripts: Mapping[str, bytes], seed: int) -> None:
        self.rnd = rnd = random.Random(seed)
        self.crowd = 90 if seed % 8 == 7 else 4  # the most that is done at once; 90 is more than a script's BATCH
        self.setup = Setup(
            kind=kind,
            side=rnd.choice(["RIGHT", "LEFT"]),
            max_bytes=1_000_000 if self.crowd > BATCH else rnd.choice([60, 300, 1_000_000]),
            ttl=rnd.choice([3600, 3600, 3600, 3600, 0]),
        )
        self.has_tenants = seed % 4 == 1
        self.formats = rnd.choice(["1", "2", "12"])
        self.upgrades = rnd.random() < 0.5
        self.undisturbed = False
        self.redis = redis
        redis.flushdb()
        self.keys = Keys("jobs", STORES[kind].own)
        self.scripts = {name: redis.register_script(source) for name, source in scripts.items()}
        self.ledger = Ledger(self.setup)
        self.witness = Witness()
        self.names = (f"w{n}" for n in range(1_000_000))
        self.processes = [self.new_process() for _ in range(3)]
        self.ids: set[int] = set()
        self.given: dict[tuple[int, str], str] = {}
        self.happened: Counter[str] = Counter()

    def new_process(self) -> Process:
        """Start a worker; during a rolling upgrade not all have the same settings, or know the same format."""
        self.send("check_format", [], [version := self.rnd.choice(self.formats)], lambda: self.ledger.agree(version))
        name = next(self.names) + self.rnd.choice(["", f":1:2-{self.rnd.getrandbits(32):08x}" if self.upgrades else ""])
        return Process(name, max_crashes=self.rnd.choice(MAX_CRASHES))

    # Producers and people

    def push(self, _: Process, n: int = 0) -> None:
        push = self.redis.lpush if self.setup.side == "RIGHT" else self.redis.rpush
        for _number in range(n or self.rnd.choice([1, 2, 3, self.crowd])):
            payload = self.new_payload()
            if self.setup.kind == "list":
                push(self.keys.name, payload)
            else:
                self.ledger.arrivals.append(number_of(self.redis.xadd(self.keys.name, {"job": payload})))
            self.ledger.waiting.append(payload)
            self.witness.pushed.append(payload)
            self.witness.order.setdefault(("standard", ""), []).append(payload)

    def set_tenant(self, _: Process) -> None:
        """Give a tenant an entry, or take it away."""
        name, entry = self.rnd.choice(TENANTS), (self.rnd.choice([1, 1, 2, 5]), self.rnd.choice([0, 0, 1, 3]))
        gone = self.rnd.random() < 0.3
        words = "" if gone else f"{entry[0]} {entry[1]} 0 0"
        self.send("set_tenant", [], [name, words, 1000], lambda: self.ledger.set_tenant(name, None if gone else entry))
        self.witness.shares_changed()

    def push_listed(self, _: Process) -> None:
        """Hand in a job of a class, by somebody whose bell nobody hears."""
        job_class, payload = self.rnd.choice(["interactive", "background"]), self.new_payload()
        self.redis.lpush(self.keys.of(job_class), payload)
        self.ledger.listed[job_class].append(payload)
        self.witness.pushed.append(payload)
        self.witness.order.setdefault((job_class, ""), []).append(payload)

    def put(self, _: Process) -> None:
        number = self.rnd.choice([2, 2, 2, self.crowd])
        payloads = [payload for payload in (self.new_payload() for _ in range(number)) if id_in(payload)]
        jobs = [(id_in(payload), payload) for payload in payloads]
        skip, job_class = self.rnd.choice(["none", "none", "fold", "once"]), self.rnd.choice(["standard", *CLASSES])
        later = self.rnd.choice([0, 0, 0, -1000, 30_000, 100_000])
        due = later and self.ledger.now + later
        own = self.rnd.choice([{}, {"tenant": "t"}, {"tenant": "u", "digest": "d"}])
        own |= {"tenant": self.rnd.choice(TENANTS)} if self.has_tenants else {}
        keys = flat((self.keys.record(job_id), self.keys.cancel(job_id)) for job_id, _ in jobs)
        args = [LIVE_SECONDS if self.setup.ttl else 0, skip, job_class, due or ""]
        notify = self.rnd.random() < 0.3
        args += [own.get("tenant", ""), own.get("digest", ""), "", int(notify)]
        said = [self.rnd.choice([{}, {}, {"metadata": "{}"}, {"created_at": "then", "metadata": "{}"}]) for _ in jobs]
        for job, words in zip(jobs, said, strict=True):
            args += [*job, words.get("created_at", ""), words.get("metadata", "")]
        records = [{"class": job_class} | own | words for words in said]
        answers = self.send(
            "put", keys, args, lambda: self.ledger.put(jobs, skip, job_class, due, records, notify=notify)
        )
        self.happened.update(f"put: {'appended' if answer else 'left out'}" for answer in answers)
        put = [payload for answer, (_, payload) in zip(answers, jobs, strict=True) if answer]
        self.witness.pushed += put
        if due <= self.ledger.now:
            self.appended(job_class, put, own.get("tenant", ""))

    def appended(self, job_class: str, payloads: list[bytes], tenant: str) -> None:
        """Learn the ids of entries that a script has added to the stream for the group to read."""
        tenant = tenant if tenant in self.ledger.tenancy.entries else ""
        self.witness.order.setdefault((job_class, tenant), []).extend(payloads)
        if job_class == "standard" and not tenant:
            self.ledger.arrivals.extend(self.ledger.added)

    def promote(self, _: Process, job_ids: list[str] | None = None) -> None:
        """Append what is due: a client asks what that is, a worker has heard it with a heartbeat."""
        live = LIVE_SECONDS if self.setup.ttl else 0
        if job_ids is None:
            _, due = self.send("promote", [], [live], lambda: self.ledger.promote([]))
            job_ids = [name.decode() for name in due]
            job_ids += self.rnd.sample(others := sorted(self.ledger.later.keys() - job_ids), min(len(others), 1))
        later = {job_id: self.ledger.later[job_id] for job_id in job_ids if job_id in self.ledger.later}
        before = {job_id: self.ledger.records.get(job_id, {}) for job_id in later}
        keys = flat((self.keys.record(job_id), self.keys.cancel(job_id)) for job_id in job_ids)
        promoted, _ = self.send("promote", keys, [live, *job_ids], lambda: self.ledger.promote(job_ids))
        for job_id, job in later.items():
            if job.due <= self.ledger.now:
                record = before.get(job_id, {})
                tenant = "" if isinstance(record, str) else record.get("tenant", "")
                tenant = tenant if tenant in self.ledger.tenancy.entries else ""
                self.witness.order.setdefault((job.job_class, tenant), []).append(job.payload)
                promoted -= 1
        assert promoted == 0, "what is promoted is not what was due"
        self.ledger.arrivals.extend(self.ledger.added)

    def cancel(self, _: Process) -> None:
        job_id = self.rnd.choice([*self.ledger.records, *JOB_IDS])
        keys = [self.keys.record(job_id), self.keys.cancel(job_id)]
        args = [job_id, TOMBSTONE_SECONDS, self.setup.ttl]
        answer = self.send("cancel", keys, args, lambda: self.ledger.cancel(job_id))
        self.happened[f"cancel: {answer.decode()}"] += 1

    def forget(self, _: Process) -> None:
        """Forget some jobs, whether they have ended or not."""
        bound = [job_id for job_id in self.ledger.bound if job_id in JOB_IDS]
        job_ids = self.rnd.sample(sorted({*JOB_IDS[:3], *bound}), 3)
        of_job = (self.keys.record, self.keys.result, self.keys.body, self.keys.tokens)
        keys = flat((name(each) for name in of_job) for each in job_ids)
        answer = self.send("forget", keys, job_ids, lambda: self.ledger.forget(job_ids))
        self.happened["forgotten"] += answer

    def acknowledge(self, _: Process) -> None:
        """Let a reader acknowledge the oldest notice."""
        if self.ledger.notices:
            oldest = min(self.ledger.notices)
            assert self.redis.zremrangebyscore(self.keys.notices, oldest, oldest) == 1
            del self.ledger.notices[oldest]

    def uncancel(self, _: Process) -> None:
        job_id = self.rnd.choice([*sorted(self.ledger.tombstones), *self.ledger.records, *JOB_IDS])
        keys = [self.keys.record(job_id), self.keys.cancel(job_id)]
        answer = self.send("uncancel", keys, [LIVE_SECONDS], lambda: self.ledger.uncancel(job_id))
        self.happened[f"uncancel: {'taken back' if answer else 'none'}"] += 1

    def replay(self, _: Process) -> None:
        """Replay some at once, perhaps more than a script takes; one that is asked for twice is gone by then."""
        ids = self.rnd.sample(letters := self.letters() or [1], min(len(letters), self.rnd.choice([1, 1, 3])))
        ids += ids[: self.rnd.choice([0, 0, 1])]
        most = self.rnd.choice([1, 100, 9999])
        self.ledger.now += 1
        answers = self.execute("replay", [], [most, *map(self.setup.name, ids)])
        size = 0
        for id_, answer in zip(ids, answers, strict=False):
            assert size < most, "a replay takes more than it may"
            size += len(self.ledger.dead[id_].payload) if id_ in self.ledger.dead else 0
            new = 0 if answer == b"GONE" else number_of(answer)
            right = self.ledger.replay(id_, new)
            assert answer.decode() == right, f"replay answers {answer}, not {right}"
            assert self.setup.kind == "stream" or new in {0, id_}, "a replayed job has lost its place"
            if new:
                self.witness.replayed(id_, new)
        assert size >= most or len(answers) == len(ids), "a replay takes less than it may"
        if size:
            self.ledger.bells.append("ready")

    def purge(self, _: Process) -> None:
        dead = len(self.ledger.dead)
        code, most = self.some_code(), self.rnd.choice([1, 2, 3])
        leave = self.rnd.choice([None, dead, max(0, dead - 1)])
        args = [code.encode(), "", "", "", "" if leave is None else leave, most, "purged"]

        def expected() -> list[int]:
            gone, answer = self.ledger.purge(code, leave, most)
            self.witness.purged += gone
            return answer

        self.send("purge", [], args, expected)

    def tidy(self, _: Process) -> None:
        """Bring dead letters and their index in line, as everybody does who looks at them."""
        self.ledger.now += 1
        cursor, portion = b"", self.rnd.choice([1, 3, 100])
        while cursor := self.execute("tidy", [], [cursor, portion]):
            assert self.ledger.now
        self.ledger.tidy()

    def look(self, _: Process) -> None:
        """Read through dead letters, a page at a time; find one by its id and by its job's; count codes."""
        self.ledger.now += 1
        code, latest, n = self.some_code(), self.rnd.random() < 0.5, self.rnd.choice([1, 2, 5])
        ids = [id_ for id_ in self.ledger.chosen(code, latest=latest) if id_ in self.ledger.dead]
        found, cursor, pages, order = [], b"", 0, "latest" if latest else "oldest"
        while (cursor or not pages) and pages <= len(self.ledger.index):  # a page may be empty: its letters are gone
            args = [code.encode(), "", "", "", order, cursor, n, 9999, 1, ""]
            _, cursor, page = self.execute("list", [], args)
            found += [(number_of(id_), payload) for id_, payload in zip(page[::3], page[2::3], strict=True)]
            pages += 1
        right = [(id_, self.ledger.dead[id_].payload) for id_ in ids]
        assert found == right, f"dead letters: found {found}, not {right}"
        for id_ in self.rnd.sample(list(self.ledger.dead), min(1, len(self.ledger.dead))):
            name, _, payload = self.execute("find", [], [self.setup.name(id_), 1])
            assert (number_of(name), payload) == (id_, self.ledger.dead[id_].payload)
        codes = Counter(member.split(b"\0")[1] for member in self.ledger.index if member.startswith(b"c\0"))
        counts = self.execute("codes", [], ["", 99])
        assert dict(zip(counts[::2], counts[1::2], strict=True)) == codes

    def meddle(self, _: Process) -> None:
        """Let somebody come between dead letters and their index, or write as the version before does."""
        index, letters = self.keys.of("dead:index"), list(self.ledger.dead)
        what = self.rnd.choice(["delete", "add", "write"])
        if what == "delete" and letters and self.ledger.index:
            times = sorted(member for member in self.ledger.index if member.startswith(b"t"))
            member = self.rnd.choice(self.rnd.choice([times, []]) or sorted(self.ledger.index))
            self.redis.zrem(index, member)
            self.ledger.index.remove(member)
        elif what == "add":
            member = f"t\0{self.rnd.randrange(10**16):016}\0{self.setup.name(7)}".encode()
            self.redis.zadd(index, {member: 0})
            self.ledger.index.add(member)
        elif what == "write" and letters:
            id_ = self.rnd.choice(letters)
            name, letter = self.setup.name(id_), self.ledger.dead[id_]
            letter.apart = False
            self.redis.hset(self.keys.of("dead"), name, orjson.dumps(letter.header) + b"\n" + letter.payload)
            self.redis.hdel(self.keys.of("dead:payload"), name)
            self.redis.zrem(index, *letter.members(name))
            self.ledger.index -= letter.members(name)

    def pause(self, _: Process) -> None:
        self.redis.hset(self.keys.of("control"), "paused", "1")
        self.ledger.paused = True

    def resume(self, _: Process) -> None:
        self.redis.hdel(self.keys.of("control"), "paused")
        self.ledger.paused = False

    def stray(self, _: Process) -> None:
        """Let somebody read past the workers; of what he has, something may have lain for long."""
        if self.setup.kind == "list":
            return
        if self.redis.exists(self.keys.name) and not self.redis.xinfo_groups(self.keys.name):
            self.redis.xgroup_create(self.keys.name, GROUP, "0")
        if self.ledger.waiting and self.rnd.random() < 0.7:
            self.read_past(self.rnd.randint(1, 3))
            return
        self.give_up()

    def read_past(self, n: int) -> None:
        ((_, entries),) = self.redis.xreadgroup(GROUP, STRANGER, {self.keys.name: ">"}, count=n)
        for name, _ in entries:
            self.ledger.come_to(number_of(name))
            if job := self.ledger.open.get(number_of(name)):  # replayed, and not come to before: he gives it back
                owner = job.owner if job.place == "lease" else NOBODY
                self.redis.xclaim(self.keys.name, GROUP, owner, 0, [name], justid=True)
                continue
            self.ledger.strays[self.ledger.arrivals.popleft()] = self.ledger.waiting.popleft()
        self.witness.strayed(self.ledger.strays)

    def give_up(self) -> None:
        for id_ in self.ledger.strays:
            self.redis.xclaim(self.keys.name, GROUP, STRANGER, 0, [self.setup.name(id_)], idle=A_LONG_TIME, justid=True)
        self.ledger.given_up = set(self.ledger.strays)

    # A worker

    def claim(self, process: Process, n: int = 0, fate: str = "") -> Any:
        """Claim; not while another claim of this process is on the wire."""
        if any(call.script == "claim" for call in process.unanswered):
            return None
        n = n or self.rnd.choice([0, 1, 1, 2, 2, 3, 3, self.crowd, self.crowd])
        nonce = f"{self.rnd.getrandbits(128):032x}"
        may_suspect = not any(held.crashes >= SUSPECT_CRASHES for held in process.held.values())
        args = [n, LEASE, BEAT, process.name, nonce, process.max_crashes]
        has_more = self.rnd.random() < 0.2
        lanes = n + len(process.held)
        args += [self.setup.max_bytes, int(may_suspect), int(has_more), lanes, *NO_BOUNDS]

        def expected() -> list[Any]:
            ledger, most = self.ledger, process.max_crashes
            return ledger.claim(process.name, nonce, n, most, may_suspect=may_suspect, has_more=has_more, lanes=lanes)

        def seen(answer: list[Any]) -> None:
            letters = self.ledger.dead.items()
            unread = {id_: letter.payload for id_, letter in letters if letter.header["code"] == "too_large"}
            most_crashes = max(MAX_CRASHES) + BURIAL_MARGIN
            classes = {id_: job.job_class for id_, job in self.ledger.open.items()}
            classes |= {id_: letter.header.get("class", "standard") for id_, letter in letters}
            tenants = {id_: job.tenant for id_, job in self.ledger.open.items()}
            tenants |= {id_: letter.header.get("tenant", "") for id_, letter in letters}
            fresh = self.witness.claimed(
                answer[3],
                unread,
                self.ledger.now,
                most_crashes,
                classes=classes,
                waiting=self.waiting(),
                tenants=tenants,
            )
            self.witness.served_in_turn([number_of(job[0]) for job in answer[3]], fresh, self.ledger)
            assert not fresh & self.ids, "an id was given to two jobs"
            self.ids |= fresh
            for id_, token, *_ in answer[3]:
                owner = self.given.setdefault((number_of(id_), token.decode()), process.name)
                assert owner == process.name, "invariant 3: a token was given twice"

        def heard(answer: list[Any]) -> None:
            for name, token, _, crashes, _, payload, *_ in answer[3]:
                id_ = number_of(name)
                process.held[id_] = Held(id_, token.decode(), payload, crashes)
                process.told.add((id_, token.decode()))
            assert sum(held.crashes >= SUSPECT_CRASHES for held in process.held.values()) <= 1, "two suspects"

        return self.call(process, Call("claim", [self.keys.claim(process.name)], args, expected, [], seen, heard), fate)

    def bind(self, process: Process, *, everything: bool = False) -> None:
        group = self.some([held for held in process.at("claimed") if held.usable], everything=everything)
        items = [
            Binding(held.id, held.token, held.job_id, self.rnd.randrange(2), {"metadata": self.rnd.choice(TEXTS)})
            for held in group
        ]
        keys: list[str] = []
        args: list[Any] = [LIVE_SECONDS, self.setup.ttl, process.name, BACKEND, ""]
        for id_, token, job_id, notify, fields in items:
            keys += [self.keys.record(job_id), self.keys.cancel(job_id)]
            args += [self.setup.name(id_), token, job_id, notify, 2 * len(fields), *flat(fields.items())]
        before: list[tuple[int, bytes]] = []

        def expected() -> list[str]:
            before[:] = [(id_, job.payload) for id_, job in self.ledger.open.items()]
            return self.ledger.bind(items, process.name)

        def seen(answers: list[bytes]) -> None:
            for item, answer in zip(items, answers, strict=True):
                if answer in RUNS:
                    self.witness.running[item.id] = item.job_id
                elif answer == b"DUPLICATE":
                    self.witness.folded(item.id, [payload for id_, payload in before if id_ != item.id])

        def heard(answers: list[bytes]) -> None:
            for held, answer in zip(group, answers, strict=True):
                held.step = "bound" if answer in RUNS else answer.decode().lower()
            process.let_go(held for held in group if held.step not in {"bound", "conflict"})

        self.call(process, Call("bind", keys, args, expected, group, seen, heard))

    def settle(self, process: Process, *, everything: bool = False, most: int = 0) -> None:
        unusable = [held for held in process.at("claimed") if not held.usable]
        group = self.some([*process.at("bound", "conflict"), *unusable], everything=everything)[: most or None]
        items = [self.outcome(process, held) for held in group]
        keys: list[str] = []
        args: list[Any] = [self.setup.ttl, "", ""]
        for item in items:
            keys += [self.keys.result(item.job_id), self.keys.record(item.job_id)]
            args += [self.setup.name(item.id), *item[1:-1], 2 * len(item.fields), *flat(item.fields.items())]

        def seen(answers: list[bytes]) -> None:
            for item, answer in zip(items, answers, strict=True):
                if answer in DONE:
                    self.witness.ended(item.id, item.token, item.state)

        def heard(_: list[bytes]) -> None:
            process.let_go(group)

        self.call(process, Call("settle", keys, args, lambda: self.ledger.settle(items), group, seen, heard))

    def release(self, process: Process, *, everything: bool = False, delay: int = -1) -> None:
        """Give jobs back, each after a delay of its own, or all after the same."""
        group = self.some(process.at("claimed", "bound", "conflict"), everything=everything)
        items: list[Return] = []
        for held in group:
            job_id, wait = held.job_id if held.step == "bound" else "", self.rnd.choice([0, 0, 1000, 60_000])
            wait = wait if delay < 0 else delay
            items.append(Return(held.id, held.token, wait, job_id, self.rnd.choice(TEXTS) or DRAIN))
        keys = [self.keys.record(item.job_id) for item in items]
        args: list[Any] = [LIVE_SECONDS if self.setup.ttl else 0, ""]
        args += flat((self.setup.name(item.id), *item[1:]) for item in items)

        def heard(_: list[bytes]) -> None:
            process.let_go(group)

        self.call(process, Call("release", keys, args, lambda: self.ledger.release(items), group, ignore, heard))

    def retry(self, process: Process, fails: "Fails | None" = None) -> None:
        """Hand back jobs whose call has failed: some, or all in the same way."""
        if not process.at("bound"):
            self.bind(process, everything=True)
        group = self.some(process.at("bound"), everything=fails is not None)
        items = [self.fault(held, fails) for held in group]
        keys = [self.keys.record(item.job_id) for item in items]
        args: list[Any] = [LIVE_SECONDS if self.setup.ttl else 0, self.setup.ttl, ""]
        args += flat((self.setup.name(item.id), *item[1:], 0) for item in items)

        def seen(answers: list[Any]) -> None:
            for item, verdict in zip(items, answers[::3], strict=True):
                if verdict == b"DEAD":
                    self.witness.ended(item.id, item.token, "failed")
                elif verdict in {b"HELD", b"DELAYED"}:
                    self.witness.aside.add(item.id)

        def heard(_: list[Any]) -> None:
            process.let_go(group)

        self.call(process, Call("retry", keys, args, lambda: self.ledger.retry(items), group, seen, heard))

    def fault(self, held: Held, fails: "Fails | None") -> Fault:
        """Let a call fail somehow: often alike, and seemingly by the job's own fault."""
        if fails is not None:
            tries = (fails.used, 5000, fails.delay)
            return Fault(
                held.id, held.token, held.job_id, "code", "message", fails.prior, "alike", *tries, self.spent()
            )
        prior = self.rnd.choice(["job", "job", "job", "endpoint", "unknown"])
        used, most = self.rnd.choice([0, 250, 1000, 1500]), self.rnd.choice([1000, 2500])
        wait = self.rnd.choice([1, 1000, 60_000])
        code, message, fingerprint = self.rnd.choice(TEXTS), self.rnd.choice(TEXTS), self.rnd.choice(["a", "a", "a|b"])
        return Fault(
            held.id, held.token, held.job_id, code, message, prior, fingerprint, used, most, wait, self.spent()
        )

    def beat(self, process: Process) -> None:
        """Send a heartbeat; where a worker holds much, it takes two calls."""
        group = list(process.held.values())
        half = self.rnd.choice([0, 0, len(group) // 2])
        for part, last in ((group[:half], False), (group[half:], True)):
            if part or last:
                self.beat_for(process, part, last=last)

    def beat_for(self, process: Process, group: list[Held], *, last: bool) -> None:
        held = [(each.id, each.token) for each in group]
        idle = last and self.rnd.random() < 0.5
        args: list[Any] = [LEASE, BEAT, process.max_crashes, process.name, int(last), int(idle)]
        lanes = self.rnd.choice(["", str(self.ledger.now % 99)])
        args += [len(process.held), LEDGER_DAYS, lanes, *NO_BOUNDS, NOTICES_MS, MOST_NOTICES]
        args += flat((self.setup.name(id_), token) for id_, token in held)

        def expected() -> list[Any]:
            return self.ledger.beat(process.name, process.max_crashes, held, last=last, idle=idle)

        def lost(answer: list[Any]) -> set[tuple[int, str]]:
            ids, tokens = answer[2][::3], answer[2][1::3]
            return {(number_of(id_), token.decode()) for id_, token in zip(ids, tokens, strict=True)}

        def seen(answer: list[Any]) -> None:
            self.witness.beaten({id_ for id_, _ in set(held) - lost(answer)}, self.ledger.now)
            told = self.redis.get(self.keys.lanes(process.name))
            assert not lanes or told == lanes.encode(), f"{process.name} has {lanes} lanes, not {told!r}"

        def heard(answer: list[Any]) -> None:
            process.let_go(each for each in group if (each.id, each.token) in lost(answer))
            if due := [name.decode() for name in answer[5]]:
                self.promote(process, due)

        keys = [self.keys.lanes(process.name), self.keys.room]
        self.call(process, Call("heartbeat", keys, args, expected, [], seen, heard))

    def resend(self, process: Process) -> None:
        if process.unanswered:
            self.call(process, process.unanswered.pop(0))

    # How it is done

    def call(self, process: Process, call: Call, fate: str = "") -> Any:
        """Send a worker's call. Its reply may be lost, and then it is sent again later; or it is sent twice at once."""
        if call.script in GROUPED and not call.group:
            return None
        likely = [1, 0, 0] if self.undisturbed else [85, 9, 6]
        fate = fate or self.rnd.choices(["heard", "lost", "sent twice"], likely)[0]
        self.happened[f"{call.script}: {fate}"] += 1
        for held in call.group:
            held.step = "sent"
        answer = None
        for _ in range(2 if fate == "sent twice" else 1):
            answer = self.send(call.script, call.keys, call.args, call.expected)
            call.seen(answer)
        if fate == "lost":
            process.unanswered.append(call)
            return None
        call.heard(answer)
        return answer

    def send(self, script: str, keys: list[str], args: list[Any], expected: Callable[[], Any]) -> Any:
        """Run a script; it answers what the ledger says."""
        self.ledger.now += 1
        if script == "claim":
            self.expire_claim(args[3])
        before = self.last_entry()
        answer = self.execute(script, keys, args)
        if self.setup.kind == "stream":
            added = {number_of(name) for name, _ in self.redis.xrange(self.keys.name, b"(" + before)}
            if script == "claim":  # what was too large to be read is gone already
                added |= {id_ for name in answer[4][::3] if (id_ := number_of(name)) > number_of(before)}
            self.ledger.added = deque(sorted(added))
        right = wire(expected())
        if script == "claim":
            self.check_wait(answer, args[0])
        assert answer == right, f"{script} answers {answer}, not {right}"
        if script in GROUPED:
            self.happened.update(f"{script}: {each.decode()}" for each in answer if isinstance(each, bytes))
        return answer

    def expire_claim(self, owner: str) -> None:
        """Forget a worker's last claim in time: Redis' own expiry knows nothing of the walk's clock."""
        _, _, expires = self.ledger.claims.get(owner, ("", [], 0))
        if expires < self.ledger.now:
            self.redis.delete(self.keys.claim(owner))
            self.ledger.claims.pop(owner, None)

    def last_entry(self) -> bytes:
        """Give the id of the last entry that was ever in the stream."""
        if self.setup.kind == "list" or not self.redis.exists(self.keys.name):
            return b"0-0"
        last: bytes = self.redis.xinfo_stream(self.keys.name)["last-generated-id"]
        return last

    def waiting(self) -> set[str]:
        """Give the classes of which jobs wait that nobody has claimed, and that a claim comes to."""
        waiting = {job_class for job_class, listed in self.ledger.listed.items() if listed}
        lines = self.ledger.tenancy.lines.items()
        free = self.ledger.tenancy.free
        waiting |= {each for (each, name), line in lines if line and free(name, self.ledger.in_flight(name))}
        return waiting | ({"standard"} if self.ledger.waiting and not self.ledger.unseen else set())

    def execute(self, script: str, keys: list[str], args: list[Any]) -> Any:
        return self.scripts[script](keys=[*self.keys.base, *keys], args=[self.ledger.now, self.setup.word, *args])

    def check_wait(self, answer: list[Any], n: int) -> None:
        """A claim that found no more is waited for from the end of the stream; the ledger knows nothing of that."""
        found_all = len(answer[3]) < n and not self.ledger.stopped
        if self.setup.kind == "stream" and answer[0] not in {0, -2} and found_all:
            (last,) = self.redis.xrevrange(self.keys.name, count=1) or [(b"0-0", {})]
            said = f"it is waited for behind {answer[5]!r}, and the stream ends with {last[0]!r}"
            assert number_of(answer[5]) >= number_of(last[0]), f"{said}: {self.redis.xinfo_groups(self.keys.name)}"
        answer[5] = b""

    def letters(self) -> list[int]:
        """Give the dead letters whose job id is in flight again, if there are any; else all."""
        dead = self.ledger.dead
        return [id_ for id_, letter in dead.items() if letter.header["job_id"] in self.ledger.bound] or list(dead)

    def some_code(self) -> str:
        """Choose a code that dead letters have, or none."""
        codes = sorted({letter.header["code"] for letter in self.ledger.dead.values()})
        return self.rnd.choice(["", *codes])

    def new_payload(self) -> bytes:
        """Make a payload: often with the id of another, sometimes with no usable one, or unusable for another fault."""
        number = self.rnd.randrange(len(JOB_IDS))
        job_id = JOB_IDS[number] if self.rnd.random() < 0.93 else ""
        kind, variant = self.rnd.choice(["", "", "", "", "", "", "bad"]), self.rnd.choice([0, 0, 0, 1])
        return f"{job_id}\0{kind}{variant}".encode() + JUNK[(number + variant) % len(JUNK)] * (1 + 9 * (number % 3))

    def began(self) -> int:
        """Choose when the call of a job began that ends now."""
        now, ledger = self.ledger.now, self.ledger
        return self.rnd.choice([now, now, now, now - 1, now - 5000, max(ledger.accused, ledger.healed, 5000) - 1])

    def spent(self) -> str:
        """Choose what a call took that ends now."""
        return f"{self.began()} 1234 10 3 {['', 'a', 'b'][self.ledger.now % 3]}"

    def outcome(self, process: Process, held: Held) -> Ending:
        """Settle what a worker holds as it would."""
        note = self.rnd.choice(TEXTS)
        crashed = held.crashes >= process.max_crashes
        if held.step == "bound" and not crashed and self.rnd.random() < 0.7:
            spent = self.spent()
            return Ending(
                held.id, held.token, "succeeded", held.job_id, f"answer {held.token}", "", spent, {"model": note}
            )
        job_id = "" if held.step == "conflict" else held.job_id
        code = {"conflict": "conflict", "claimed": "bad_field"}.get(held.step, "crashed" if crashed else note)
        fields = {"attempts": str(len(note)), "error_code": code, "error_message": note}
        return Ending(held.id, held.token, "failed", job_id, code, note, "0 0 0 0 ", fields)

    def some(self, held: list[Held], *, everything: bool) -> list[Held]:
        most = len(held) if everything else self.rnd.randint(1, self.crowd)
        return self.rnd.sample(held, min(len(held), most))


def wire(value: Any) -> Any:
    """Write an expected answer as Redis sends it."""
    if isinstance(value, list):
        return [wire(each) for each in value]
    return value.encode() if isinstance(value, str) else value


def flat(pairs: Iterable[Iterable[Any]]) -> list[Any]:
    """Lay pairs side by side, as a script takes them."""
    return [word for pair in pairs for word in pair]


def ignore(_: Any) -> None:
    """Do nothing, hear nothing of interest."""
