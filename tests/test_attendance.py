"""The scripts that know who waits for a job, in random order, against a model; which has to notice defects."""

import random
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from redis import Redis

from greenscale_worker.queues import ALIVE_SECONDS, ATTENDED_SECONDS, QueueOptions
from greenscale_worker.queues.redis.keys import Keys
from greenscale_worker.queues.redis.list import ListStore
from tests.mutants import Mutant
from tests.support.actors import sources

STORE: Final = ListStore(QueueOptions())
KEYS: Final = Keys("jobs", STORE.own)
STEPS: Final = 400
LASTS, ALIVE = 1000 * ATTENDED_SECONDS, 1000 * ALIVE_SECONDS
MUTANTS: Final = [
    Mutant(name, file, right, wrong)
    for file, name, right, wrong in (
        ("put", "a job that is put is not found", "  pcall(attend, alike, attendance)\n", ""),
        ("put", "who puts a job does not live", "pcall(show_alive,", "pcall(tostring,"),
        (
            "attend",
            "who has lost a job keeps it",
            "local is_own = call('ZSCORE', alike, member)",
            "local is_own = true",
        ),
        ("attend", "what is over is found", "    call('ZREM', alike, member)\n", ""),
        ("attend", "who has left is not joined", "change == 'left'", "false"),
        ("attend", "who waits is joined", "change == 'left'", "true"),
        ("attend", "who speaks does not live", "show_alive(gateways, ARGV[3])\n", ""),
        ("join", "who asks does not live", "show_alive(gateways, gateway)\n", ""),
        ("join", "who asks again gets another job", "if string.sub(member, -#own) == own then", "if false then"),
        ("join", "a job is joined twice", "call('ZREM', alike, has_gone)\n", ""),
        ("join", "who has joined a job does not have it", "attend(alike, job_id .. own)\n", ""),
        ("join", "the clients of the dead wait", "if call('ZSCORE', gateways", "if true or call('ZSCORE', gateways"),
        ("join", "those who wait are not counted", "    waiting = waiting + 1\n", ""),
        ("join", "what was left long ago is joined", "'-inf', '(-' .. NOW", "'-inf', '0'"),
        ("join", "what has waited too long is joined", "'(' .. NOW, '+inf'", "'0', '+inf'"),
        ("attendance", "what is not found any more stays", "  call('ZREMRANGEBYSCORE', alike, '-' .. NOW, NOW)\n", ""),
        ("attendance", "a key stays", "  call('EXPIRE', alike, ATTENDED_SECONDS)\n", ""),
        ("attendance", "the gateways' key stays", "  call('EXPIRE', gateways, ATTENDED_SECONDS)\n", ""),
        ("attendance", "the dead stay", "  call('ZREMRANGEBYSCORE', gateways, '-inf', digits(now - ALIVE_MS))\n", ""),
    )
]


@dataclass
class Model:
    """What is true: the scores of both keys."""

    now: int = 1_800_000_000_000
    alike: dict[str, int] = field(default_factory=dict)
    gateways: dict[str, int] = field(default_factory=dict)

    def put(self, member: str) -> list[int]:
        self.live(member.split()[1])
        self.set(member)
        return [1]

    def attend(self, gateway: str, changes: list[tuple[str, str]]) -> list[int]:
        self.live(gateway)
        answers = []
        for member, change in changes:
            answers.append(int(member in self.alike))
            if not answers[-1]:
                continue
            if change == "over":
                del self.alike[member]
            else:
                self.set(member, -1 if change == "left" else 1)
        return answers

    def join(self, gateway: str, number: int) -> list[Any]:
        self.live(gateway)
        own, places = f" {gateway} {number}", sorted((score, member) for member, score in self.alike.items())
        gone = [member for score, member in places if score < -self.now]
        waiting = [member for score, member in places if score > self.now]
        for member in waiting:
            if member.endswith(own):
                return [member.split()[0].encode(), 0]
        living = [member for member in waiting if member.split()[1] in self.gateways]
        gone += [member for member in waiting if member not in living]
        if not gone:
            return [b"", len(living)]
        del self.alike[gone[0]]
        self.set(gone[0].split()[0] + own)
        return [gone[0].split()[0].encode(), 0]

    def live(self, gateway: str) -> None:
        self.gateways[gateway] = self.now
        self.gateways = {each: last for each, last in self.gateways.items() if last > self.now - ALIVE}

    def set(self, member: str, sign: int = 1) -> None:
        self.alike[member] = sign * (self.now + LASTS)
        self.alike = {each: score for each, score in self.alike.items() if abs(score) > self.now}


def walk(redis: Redis, scripts: dict[str, bytes], seed: int) -> set[str]:
    """Take steps. Return what happened. Raises AssertionError when Redis holds or answers something else."""
    rnd, model, happened, jobs = random.Random(seed), Model(), set[str](), 0
    redis.flushdb()
    alike, gateways = KEYS.alike("x"), KEYS.gateways

    def run(script: str, keys: list[str], args: list[Any]) -> Any:
        every = [*KEYS.base, *keys]
        return redis.eval(scripts[script], len(every), *every, model.now, STORE.word, *args)

    for _ in range(STEPS):
        model.now += rnd.choice([1, 1, 100, 700, ALIVE, LASTS // 3])
        gateway, number = rnd.choice("abc"), rnd.randrange(4)
        match rnd.choice(["put", "attend", "attend", "join"]):
            case "put":
                jobs += 1
                member = f"j{jobs} {gateway} {number}"
                keys = [KEYS.record(f"j{jobs}"), KEYS.cancel(f"j{jobs}"), gateways, alike]
                args = [9, "once", "standard", "", "", "", member, 0, f"j{jobs}", "payload"]
                assert run("put", keys, args) == model.put(member)
            case "attend":
                known = [*model.alike, "j0 a 1"]
                changes = [(rnd.choice(known), rnd.choice(["waits", "left", "over"])) for _ in range(rnd.randrange(3))]
                keys = [gateways, *[alike for _ in changes]]
                answers = run("attend", keys, [gateway, *(word for change in changes for word in change)])
                assert answers == model.attend(gateway, changes)
                happened |= {f"{change} {held}" for (_, change), held in zip(changes, answers, strict=True)}
            case "join":
                answer = run("join", [gateways, alike], [gateway, number])
                assert answer == model.join(gateway, number)
                happened.add("joined" if answer[0] else f"waits for {min(1, answer[1])}")
        for key, right in ((alike, model.alike), (gateways, model.gateways)):
            assert dict(redis.zrange(key, 0, -1, withscores=True)) == {k.encode(): v for k, v in right.items()}
            assert not right or 0 < redis.ttl(key) <= ATTENDED_SECONDS
    return happened


def walks(redis: Redis, scripts: dict[str, bytes]) -> set[str]:
    return set[str]().union(*(walk(redis, scripts, seed) for seed in range(10)))


def test_the_scripts_do_what_the_model_does(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        happened = walks(redis, sources("list"))
    assert happened == {
        *(f"{change} {held}" for change in ("waits", "left", "over") for held in (0, 1)),
        *("joined", "waits for 0", "waits for 1"),
    }


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.name}")
def test_a_seeded_defect_is_noticed(redis_url: str, mutant: Mutant) -> None:
    scripts = mutant.scripts()
    with Redis.from_url(redis_url) as redis, pytest.raises(AssertionError):
        walks(redis, scripts)


@pytest.mark.parametrize("key", [KEYS.alike("x"), KEYS.gateways])
def test_a_foreign_type_under_the_keys_does_not_keep_a_job_out(redis_url: str, key: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.set(key, "foreign")
        keys = [*KEYS.base, KEYS.record("j"), KEYS.cancel("j"), KEYS.gateways, KEYS.alike("x")]
        args = ["", STORE.word, 9, "once", "standard", "", "", "", "j a 1", 0, "j", "payload"]
        assert redis.eval(sources("list")["put"], len(keys), *keys, *args) == [1]
        assert redis.lrange("jobs", 0, -1) == [b"payload"]
