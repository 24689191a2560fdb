"""A random walk over the real scripts against a real Redis: after each step, nothing may be lost, doubled or unfenced.

    python -m tests.model --seeds 300 --steps 500

It injects what breaks queues: lost replies, calls sent twice, workers that die, stall and come back with stale leases,
silence (no script runs), clocks that step, cancellation, pauses, replay, purge, foreign types, snapshots restored.
Two things are checked after each step: every answer and all of Redis against the ledger, which is the protocol once
more; and the invariants of docs/queue-protocol.md by the witness, which only knows what was seen from outside.
"""

import argparse
import copy
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any, Final

from redis import Redis
from redis.exceptions import ResponseError

from greenscale_worker.queues.redis.keys import FLOW, LEDGER, OF_LETTERS, RECENT, TURN_PAYLOADS, TURNS
from harness.redis_server import RedisServer
from tests.support.actors import JOB_IDS, Actors, Fails, ignore, sources
from tests.support.crew import Held, Process
from tests.support.entries import (
    BEAT,
    FOREIGN,
    LEASE,
    LIVE_SECONDS,
    REMEMBERED_SECONDS,
    SCHEDULED_SECONDS,
    SUSPECT_CRASHES,
    Kind,
)
from tests.support.picture import Camera
from tests.support.picture import of as picture_of

STEPS: Final[dict[str, float]] = {  # what may happen, and how often
    "push": 10,
    "put": 8,
    "promote": 1,
    "cancel": 5,
    "uncancel": 2,
    "forget": 1,
    "acknowledge": 1,
    "replay": 2,
    "purge": 0.5,
    "tidy": 1.5,
    "look": 1,
    "meddle": 1.5,
    "pause": 0.5,
    "resume": 1.5,
    "stray": 1.5,
    "claim": 16,
    "bind": 16,
    "settle": 14,
    "release": 5,
    "retry": 12,
    "beat": 7,
    "resend": 6,
    "drain": 1.5,
    "die": 2,
    "stall": 2,
    "crash_again": 1,
    "flood": 1.5,
    "repeat_late": 1,
    "answer_late": 2,
    "leave_one": 2,
    "fail_alike": 1,
    "pass_time": 10,
    "silence": 1,
    "clock_back": 1.2,
    "make_foreign": 3,
    "expire": 1.5,
    "sabotage": 0.5,
    "save": 1.5,
    "restore": 1,
    "set_tenant": 4,
}


class Walk(Actors):
    """One seed: its queue, its workers, its faults."""

    def __init__(self, redis: Redis, kind: Kind, scripts: Mapping[str, bytes], seed: int) -> None:
        super().__init__(redis, kind, scripts, seed)
        self.fails_over = seed % 4 == 2
        self.camera = Camera(redis, self.keys, JOB_IDS)
        self.stalled: list[Process] = []
        self.saved: tuple[Any, ...] | None = None

    def run(self, steps: int) -> Counter[str]:
        """Take so many steps; then everybody dies, and one fresh worker drains all. Raises AssertionError."""
        weights = (
            STEPS
            | ({} if self.has_tenants else {"set_tenant": 0})
            | dict.fromkeys(["clock_back"] if self.fails_over else ["save", "restore"], 0)
        )
        with self.redis.pubsub() as bell:
            bell.psubscribe(self.keys.bell + "*")
            next(bell.listen())  # Redis says that it listens: it may come to other connections before this one
            for step in self.rnd.choices(list(weights), list(weights.values()), k=steps):
                getattr(self, step)(self.rnd.choice(self.processes + self.stalled))
                self.happened[step] += 1
                self.check()
            self.drain_all()
            self.check_bells(bell)
        return self.happened + self.ledger.rare

    # What goes wrong

    def drain(self, process: Process) -> None:
        """Hand everything back, and leave."""
        while process.unanswered or process.held:
            self.resend(process)
            self.release(process, everything=True, delay=0)
        mine = {(id_, job.token) for id_, job in self.ledger.open.items() if job.place == "lease"} & process.told
        assert not mine or self.fails_over, "it has left, and still has leases"
        self.replace(process)

    def die(self, process: Process) -> None:
        self.replace(process)

    def stall(self, process: Process) -> None:
        """Stop for longer than a lease; what it does after that, it may do with leases that are another's."""
        if process not in self.stalled:
            self.replace(process)
            self.stalled = [*self.stalled[-2:], process]
            self.live_on()
            self.claim(self.rnd.choice(self.processes), self.crowd)

    def crash_again(self, process: Process) -> None:
        """Let one worker after another claim, and then stall or die."""
        for _ in range(self.rnd.randint(1, 5)):
            self.claim(process)
            self.bind(process)
            (self.stall if self.rnd.random() < 0.5 else self.die)(process)
            self.live_on()
            process = self.rnd.choice(self.processes)

    def flood(self, process: Process) -> None:
        """Let all that one worker could get come due, or expire, at the same time."""
        self.push(process, self.crowd)
        self.claim(victim := self.new_process(), self.crowd)
        if self.rnd.random() < 0.5:
            self.release(victim, everything=True, delay=2000)
        for _ in range(4):
            self.ledger.now += LEASE // 3
            self.claim(self.rnd.choice(self.processes))

    def repeat_late(self, process: Process) -> None:
        """Let a claim's reply be lost, and the claim be repeated when its jobs have been given to others."""
        self.claim(process, fate="lost")
        self.live_on()
        self.claim(self.rnd.choice(self.processes), self.crowd)
        self.resend(process)

    def answer_late(self, _: Process) -> None:
        """Let a worker that Redis has given up bring the answer to a job that was buried meanwhile."""
        if buried := [id_ for id_ in self.letters() if self.ledger.dead[id_].header["token"]]:
            id_ = self.rnd.choice(buried)
            letter = self.ledger.dead[id_]
            ghost = Process("ghost", max_crashes=9)
            token = self.rnd.choice([letter.header["token"], "of an earlier claim:1"])
            ghost.held[id_] = Held(id_, token, letter.payload, 0, "bound")
            self.settle(ghost)

    def leave_one(self, worker: Process) -> None:
        """Let one worker end all jobs but one or two, and the calls of these fail again and again."""
        if worker in self.stalled:
            return
        self.give_up()
        self.resume(worker)
        for process in self.processes + self.stalled:
            while process.unanswered or process.held:
                self.resend(process)
                self.release(process, everything=True, delay=0)
        if not self.ledger.waiting:
            self.push(worker, 2)
        wanted, kept = self.rnd.choice([1, 2]), list[Held]()
        with self.without_faults():
            for _ in range(30):
                self.ledger.now += BEAT
                self.beat(worker)
                self.claim(worker, 60)
                self.bind(worker, everything=True)
                kept += worker.at("bound")[: wanted - len(kept)]
                for held in kept:
                    held.step = "kept"
                self.settle(worker, everything=True)
            self.fail_one_by_one(worker, kept, [0, 0] if wanted == 1 else [1500, 0], delay=1)
            self.ledger.now += 2
            self.claim(worker, wanted)  # the first failure of a job alone uses up nothing
            self.bind(worker, everything=True)
            self.fail_one_by_one(worker, worker.at("bound"), [0, 0], delay=60_000)

    def fail_one_by_one(self, worker: Process, jobs: list[Held], used: list[int], *, delay: int) -> None:
        """Let the calls of these fail, sometimes with a job that has just come; `used` are thousandths of a try."""
        for held in jobs:
            held.step = "kept"
        for thousandths, held in zip(used, jobs, strict=False):
            held.step = "bound"
            self.rnd.choice([ignore, ignore, ignore, self.push, self.push_listed])(worker)
            prior = self.rnd.choice(["unknown", "unknown", "endpoint"])
            self.retry(worker, Fails(prior, used=thousandths, delay=delay))
        for held in jobs[len(used) :]:
            held.step = "bound"

    def fail_alike(self, worker: Process) -> None:
        """Let jobs fail alike, and again: after somebody has succeeded, or after nobody has."""
        if worker in self.stalled:
            return
        with self.without_faults():
            self.push(worker, self.crowd)
            for n in (self.crowd, 1, 1, self.crowd):
                self.claim(worker, 1)
                self.claim(worker, n)
                self.bind(worker, everything=True)
                if self.rnd.random() < 0.5:
                    self.settle(worker, most=1)
                self.retry(worker, Fails("job", used=0, delay=1))
                self.ledger.now += 2

    @contextmanager
    def without_faults(self) -> Iterator[None]:
        """Let every reply be heard."""
        self.undisturbed = True
        try:
            yield
        finally:
            self.undisturbed = False

    def live_on(self) -> None:
        """Let a lease's time pass for all but the living."""
        for _ in range(3):
            self.ledger.now += LEASE // 3 + 1
            for process in self.processes:
                self.beat(process)

    def pass_time(self, _: Process) -> None:
        self.ledger.now += self.rnd.choice([1, 500, 2500, 4000, 9000])

    def silence(self, process: Process) -> None:
        """Let no script run for long, by the server's clock; who beats within two heartbeats after it keeps all."""
        mine = {(held.id, held.token) for held in process.held.values() if self.is_leased(held.id, held.token)}
        silent = self.rnd.choice([2 * BEAT, 60_000, 600_000, 1500 * REMEMBERED_SECONDS])
        self.ledger.now = max(self.ledger.now, self.ledger.clock) + silent
        self.claim(self.rnd.choice([other for other in self.processes if other is not process]))
        self.ledger.now += self.rnd.choice([0, BEAT, 2 * BEAT - 10])
        self.beat(process)
        assert all(self.is_leased(*pair) for pair in mine), "invariant 9: a lease did not survive an outage"

    def clock_back(self, _: Process) -> None:
        by = self.rnd.choice([400, 2000, 120_000])
        self.witness.clock_went_back(self.ledger.now, by)
        self.ledger.now -= by

    def make_foreign(self, _: Process) -> None:
        """Let somebody else use the name of a record or a result."""
        bound = [job_id for job_id in self.ledger.bound if job_id in JOB_IDS]  # others are in no picture
        job_id = self.rnd.choice(bound * 3 + JOB_IDS)
        if self.rnd.random() < 0.3:
            self.redis.delete(self.keys.result(job_id))
            self.redis.hset(self.keys.result(job_id), "a", "b")
            self.ledger.results[job_id] = FOREIGN
        else:
            self.redis.delete(self.keys.record(job_id))
            self.foreign(self.keys.record(job_id))
            self.ledger.records[job_id] = FOREIGN

    def expire(self, _: Process) -> None:
        """Let something reach the end of its time."""
        job_id = self.rnd.choice(JOB_IDS)
        self.redis.delete(self.keys.result(job_id), self.keys.cancel(job_id))
        self.ledger.results.pop(job_id, None)
        self.ledger.tombstones.discard(job_id)
        if self.ledger.lifetimes.get(job_id) not in {LIVE_SECONDS, SCHEDULED_SECONDS}:
            self.redis.delete(self.keys.record(job_id))
            self.ledger.records.pop(job_id, None)

    def sabotage(self, _: Process) -> None:
        """Put a foreign type under each of the queue's keys: every script refuses before its first write."""
        calls: dict[str, list[Any]] = {
            "claim": [9, LEASE, BEAT, "w", "nonce", 4, 9999, 1, 0, 9],
            "check_format": ["1"],
            "heartbeat": [LEASE, BEAT, 4, "w", 1, 0],
            "bind": [9, 9, "w", "b"],
            "settle": [9],
            "release": [9],
            "retry": [9, 9],
            "put": [9, "none", "standard", "", "", "", "", 0, "j-0", "payload", "", ""],
            "promote": [9],
            "cancel": ["j-0", 9, 9],
            "uncancel": [9],
            "forget": [],
            "attend": ["gateway"],
            "join": ["gateway", 1],
        }
        of_letters: dict[str, list[Any]] = {
            "replay": [9, self.setup.name(next(iter(self.ledger.dead), 1))],
            "list": ["", "", "", "", "latest", "", 9, 9, 0, ""],
            "find": ["j-0", 0],
            "codes": ["", 9],
            "purge": ["", "", "", "", "", 9, "purged"],
            "tidy": ["", 9],
        }
        keys = [*self.keys.base, self.keys.record("j-0"), self.keys.cancel("j-0")]
        before = self.content()
        for key in self.keys.base:
            if key in {self.keys.of(RECENT), self.keys.of(LEDGER), self.keys.of(FLOW)}:  # all do without
                continue
            if key in {self.keys.of(TURNS), self.keys.of(TURN_PAYLOADS)} and not self.ledger.tenancy.flag:
                continue  # nothing reads them
            if key.encode() in before:
                self.redis.rename(key, "elsewhere")
            self.foreign(key)
            further = key in {self.keys.of(part) for part in OF_LETTERS}  # all others do without
            for name, args in (of_letters if further else calls | of_letters).items():
                try:
                    answer = self.scripts[name](keys=keys, args=[self.ledger.now, self.setup.word, *args])
                except ResponseError as error:
                    answer = str(error)
                assert "FOREIGN" in str(answer), f"{name} with a foreign type under {key}: {answer}"
            self.redis.delete(key)
            if key.encode() in before:
                self.redis.rename("elsewhere", key)
        assert self.content() == before, "a script that refused has written"

    def save(self, _: Process) -> None:
        """Take the snapshot that a failover falls back to."""
        dump = self.dump()
        lives = {key: max(0, self.redis.pttl(key)) for key in dump}
        self.saved = dump, lives, copy.deepcopy(self.ledger), copy.deepcopy(self.witness)

    def restore(self, _: Process) -> None:
        """Lose every write since the snapshot. The workers still believe what they were told."""
        if self.saved is None:
            return
        (dump, lives, ledger, witness), self.saved = self.saved, None
        self.redis.flushdb()
        for key, value in dump.items():
            self.redis.restore(key, lives[key], value)
        if self.setup.kind == "stream":
            self.ids &= witness.payload.keys()  # Redis gives ids, and may give those that it has forgotten once more
        ledger.now, ledger.bells, ledger.rare = self.ledger.now, self.ledger.bells, self.ledger.rare
        witness.passed_over.clear()
        witness.failed_over = True  # a lost binding may let two deliveries of an id run
        self.ledger, self.witness = ledger, witness

    def replace(self, process: Process) -> None:
        if process in self.stalled:
            self.stalled.remove(process)
        else:
            self.processes[self.processes.index(process)] = self.new_process()

    def is_leased(self, id_: int, token: str) -> bool:
        job = self.ledger.open.get(id_)
        return job is not None and job.place == "lease" and job.token == token

    def foreign(self, key: str) -> None:
        if self.rnd.random() < 0.5:
            self.redis.set(key, "foreign")
        else:
            self.redis.sadd(key, "foreign")

    def dump(self) -> dict[bytes, bytes]:
        names: list[Any] = sorted(self.redis.keys())
        pipe = self.redis.pipeline(transaction=False)
        for name in names:
            pipe.dump(name)
        return dict(zip(names, pipe.execute(), strict=True))

    def content(self) -> dict[bytes, Any]:
        """All that is kept. The order of a hash is none of it: Redis changes that as the hash grows or shrinks."""
        return {
            name: self.redis.hgetall(name) if self.redis.type(name) == b"hash" else dump
            for name, dump in self.dump().items()
        }

    # What is checked

    def check(self) -> None:
        """Read all of Redis: it is what the ledger says, and the promises are kept."""
        found, right = self.camera.take(self.ledger.claims), picture_of(self.ledger)
        for name, value in right.items():
            assert found[name] == value, f"{name}: found {found[name]}, not {value}"
        held = [
            each for process in self.processes + self.stalled for each in process.at("claimed", "bound", "conflict")
        ]
        self.witness.check(self.ledger, [(each.id, each.token) for each in held])

    def check_bells(self, bell: Any) -> None:
        self.redis.publish(self.keys.bell, "the end")
        rung = list(takewhile(lambda message: message != "the end", map(self.read_bell, bell.listen())))
        for number, (found, right) in enumerate(zip_longest(rung, self.ledger.bells)):
            assert found == right, f"ring {number} of the bell: {found!r}, not {right!r}"

    def read_bell(self, message: Any) -> str:
        owner = message["channel"].decode().removeprefix(self.keys.bell).removeprefix(":")
        return f"{message['data'].decode()} {owner}".strip()

    def drain_all(self) -> None:
        """Let all die; one worker, started at once, gets everything, and what was leased within 18 s (invariant 8)."""
        self.resume(self.processes[0])
        self.give_up()
        self.ledger.now = max([self.ledger.now, *(job.due for job in self.ledger.later.values())])
        self.promote(self.processes[0])
        died, self.processes, self.stalled = self.ledger.now, [fresh := self.new_process()], []
        sleep = 0
        while sleep >= 0:
            self.beat(fresh)
            answer = self.claim(fresh, 32)
            while fresh.held or fresh.unanswered:
                self.bind(fresh, everything=True)
                self.settle(fresh, everything=True)
                self.resend(fresh)
            self.check()
            if answer is None:
                continue
            suspect = any(job[3] >= SUSPECT_CRASHES for job in answer[3])  # at its end a worker claims at once
            sleep = 0 if suspect else answer[0] if answer[6] else BEAT  # without a seat, its heartbeat looks for jobs
            self.ledger.now += min(sleep, BEAT)
            late = self.ledger.now - died > LEASE + BEAT + 500
            assert not late or all(job.place != "lease" for job in self.ledger.open.values()), (
                "invariant 8: not within 18 s"
            )
            assert self.ledger.now - died < 1_000_000, "invariant 8: it goes on for ever"
        left = [*self.ledger.waiting, *self.ledger.open, *self.ledger.strays, *self.ledger.later]
        left += [payload for listed in self.ledger.listed.values() for payload in listed]
        left += self.ledger.tenancy.waiting()
        assert not left, "invariant 8: something is left"


@contextmanager
def own_redis() -> Iterator[Redis]:
    """Start a server for this run alone."""
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory))
        server.start()
        try:
            with server.client() as redis:
                yield redis
        finally:
            server.close()


def search(redis: Redis, kind: Kind, scripts: Mapping[str, bytes], seeds: Iterable[int], steps: int) -> Counter[str]:
    """Walk once with each seed; say what has happened. Raises AssertionError that names the seed."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        try:
            happened += Walk(redis, kind, scripts, seed).run(steps)
        except (AssertionError, ResponseError) as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    return happened


def main() -> None:
    """Search as long as is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", choices=["list", "stream"], default="list", help="which kind of queue")
    parser.add_argument("--seeds", type=int, default=300, help="how many walks")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=500, help="steps of each walk")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    with own_redis() as redis:
        happened = search(redis, options.queue, sources(options.queue), seeds, options.steps)
    sys.stdout.write(f"{options.seeds} seeds x {options.steps} steps, no promise broken\n")
    sys.stdout.writelines(f"{count:9} {what}\n" for what, count in happened.most_common())


if __name__ == "__main__":
    main()
