"""No bytes in any door stop a worker; what cannot be read is one dead letter with its bytes.

Hostile acts come from a seeded generator; after each round of them a real worker answers good jobs. A failure names the
round's acts.
"""

import asyncio
import contextlib
import io
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pytest
from pydantic import ValidationError
from redis import Redis

from greenscale_worker.batch.requests import read_requests
from greenscale_worker.errors import BadInputError, TransientError
from greenscale_worker.job import JOB_ID, Job, Output, decode
from greenscale_worker.queues import QueueClient, QueueOptions, RedisOptions
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.queues.registry import open_client, open_queue
from greenscale_worker.worker import Worker
from harness.eventually import eventually
from tests.support.jobs import KINDS, Jobs

SEEDS: Final = range(2)
MANY: Final = 400  # payloads in one walk
ROUNDS: Final = 60
FAR: Final = 1e300
MAX_BYTES: Final = 4096

# What is no number that could be counted with, though some parsers take it for one.
NO_NUMBERS: Final = [
    b"",
    b"nan",
    b"-nan",
    b"inf",
    b"1e999",
    b"0x10",
    b"-5",
    b" 12",
    b"12 ",
    b"1.5",
    b"9" * 30,
    b"\xff\0|",
]

NO_IDS: Final = [
    *(b"", b"nan", b"inf", b"1e999", b"0x10", b" 12", b"-1", b"a|b", b"\xff\xfe", b"\0", b"x" * 4096, b"9" * 17),
    *(
        b"9" * 400,
        b"1-",
        b"-1",
        b"1-1-1",
        b"0001-1",
        b"1-01",
        b"99999999999999999999-1",
        b"18446744073709551616-0",
        b"-",
    ),
]

NO_JOB_IDS: Final = [b"a|b", b"", b"\xff\xfe", b"x" * 129, b"a b", b"a\n", b"\0", "ü".encode(), b"a/b"]


def array(*items: bytes) -> bytes:
    """Pack a MessagePack array of what is packed already."""
    return bytes([0x90 + len(items)]) + b"".join(items)


def text(value: bytes) -> bytes:
    """Pack a MessagePack string."""
    return b"\xda" + len(value).to_bytes(2) + value


META: Final = [text(b"token"), text(b"owner"), b"\x00", b"\x00", text(b"1700000000000"), text(b""), b"\x00", b"\x00"]
NO_COUNTS: Final = [
    *(b"\xff", b"\xc0", b"\xc3", text(b"1"), array(), b"\x80"),  # -1, nil, true, text, list, map
    *(b"\xcb\x7f\xf8" + bytes(6), b"\xcb\x7f\xf0" + bytes(6), b"\xcb\xff\xf0" + bytes(6)),  # NaN, inf, -inf
    *(b"\xcb\x3f\xe0" + bytes(6), b"\xcf" + b"\xff" * 8),  # 0.5, 2^64 - 1
]
COUNTS: Final = (2, 3, 6, 7)  # their places in META
WORDS: Final = (0, 1, 4, 5)


def with_item(place: int, item: bytes) -> bytes:
    """Pack a meta of which one item is another."""
    return array(*META[:place], item, *META[place + 1 :])


# Metas that nobody can have written who knows how.
NO_METAS: Final = [
    *(b"", b"|", b"|||||", b"a|b|c|d|e|f", b"t|o|-1|0|1|", b"t|o|1e9|0|1|", b"t|o|0|0|1|a b", b"t|o|0|0|1|a|b"),
    *(
        b"t|o|" + b"9" * 400 + b"|0|1|",
        b"t|o|0|0|" + b"9" * 400 + b"|",
        b"t|o|0|0||",
        b"\xff\xfe\0",
        b"\x98",
        b"\x97" * 900,
    ),
    *(b"\x98" * 5000, array(*META)[:-1], array(*META[:-1]), b"\xdf\xff\xff\xff\xff", b"\x98\xdb\xff\xff\xff\xff"),
    *(with_item(place, item) for place in COUNTS for item in NO_COUNTS),
    *(with_item(place, item) for place in WORDS for item in (b"\x01", b"\xc0", array(), b"\x80")),
    *(with_item(4, text(item)) for item in NO_NUMBERS),
    *(with_item(5, text(item)) for item in NO_JOB_IDS if item),
]

# Makes a job that was claimed, at one stroke: its id, its payload, its meta, and where it waits.
PLANT: Final = """
local id = ARGV[1]
if ARGV[2] == 'stream' then
  id = redis.call('XADD', KEYS[1], '*', 'job', ARGV[3])
else
  redis.call('HSET', KEYS[2], id, ARGV[3])
end
redis.call('HSET', KEYS[3], id, ARGV[4])
if KEYS[4] ~= KEYS[1] then redis.call('ZADD', KEYS[4], ARGV[5], id) end
return id
"""


class Fickle:
    """Answers each job, and blames some for what it says."""

    async def infer(self, job: Job) -> Output:
        await asyncio.sleep(0)
        if "blame" in job.payload:
            raise TransientError("refused", "no", prior="job", fingerprint=job.payload["blame"])
        return Output("4")

    async def ready(self) -> bool:
        return True

    async def aclose(self) -> None:
        pass


@dataclass
class Siege:
    """A queue, its worker, and somebody who writes into every key. `planted` is each payload that must be put aside."""

    kind: str
    client: Redis
    jobs: Jobs
    admin: QueueClient
    working: asyncio.Task[bool]
    rnd: random.Random
    planted: list[bytes] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    number: int = 0

    def key(self, part: str) -> str:
        return self.jobs.keys.of(part)

    def next(self) -> int:
        self.number += 1
        return self.number

    async def good(self) -> None:
        """Hand in good jobs, one of them with its binding overwritten; each is answered."""
        ids = [f"good-{self.next()}" for _ in range(2)]
        unused = [id_ for id_ in NO_IDS if not self.client.hexists(self.key("open"), id_)]  # it would be a conflict
        self.client.hset(self.key("bound"), ids[0], self.rnd.choice(unused))
        self.jobs.add(*(orjson.dumps({"job_id": job_id}) for job_id in ids))
        await self.until(lambda: all(self.jobs.result(job_id) == "4" for job_id in ids))

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait, as long as the worker lives."""

        def holds() -> object:
            if self.working.done():
                self.working.result()
            return condition()

        try:
            await eventually(holds)
        except Exception as error:
            error.add_note("\n".join(self.said))
            raise

    def act(self) -> None:
        """Do one hostile thing."""
        acts = [self.meta, self.place, self.count, self.name, self.blame, self.claim_memory, self.call, self.record]
        acts += [self.job_class, self.later]
        if self.kind == "list":
            acts.append(self.id)
        act = self.rnd.choice(acts)
        self.said.append(f"{act.__name__}: {act()}")

    def plant(self, id_: bytes, meta: bytes, part: str) -> None:
        payload = orjson.dumps({"job_id": f"planted-{self.next()}"})
        keys = [self.jobs.name, self.key("open"), self.key("meta"), self.key(part) if part else self.jobs.name]
        self.client.eval(PLANT, len(keys), *keys, id_, self.kind, payload, meta, 1)  # type: ignore[no-untyped-call]
        self.planted.append(payload)
        if part == "held":
            self.client.hset(self.key("control"), "held", 1)

    def meta(self) -> str:
        meta, part = self.rnd.choice(NO_METAS), self.rnd.choice(["ready", "suspect", "delayed", "lease", "held", ""])
        self.plant(str(10**15 + self.number).encode(), meta, part)
        return f"{meta[:200]!r} of a job in {part}"

    def id(self) -> str:
        id_, part = self.rnd.choice(NO_IDS), self.rnd.choice(["ready", "suspect", "delayed", "lease"])
        if self.client.hexists(self.key("open"), id_):
            return "nothing"
        self.plant(id_, array(*META), part)
        return f"{id_[:50]!r} in {part}"

    def place(self) -> str:
        id_, part = self.rnd.choice(NO_IDS), self.rnd.choice(["ready", "suspect", "delayed", "lease", "held"])
        score = self.rnd.choice([0, 1, 1.5, -1e300, FAR, float("inf"), float("-inf")])
        self.client.zadd(self.key(part), {id_: score})
        if self.rnd.random() < 0.5:
            self.client.hset(self.key("meta"), id_, self.rnd.choice([*NO_METAS, array(*META)]))
        return f"{id_[:50]!r} in {part} at {score}"

    def count(self) -> str:
        counters = [f"n_{name}" for name in ("claimed", "succeeded", "failed", "dead", "reaped", "released")]
        fields = ["clock", "time", "offset", "amnesty", "blamed", "held", "last", "displaced", "strays", *counters]
        name, value = self.rnd.choice(fields), self.rnd.choice([*NO_NUMBERS, *NO_IDS, b"(1-1-1", b"(", b"9" * 15])
        if name in {"amnesty", "offset", "last"} and value == b"9" * 15:
            return "nothing"  # a number like any other: it means what it says
        self.client.hset(self.key("control"), name, value)
        return f"{name} is {value[:50]!r}"

    def job_class(self) -> str:
        id_ = self.rnd.choice([*NO_IDS, *self.client.hkeys(self.key("meta"))])
        value = self.rnd.choice([*NO_NUMBERS, b"interactive", b"background", b"standard"])
        self.client.hset(self.key("class"), id_, value)
        return f"{id_[:50]!r} has the class {value[:50]!r}"

    def later(self) -> str:
        name, score = self.rnd.choice([*NO_IDS, *NO_JOB_IDS]), self.rnd.choice([0, 1.5, -1e300, float("-inf")])
        self.client.zadd(self.key("later"), {name: score})
        return f"{name[:50]!r} is due at {score}"

    def name(self) -> str:
        name, score = self.rnd.choice([*NO_IDS, *NO_METAS]), self.rnd.choice([0, 1, FAR, float("-inf")])
        self.client.zadd(self.key("workers"), {name: score})
        return f"a worker {name[:50]!r}"

    def blame(self) -> str:
        value = self.rnd.choice([*NO_NUMBERS, b"9223372036854775807"])
        self.client.hset(self.key("blame"), "f", value)
        self.jobs.add(orjson.dumps({"job_id": f"blamed-{self.next()}", "blame": "f"}))
        return f"{value!r}"

    def claim_memory(self) -> str:
        for key in self.client.scan_iter(self.key("claim:*")):
            known = self.client.get(key) or b""
            value = self.rnd.choice([*NO_IDS, known[:33] + b",,|\xff,9,1-1,nan", known + b",1-1-1"])
            self.client.set(key, value)
        return "overwritten"

    def call(self) -> str:
        message = self.rnd.choice([b"gone \xff\xfe", b"gone", b"gone ", b"", b"\xff", b"ready" * 1000])
        self.client.publish(self.jobs.keys.bell, message)
        return repr(message[:50])

    def record(self) -> str:
        job_id = f"good-{self.number + 1}"
        self.client.hset(f"job:{job_id}", mapping={"submitted_ms": b"\xff\0", "state": b"\xff", b"\xff": b"\xff"})
        return job_id


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@contextlib.asynccontextmanager
async def besieged(kind: str, url: str, client: Redis, seed: int) -> AsyncIterator[Siege]:
    """Let a worker work, of which nothing may end but `stop`."""
    redis, options = RedisOptions(url=url), QueueOptions(lease=2.0)
    async with contextlib.AsyncExitStack() as stack:
        admin = await stack.enter_async_context(contextlib.aclosing(await open_client(kind, redis, options)))
        queue = await open_queue(kind, redis, options)
        worker = Worker(queue, Fickle(), concurrency=4, heartbeat=options.heartbeat, max_bytes=MAX_BYTES, drain=1.0)
        working = asyncio.create_task(worker.run())
        try:
            yield Siege(kind, client, KINDS[kind](client), admin, working, random.Random(seed))
        finally:
            worker.stop()
            await asyncio.wait({working})
        working.result()


async def letters(admin: QueueClient) -> Counter[tuple[str, bytes]]:
    return Counter([(letter.code, letter.payload) async for letter in admin.dead()])


# Payloads


NAMES: Final = ["job_id", "prompt", "metadata", "deadline", "created_at", "traceparent", "model", "", "payload", "\0"]
VALUES: Final = [None, True, -1, 1.5, "", "a|b", "\0", "\u2028", [], {}, [[]], {"": None}, "x" * 200]
IN_FRONT: Final = [b"\xef\xbb\xbf", b"[", b'"', b"\0", b"\n", b'{"job_id":']
OTHERS: Final = [b"[%d]", b'"%d"', b"%d", b"x" * (MAX_BYTES + 1) + b"%d"]


def junk(rnd: random.Random, number: int) -> bytes:
    """Make a payload that somebody may send: broken, or whole with a part that is not what it should be."""
    whole = orjson.dumps(
        {"job_id": f"j-{number}", "n": number, rnd.choice(NAMES): rnd.choice([*VALUES, f"n-{number}"])}
    )
    at, unique = rnd.randrange(len(whole)), b"%d" % number
    nested = b"[" * rnd.choice([63, 65, 2000]) + b"]" * 64
    made: list[Callable[[], bytes]] = [
        lambda: whole,
        lambda: whole[:-1] + b',"much":' + b"9" * rnd.choice([30, 400, 3000]) + b"}",
        lambda: whole[:at] + unique,
        lambda: rnd.randbytes(rnd.randrange(40)) + unique,
        lambda: rnd.choice(OTHERS) % number,
        lambda: whole[:at] + rnd.randbytes(rnd.randrange(1, 4)) + whole[at + 1 :],
        lambda: b'{"job_id":"j-%d","n":' % number + nested + b"}",
        lambda: rnd.choice(IN_FRONT) + whole,
    ]
    return rnd.choice(made)()


def expected(payload: bytes, default_job_id: str | None = None) -> str:
    """Say with which code it is to be put aside; empty: it is run."""
    try:
        decode(payload, max_bytes=MAX_BYTES, default_job_id=default_job_id)
    except BadInputError as error:
        return error.code
    return ""


@pytest.mark.parametrize("seed", SEEDS)
async def test_any_payload_is_run_or_put_aside_once_with_its_bytes(
    client: Redis, redis_url: str, kind: str, seed: int
) -> None:
    async with besieged(kind, redis_url, client, seed) as siege:
        payloads = list({junk(siege.rnd, number): None for number in range(MANY)})
        siege.jobs.add(*payloads)
        await siege.until(lambda: siege.jobs.ended() == len(payloads))
        default = None if kind == "list" else "1-1"
        codes = {payload: expected(payload, default) for payload in payloads}
        assert {"", "too_large", "not_json", "not_an_object", "bad_job_id", "bad_field"} == set(codes.values())
        # Two payloads may have the same id, by chance.
        found = Counter({each: n for each, n in (await letters(siege.admin)).items() if each[0] != "conflict"})
        assert found == Counter([(code, payload) for payload, code in codes.items() if code])
        await siege.good()
        for id_ in [letter.id async for letter in siege.admin.dead()]:
            assert await siege.admin.replay(id_)
        await siege.until(lambda: siege.jobs.left() == 0)
        again = Counter({each: n for each, n in (await letters(siege.admin)).items() if each[0] != "conflict"})
        assert again == found
        await siege.good()


@pytest.mark.parametrize("seed", SEEDS)
async def test_any_entry_of_a_stream_is_run_or_put_aside_once(client: Redis, redis_url: str, seed: int) -> None:
    async with besieged("stream", redis_url, client, seed) as siege:
        rnd, right = siege.rnd, Counter[tuple[str, bytes]]()
        names = [b"job", b"job_id", b"prompt", b"", b"\xff", b"\0", b"job\n", b"x" * 5000, b'"', b"{"]
        for number in range(MANY):
            payload = rnd.choice([junk(rnd, number), b'{"n":%d}' % number, b"not JSON %d" % number])
            job_id = rnd.choice([*NO_JOB_IDS, b"named-%d" % number])
            fields = [(b"job", payload), (b"job_id", job_id)][:: rnd.choice([1, -1])]
            if rnd.random() < 0.4:
                fields = [(rnd.choice(names), rnd.choice([payload, job_id])) for _ in range(rnd.randrange(3, 6))]
            elif code := expected(payload, job_id.decode(errors="replace") or None):
                right[code, payload] += 1
            client.execute_command("XADD", "jobs", "*", *(word for pair in fields for word in pair))
        await siege.until(lambda: siege.jobs.ended() == MANY)
        assert siege.jobs.left() == 0
        found = await letters(siege.admin)
        assert right <= found
        named = {letter.job_id async for letter in siege.admin.dead() if letter.job_id is not None}
        assert all(JOB_ID.fullmatch(job_id) for job_id in named)
        assert all(JOB_ID.fullmatch(key.removeprefix(b"job:").decode()) for key in client.keys("job:*"))
        await siege.good()


async def test_an_entry_that_is_named_as_no_job_can_be_stops_no_worker_when_it_is_replayed(
    client: Redis, redis_url: str
) -> None:
    async with besieged("stream", redis_url, client, 0) as siege:
        for job_id in NO_JOB_IDS:
            client.xadd("jobs", {"job": b"not JSON", "job_id": job_id})
            client.xadd("jobs", {"job": b'{"prompt":"Hello"}', "job_id": job_id})
        await siege.until(lambda: siege.jobs.ended() == 2 * len(NO_JOB_IDS))
        found = await letters(siege.admin)
        assert found == {
            ("not_json", b"not JSON"): len(NO_JOB_IDS),
            ("bad_job_id", b'{"prompt":"Hello"}'): len(NO_JOB_IDS),
        }
        for letter in [letter async for letter in siege.admin.dead()]:
            assert letter.job_id is None
            assert await siege.admin.replay(letter.id)
        await siege.until(lambda: siege.jobs.left() == 0)
        assert await letters(siege.admin) == {("not_json", b"not JSON"): len(NO_JOB_IDS)}
        await siege.good()


# Keys


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_somebody_writes_into_our_keys_good_jobs_are_answered(
    client: Redis, redis_url: str, kind: str, seed: int
) -> None:
    async with besieged(kind, redis_url, client, seed) as siege:
        for _ in range(ROUNDS):
            siege.said.clear()
            for _ in range(siege.rnd.randrange(1, 6)):
                siege.act()
            await siege.good()
        for part in ("ready", "suspect", "delayed", "lease", "held"):  # what waits for ever would hide what is missing
            client.zrem(siege.key(part), *NO_IDS)
        client.hdel(siege.key("control"), "amnesty", "blamed")
        await siege.until(lambda: not set(siege.planted) & set(open_payloads(siege)))
        found = await letters(siege.admin)
        mine = {each: n for each, n in found.items() if each[0] != "refused"}
        assert mine == {("unreadable", payload): 1 for payload in siege.planted}
        await siege.admin.depth()
        await siege.good()


def open_payloads(siege: Siege) -> list[bytes]:
    if siege.kind == "list":
        return siege.client.hvals(siege.key("open"))
    return [fields.get(b"job", b"") for _, fields in siege.client.xrange(siege.jobs.name)]


# Doors within a process


@pytest.mark.parametrize("job_id", [*(each.decode(errors="replace") for each in NO_JOB_IDS), 7, None])
def test_a_job_that_a_program_builds_has_a_usable_id(job_id: Any) -> None:
    with pytest.raises(ValidationError):
        Job(job_id=job_id)


@pytest.mark.parametrize("seed", SEEDS)
async def test_any_bytes_in_the_queue_of_one_process(seed: int) -> None:
    rnd, queue = random.Random(seed), MemoryQueue()
    worker = Worker(queue, Fickle(), concurrency=4, heartbeat=1.0, max_bytes=MAX_BYTES)
    working = asyncio.create_task(worker.run())
    payloads = list({junk(rnd, number): None for number in range(MANY)})
    await queue.put([(f"p-{number}", payload) for number, payload in enumerate(payloads)])
    await queue.put([("good", b'{"job_id":"good"}')])
    await eventually(lambda: not queue._store.waiting and not queue._store.open)  # noqa: SLF001  asked without a pause
    assert await queue.result("good") == b"4"
    worker.stop()
    await working
    found = Counter({each: n for each, n in (await letters(queue)).items() if each[0] != "conflict"})
    assert found == Counter([(code, payload) for payload in payloads if (code := expected(payload))])


@pytest.mark.parametrize("seed", SEEDS)
def test_any_line_of_a_batch_is_one_request_or_one_fault(seed: int) -> None:
    rnd = random.Random(seed)
    lines = [junk(rnd, number).replace(b"\n", b"").replace(b"\r", b"") for number in range(MANY)]
    requests = list(read_requests(io.BytesIO(b"\n".join(lines)), max_bytes=MAX_BYTES))
    assert len(requests) == len(lines)
    for line, request in zip(lines, requests, strict=True):
        assert (request is None) == (not line.strip())
        if request is not None and request.fault is None:
            assert expected(request.payload) in {"", "bad_field"}
