"""A random walk over the scripts of a fleet with a limit, budgets, pauses and probes, against a real Redis.

    python -m tests.flow_walk --seeds 300 --steps 400

After each step the promises of docs/flow-control.md are checked by what was seen from outside: who got what, and when.
Replies are lost, claims are sent twice, workers die, the clock steps back, another program writes to the queue's key.
"""

import argparse
import math
import random
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis import Redis

from greenscale_worker.queues.redis.keys import Keys
from tests.model import own_redis
from tests.support.actors import ALL_NOTICES, STORES, sources
from tests.support.entries import Kind

LEASE: Final = 15_000
BEAT: Final = 3_000
BEGIN: Final = 1_700_000_000_000
MOST_LANES: Final = 6
LONGEST_SLEEP: Final = 7_200_000
OWN: Final = {"limit", "requests", "tokens", "pause", "probe", "background", ""}
STEPS: Final = {
    "push": 6,
    "claim": 20,
    "claim_again": 3,
    "succeed": 14,
    "fail": 4,
    "hand_back": 5,
    "beat": 5,
    "pass_time": 14,
    "die": 1,
    "clock_back": 0.5,
    "roll_out": 0.7,
    "pause": 0.4,
    "resume": 1,
    "meddle": 0.6,
}
JUNK: Final = ("", "-1e999", "nan", "99999999999999999999", "-5", "1 2 3", "x|y", "0x10", "1700000000000000")
FIELDS: Final = ("limit", "r", "t", "at", "hold", "ramp", "probe", "dark", "told", "mean_out", "mean_ms", "engine")


@dataclass
class Job:
    """A job that a worker holds."""

    id: str
    token: str
    charged: int
    probe: bool


@dataclass
class Worker:
    """A process."""

    name: str
    shut: bool = False
    held: list[Job] = field(default_factory=list)


@dataclass
class Bucket:
    """A budget as the documents describe it, seen from outside."""

    per_minute: float
    least: float
    level: float = math.inf
    at: int = 0

    def refill(self, now: int) -> float:
        """Bring it up to date."""
        most = max(self.per_minute / 120, self.least)
        self.level = min(most, self.level + max(0, now - self.at) * self.per_minute / 60_000)
        self.at = now
        return self.level

    def add(self, now: int, amount: float) -> None:
        """Give back, or take."""
        self.level = self.refill(now) + amount
        self.refill(now)


class FlowWalk:
    """One seed: its queue, its bounds, its workers."""

    def __init__(self, redis: Redis, kind: Kind, scripts: Mapping[str, bytes], seed: int) -> None:
        self.rnd = random.Random(seed)
        redis.flushdb()
        self.redis, self.kind = redis, kind
        self.keys = Keys("jobs", STORES[kind].own)
        self.word = "RIGHT" if kind == "list" else "greenscale"
        self.scripts = {name: redis.register_script(source) for name, source in scripts.items()}
        self.now = BEGIN
        self.back = 0  # ms by which the clock went back in all: the queue's time does not
        self.honest = seed % 3 != 0  # whether no other program writes
        self.numbers = iter(range(10**9))
        self.run("check_format", [], ["2"])
        self.workers = [self.new_worker() for _ in range(3)]
        self.last: tuple[list[Any], Any] | None = None
        self.held_until = 0
        self.allowed: tuple[int, int] | None = None
        self.probe: tuple[int, str] | None = None
        self.paused = False
        self.settled = 0
        self.pushed = 0
        self.beaten = False
        self.roll_out()

    @property
    def time(self) -> int:
        """The queue's time."""
        return self.now + self.back

    def walk(self, steps: int) -> None:
        """Take so many steps; then all die, and a fresh worker runs what is left. Raises AssertionError."""
        for step in self.rnd.choices(list(STEPS), list(STEPS.values()), k=steps):
            getattr(self, step)()
            self.check_room()
        self.drain()

    def run(self, script: str, keys: list[str], args: list[Any]) -> Any:
        self.now = getattr(self, "now", BEGIN) + 1
        return self.scripts[script](keys=[*self.keys.base, *keys], args=[self.now, self.word, *args])

    def new_worker(self) -> Worker:
        return Worker(f"w{next(self.numbers)}:1:2-0000000{self.rnd.randrange(10)}")

    # What happens

    def push(self) -> None:
        job_class = self.rnd.choice(["", "", "interactive", "background", "background"])
        for _ in range(self.rnd.choice([1, 1, 3, 9])):
            payload = f"job {next(self.numbers)} " + "x" * self.rnd.choice([10, 10, 400])
            if job_class:
                self.redis.lpush(self.keys.of(job_class), payload)
            elif self.kind == "list":
                self.redis.lpush(self.keys.name, payload)
            else:
                self.redis.xadd(self.keys.name, {"job": payload})
            self.pushed += 1

    def roll_out(self) -> None:
        """Start with new settings; budgets keep what they hold."""
        self.limit = self.rnd.choice(["", "", 1, 2, 3, 5, 10])
        self.requests = self.rnd.choice(["", "", 30, 600])
        self.tokens = self.rnd.choice(["", "", 600, 60_000])
        before = getattr(self, "buckets", {})
        for bucket in before.values():
            bucket.refill(self.time + 1)
        rates = {"requests": (self.requests, 1), "tokens": (self.tokens, 0)}
        self.buckets = {name: Bucket(rate, least, at=self.time) for name, (rate, least) in rates.items() if rate}
        for name in self.buckets.keys() & before.keys():
            self.buckets[name].level, self.buckets[name].at = before[name].level, before[name].at
        self.beat()  # which declares them

    def declared(self) -> list[Any]:
        return [self.limit, self.requests, self.tokens]

    def claim(self) -> None:
        worker = self.rnd.choice(self.workers)
        n = 1 if worker.shut else self.rnd.randint(1, MOST_LANES)
        nonce = f"{next(self.numbers):032x}"
        args = [n, LEASE, BEAT, worker.name, nonce, 9, 9999, 1, 0, n, *self.declared(), int(worker.shut)]
        answer = self.run("claim", [self.keys.claim(worker.name)], args)
        self.last = [worker, args], answer
        self.check_claim(worker, n, answer, nonce)
        if self.rnd.random() < 0.95:  # else the reply is lost, and the worker does not know what it has
            self.take(worker, answer)

    def take(self, worker: Worker, answer: Any) -> None:
        estimate = answer[8]
        for id_, token, *_, payload, _, _ in answer[3]:
            charged = -(-len(payload) // 4) + int(estimate) if estimate else 0
            if all(job.token != token.decode() for job in worker.held):
                worker.held.append(Job(id_.decode(), token.decode(), charged, worker.shut))

    def claim_again(self) -> None:
        """Send the last claim once more: it brings the same jobs, and charges nothing."""
        if self.last is None:
            return
        (worker, args), answer = self.last
        if worker not in self.workers or not answer[3]:  # an empty claim is not remembered
            return
        before = self.redis.hgetall(self.keys.of("flow")) if self.redis.type(self.keys.of("flow")) == b"hash" else {}
        again = self.run("claim", [self.keys.claim(worker.name)], args)
        still = [job for job in answer[3] if self.redis.zscore(self.keys.of("lease"), job[0]) is not None]
        mine = [job for job in still if job[1] in {each[1] for each in again[3]}]
        assert again[3] == mine, "a claim that is repeated brings other jobs"
        assert again[8] == answer[8], "a claim that is repeated charges otherwise"
        after = self.redis.hgetall(self.keys.of("flow")) if before else {}
        assert before == after, "a claim that is repeated charges again"
        self.take(worker, again)

    def settle(self, worker: Worker, job: Job, state: str, spent: tuple[int, int], back: tuple[int, int]) -> bool:
        words = f"{back[0]} {back[1]}" if self.buckets else ""
        item = [job.id, job.token, state, "", "answer", "", f"{self.now} 1000 {spent[0]} {spent[1]} ", 0]
        (answer,) = self.run("settle", [self.keys.result("-"), self.keys.record("-")], [0, words, "", *item])
        worker.held.remove(job)
        return bool(answer == b"OK")

    def some_job(self) -> tuple[Worker, Job] | None:
        busy = [worker for worker in self.workers if worker.held]
        return (worker := self.rnd.choice(busy), self.rnd.choice(worker.held)) if busy else None

    def succeed(self) -> None:
        if (found := self.some_job()) is None:
            return
        worker, job = found
        prompt, completion = self.rnd.randint(1, 100), self.rnd.choice([1, 50, 500])
        tokens = job.charged - prompt - completion if job.charged else 0
        if not self.settle(worker, job, "succeeded", (prompt, completion), (tokens, 0)):
            return
        self.settled += 1
        self.give_back(tokens, 0)
        if not self.ends_probe(job, healed=worker) and self.allowed and self.time >= self.held_until:
            allowed, goal = self.allowed
            self.allowed = (allowed + 1, goal) if allowed + 1 < goal else None

    def hand_back(self) -> None:
        """Release a job of which no call was made, or drop it."""
        if (found := self.some_job()) is None:
            return
        worker, job = found
        args = [
            0,
            f"{job.charged} 1" if self.buckets else "",
            job.id,
            job.token,
            self.rnd.choice([0, 5000]),
            "",
            "drain",
        ]
        answer, *_ = self.run("release", [self.keys.record("-")], args)
        worker.held.remove(job)
        if answer == b"OK":
            self.ends_probe(job)
            self.give_back(job.charged, 1)

    def fail(self) -> None:
        if (found := self.some_job()) is None:
            return
        worker, job = found
        hold = self.rnd.choice([0, 0, 800, 20_000])
        in_flight = self.in_flight()
        item = [job.id, job.token, "", "http_429", "", "endpoint", "f", 0, 9000, 1000, f"{self.now} 1000 0 0 ", hold]
        verdict, *_ = self.run("retry", [self.keys.record("-")], [0, 0, "", *item])
        worker.held.remove(job)
        if verdict != b"DELAYED":
            return
        if hold:
            self.held_until = max(self.held_until, self.time + hold)
            self.begin_ramp(in_flight)
        self.ends_probe(job)

    def begin_ramp(self, goal: int) -> None:
        goal = max(goal, self.allowed[1] if self.allowed else 0)
        self.allowed = (1, goal) if goal > 1 else None

    def ends_probe(self, job: Job, healed: Worker | None = None) -> bool:
        ended = self.probe is not None and self.probe[1] == job.token and self.time < self.probe[0]
        if ended:
            self.probe = None
            if healed is not None:
                healed.shut = False
                if (ramp := self.redis.hget(self.keys.of("flow"), "ramp")) is not None:  # if all were shut
                    allowed, goal = map(int, ramp.split())
                    self.allowed = (allowed, goal)
        return ended

    def give_back(self, tokens: float, requests: float) -> None:
        for name, amount in (("tokens", tokens), ("requests", requests)):
            if name in self.buckets:
                self.buckets[name].add(self.time, amount)

    def beat(self) -> None:
        worker = self.rnd.choice(self.workers)
        if self.rnd.random() < 0.1:
            worker.shut = not worker.shut
        keys = [self.keys.lanes(worker.name), self.keys.room]
        args = [LEASE, BEAT, 9, worker.name, 1, 0, len(worker.held), 8, MOST_LANES]
        args += [*self.declared(), int(worker.shut), *ALL_NOTICES]
        held = list(worker.held)
        lost = self.run("heartbeat", keys, args + [word for job in held for word in (job.id, job.token)])[2][1::3]
        worker.held = [job for job in held if job.token.encode() not in lost]
        for job in worker.held:
            if self.probe is not None and job.token == self.probe[1] and self.time < self.probe[0]:
                self.probe = self.time + LEASE, job.token
        self.beaten = True

    def pass_time(self) -> None:
        self.now += self.rnd.choice([1, 50, 300, 1000, 3000, 9000])

    def die(self) -> None:
        self.workers.remove(self.rnd.choice(self.workers))
        self.workers.append(self.new_worker())

    def clock_back(self) -> None:
        """A failover to a server whose clock is behind; a heartbeat notices."""
        self.now -= 50_000
        before = self.time
        worker = self.workers[0]
        keys = [self.keys.lanes(worker.name), self.keys.room]
        args = [LEASE, BEAT, 9, worker.name, 0, 0, 0, 8, MOST_LANES]
        args += [*self.declared(), int(worker.shut), *ALL_NOTICES]
        self.run("heartbeat", keys, args)
        offset = int(self.redis.hget(self.keys.of("control"), "offset") or 0)
        assert offset >= self.back, "the queue's time goes back"
        self.back, self.at_before = offset, before

    def pause(self) -> None:
        self.paused = True
        self.run("pause", [self.keys.room], [self.rnd.choice(["pause", "zero"])])
        self.beaten = True

    def resume(self) -> None:
        self.paused = False
        self.run("pause", [self.keys.room], ["resume"])
        self.beaten = True

    def meddle(self) -> None:
        """Let another program write to the queue's key; from then on only its limit and its end are certain."""
        if self.honest:
            return
        key = self.keys.of("flow")
        if self.rnd.random() < 0.2:
            self.redis.delete(key)
            if self.rnd.random() < 0.5:
                self.redis.set(key, "foreign")
        elif self.redis.type(key) == b"hash":
            self.redis.hset(key, self.rnd.choice(FIELDS), self.rnd.choice(JUNK))

    # What must be true

    def in_flight(self) -> int:
        return int(self.redis.zcard(self.keys.of("lease")))

    def check_claim(self, worker: Worker, n: int, answer: Any, nonce: str) -> None:
        sleep, given, held = answer[0], len(answer[3]), answer[7].decode()
        assert held in OWN
        now_open = self.in_flight()
        if self.limit and given:
            assert now_open <= self.limit, f"{now_open} calls are open, the limit is {self.limit}"
        assert not (self.paused and given), "a paused queue gives"
        if held not in {"", "background"}:
            assert sleep == -1 or 1 <= sleep <= LONGEST_SLEEP, f"held back by {held}, it sleeps {sleep}"
            assert given < n
        if not self.honest:
            return
        if given and self.time < self.held_until:
            raise AssertionError("a job is given during a pause")
        if given and self.allowed:
            assert now_open <= self.allowed[0], f"{now_open} calls are open in a slow start of {self.allowed}"
        if worker.shut and given:
            assert self.probe is None or self.time >= self.probe[0], "two probes are out"
            self.probe = self.time + LEASE, f"{nonce}:1"
        self.check_budgets(answer)
        if not self.paused:
            self.check_reason(worker, given, n, now_open, held)

    def check_budgets(self, answer: Any) -> None:
        jobs, estimate = answer[3], int(answer[8] or 0)
        assert bool(self.buckets) == (answer[8] != b"") or self.paused
        requests, tokens = self.buckets.get("requests"), self.buckets.get("tokens")
        if requests is not None and jobs:
            assert requests.refill(self.time) > len(jobs) - 0.01, "more requests are begun than the budget holds"
            requests.add(self.time, -len(jobs))
        if tokens is not None and jobs:
            charges = [-(-len(job[5]) // 4) + estimate for job in jobs]
            assert tokens.refill(self.time) - sum(charges[:-1]) > -0.01, "a budget has debts of more than one job"
            tokens.add(self.time, -sum(charges))

    def check_reason(self, worker: Worker, given: int, n: int, now_open: int, held: str) -> None:
        """Fewer jobs than asked for are given only for the reason that is said, and if there is one."""
        waiting = sum(self.redis.llen(self.keys.of(each)) for each in ("interactive", "background"))
        urgent = int(self.redis.zcard(self.keys.of("ready")))
        urgent += self.redis.llen(self.keys.name) if self.kind == "list" else 0
        if held == "" and given < n:
            assert waiting + urgent == 0, "jobs wait, and nobody is told why"
        full = self.limit and now_open >= self.limit
        slow = self.time < self.held_until or (self.allowed and now_open >= self.allowed[0])
        bucket = self.buckets.get(held)
        is_right = {
            "limit": full,
            "pause": slow,
            "probe": worker.shut and self.probe is not None,
            "requests": bucket and bucket.refill(self.time) < 1.01,
            "tokens": bucket and bucket.refill(self.time) <= 0.01,
        }
        assert is_right.get(held, True), f"held back by {held} without a reason"
        if held == "background":
            most = min(int(self.limit or 10**9), self.allowed[0] if self.allowed else 10**9)
            assert now_open >= 0.7 * most, "jobs in the background are held back without a reason"

    def check_room(self) -> None:
        """The list for KEDA says what `flow` says, whenever a script has just written it."""
        if not self.beaten or not self.honest:
            return
        self.beaten = False
        answer = self.run("read_flow", [], [2 * BEAT])
        _, _, in_flight, _, paused, scaled, shut, _, _, _, limit, requests, _, call_ms, _ = answer
        bounds = [int(limit)] if limit else []
        if requests and call_ms:
            bounds.append(max(1, math.ceil(float(requests) / 60 * float(call_ms) / 1000)))
        room = 0 if scaled else max(1, in_flight) if paused or shut else min(bounds, default=None)
        found = self.redis.llen(self.keys.room)
        assert found == (0 if room is None else min(room, 9999) + 1), f"the room is {room}, its list has {found}"

    def drain(self) -> None:
        """All die; one worker comes, and runs every job to its end."""
        self.resume()
        self.workers = [self.new_worker()]
        self.now += 2 * LEASE
        worker, left = self.workers[0], 40 * (self.pushed + 50)
        while (self.redis.hlen(self.keys.of("meta")) or self.unclaimed()) and left:
            left -= 1
            args = [MOST_LANES, LEASE, BEAT, worker.name, f"{next(self.numbers):032x}", 99, 9999, 1, 0, MOST_LANES]
            answer = self.run("claim", [self.keys.claim(worker.name)], [*args, *self.declared(), 0])
            worker.held = []
            self.take(worker, answer)
            for job in list(worker.held):
                back = (job.charged - 20, 0) if job.charged else (0, 0)
                self.settle(worker, job, "succeeded", (10, 10), back)
            beat = [LEASE, BEAT, 99, worker.name, 1, 0, 0, 8, MOST_LANES, *self.declared(), 0]
            self.run("heartbeat", [self.keys.lanes(worker.name), self.keys.room], beat)
            if not answer[3]:
                self.now += min(max(answer[0], 500), BEAT)
        assert left, f"{self.redis.hlen(self.keys.of('meta'))} jobs starve: {self.redis.hgetall(self.keys.of('flow'))}"

    def unclaimed(self) -> int:
        listed = sum(self.redis.llen(self.keys.of(each)) for each in ("interactive", "background"))
        source = self.redis.llen if self.kind == "list" else self.redis.xlen
        return int(listed + source(self.keys.name))


def search(redis: Redis, kind: Kind, scripts: Mapping[str, bytes], seeds: Iterable[int], steps: int) -> None:
    """Walk each seed. Raises AssertionError, which names the seed, for the first broken promise."""
    for seed in seeds:
        try:
            FlowWalk(redis, kind, scripts, seed).walk(steps)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", choices=list(STORES), default="list")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    with own_redis() as redis:
        seeds = range(options.first, options.first + options.seeds)
        search(redis, options.queue, sources(options.queue), seeds, options.steps)
    sys.stdout.write(f"{options.seeds} walks of {options.steps} steps: every promise is kept\n")


if __name__ == "__main__":
    main()
