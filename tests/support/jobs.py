"""What was pushed to a list or a stream, and what has become of it: the accounts must balance."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from greenscale_worker.queues.redis.keys import OF_LISTS, Keys
from greenscale_worker.queues.redis.list import ListStore
from greenscale_worker.queues.redis.stream import StreamStore

NO_ID: Final = re.compile("[^A-Za-z0-9-]")
NOTHING: Final[Mapping[str, str]] = {}
GROUP: Final = "greenscale"
NOBODY: Final = "-"
FORMAT_2: Final = b"\x98"  # the first byte of an array of eight, as msgpack packs it


class Jobs:
    """The jobs of one list, seen by producer and readers; ids are `<list>-<name>`, so that there may be many lists.

    `client` is a plain one of redis-py, to the server that the workers use.
    """

    own: tuple[str, ...] = ListStore.own
    named_by = "REDIS_LIST_NAME"

    def __init__(self, client: Any, name: str = "jobs") -> None:
        self.client = client
        self.keys = Keys(name, self.own)
        self.pushed: list[str] = []

    @property
    def name(self) -> str:
        return self.keys.name

    def id(self, name: object) -> str:
        return NO_ID.sub("", f"{self.name}-{name}")

    def push(self, *names: object, right: bool = False, **fields: Any) -> list[str]:
        """Push jobs as a producer would; the prompt is the id."""
        ids = [self.id(name) for name in names]
        payloads = [orjson.dumps({"job_id": job_id, "prompt": job_id, **fields}) for job_id in ids]
        self.add(*payloads, right=right)
        self.pushed += ids
        return ids

    def add(self, *payloads: bytes, right: bool = False) -> None:
        """Push anything."""
        push = self.client.rpush if right else self.client.lpush
        push(self.name, *payloads)

    def left(self) -> int:
        """How many have not ended, as KEDA counts them."""
        return int(self.client.llen(self.name)) + self.listed() + self.size("open")

    def listed(self) -> int:
        """How many wait in the lists of the other classes."""
        return sum(int(self.client.llen(self.keys.of(job_class))) for job_class in OF_LISTS)

    def unclaimed(self) -> list[bytes]:
        """The payloads that no worker has come to, the oldest first."""
        return list(reversed(self.client.lrange(self.name, 0, -1)))

    def payloads(self, ids: Sequence[bytes]) -> list[bytes]:
        """The payloads of claimed jobs."""
        return self.client.hmget(self.keys.of("open"), ids) if ids else []

    def result(self, job_id: str) -> str | None:
        answer: bytes | None = self.client.get(self.keys.result(job_id))
        return None if answer is None else answer.decode()

    def record(self, job_id: str) -> dict[str, str]:
        fields: dict[bytes, bytes] = self.client.hgetall(self.keys.record(job_id))
        return {name.decode(): value.decode() for name, value in fields.items()}

    def answered(self) -> list[str]:
        """Those that have a result."""
        return [job_id for job_id in self.pushed if self.client.exists(self.keys.result(job_id))]

    def size(self, part: str) -> int:
        """How many jobs there are in one of our own keys (`open`, `ready`, `dead` …)."""
        key = self.keys.of(part)
        return int(self.client.hlen(key) if part in {"open", "meta", "dead", "bound"} else self.client.zcard(key))

    def ended(self) -> int:
        """How many were answered, are dead letters, were cancelled or folded into their twin."""
        counters = ("n_succeeded", "n_dead", "n_cancelled", "n_duplicate")
        return sum(int(count or 0) for count in self.client.hmget(self.keys.of("control"), counters))

    def queued(self) -> list[str]:
        """The ids of what nobody holds, in the order in which it would be claimed."""
        ready = self.client.zrange(self.keys.of("ready"), 0, -1)
        return [orjson.loads(payload)["job_id"] for payload in [*self.payloads(ready), *self.unclaimed()]]

    def letters(self) -> list[tuple[dict[str, Any], bytes]]:
        """The dead letters: header and payload."""
        payloads: Any = self.client.hgetall(self.keys.of("dead:payload"))
        letters: Any = self.client.hgetall(self.keys.of("dead"))
        found = []
        for id_, letter in letters.items():
            header, _, payload = letter.partition(b"\n")
            found.append((orjson.loads(header.decode(errors="replace")), payloads.get(id_, payload)))
        return found

    def leased(self) -> set[str]:
        """The ids of what some worker holds, or held when it died."""
        ids = self.client.zrange(self.keys.of("lease"), 0, -1)
        return {orjson.loads(payload)["job_id"] for payload in self.payloads(ids)}

    def counted(self) -> set[tuple[str, str]]:
        """Tries and crashes of the jobs that are open."""
        return {(tries, crashes) for _, _, tries, crashes, *_ in self.metas().values()}

    def metas(self) -> dict[bytes, list[str]]:
        """What is known of the jobs that are open: token, owner, tries (format 2: thousandths), crashes and more."""
        found: Any = self.client.hgetall(self.keys.of("meta"))
        return {id_: self._words(meta) for id_, meta in found.items()}

    def _words(self, meta: bytes) -> list[str]:
        if meta[:1] != FORMAT_2:
            return meta.decode().split("|")
        packed: Any = self.client.eval("return cjson.encode(cmsgpack.unpack(ARGV[1]))", 0, meta)
        return [str(word) for word in orjson.loads(packed)]

    def all_ended(self) -> bool:
        """Whether everything pushed has ended. Fails the test at once where more has ended than was pushed."""
        return self.ended() >= len(self.pushed)

    def check(self, *, failed: Mapping[str, str] = NOTHING, cancelled: Collection[str] = ()) -> None:
        """Every job has ended exactly once, and nothing is left of it but what readers are meant to read.

        `failed` tells which are to be dead letters, and with which code; all but those and `cancelled` have answers.
        """
        assert self.ended() == len(self.pushed), "something ended twice, or not at all"
        assert self.left() == 0, "something is left"
        for part in ("meta", "lease", "ready", "suspect", "delayed", "held", "bound"):
            assert self.size(part) == 0, f"{part} is not empty"
        letters = {header["job_id"]: header["code"] for header, _ in self.letters()}
        assert letters == dict(failed)
        assert len(self.letters()) == len(failed)
        for job_id in self.pushed:
            state = "failed" if job_id in failed else "cancelled" if job_id in cancelled else "succeeded"
            assert (job_id, self.record(job_id).get("state")) == (job_id, state)
            answer = self.result(job_id)
            assert (answer is not None) == (state == "succeeded"), job_id
            assert answer is None or answer.startswith(job_id), answer

    def undisturbed(self, job_ids: Iterable[str]) -> None:
        """Each was run once, without a crash: no lease has expired on the way."""
        for job_id in job_ids:
            record = self.record(job_id)
            assert (job_id, record.get("attempts"), record.get("crashes")) == (job_id, "1", "0")

    def nothing_left_behind(self) -> None:
        """No worker is on the books any more, as after exit code 0."""
        assert self.size("lease") == 0
        assert self.size("workers") == 0
        assert not list(self.client.scan_iter(self.keys.of("claim:*").replace("[", "\\[")))


class StreamJobs(Jobs):
    """The same of a stream. Its consumer group is the workers' default."""

    own = StreamStore.own
    named_by = "REDIS_STREAM_NAME"

    def add(self, *payloads: bytes, right: bool = False) -> None:
        """Add anything; a stream has one end."""
        assert not right
        for payload in payloads:
            self.client.xadd(self.name, {"job": payload})

    def left(self) -> int:
        return int(self.client.xlen(self.name)) + self.listed()

    def unclaimed(self) -> list[bytes]:
        claimed = set(self.client.hkeys(self.keys.of("meta")))
        return [fields[b"job"] for id_, fields in self.client.xrange(self.name) if id_ not in claimed]

    def payloads(self, ids: Sequence[bytes]) -> list[bytes]:
        return [fields[b"job"] for id_ in ids for _, fields in self.client.xrange(self.name, id_, id_)]

    def has_group(self) -> bool:
        groups = self.client.xinfo_groups(self.name) if self.client.exists(self.name) else []
        return any(group["name"] == GROUP.encode() for group in groups)

    def pending(self) -> dict[str, set[bytes]]:
        """The entries that each consumer of the group has to acknowledge."""
        pending: dict[str, set[bytes]] = defaultdict(set)
        for entry in self.client.xpending_range(self.name, GROUP, "-", "+", 10_000) if self.has_group() else []:
            pending[entry["consumer"].decode()].add(entry["message_id"])
        return pending

    def consumers(self) -> set[str]:
        """The consumers that the group knows, with or without something pending."""
        found = self.client.xinfo_consumers(self.name, GROUP) if self.has_group() else []
        return {consumer["name"].decode() for consumer in found}

    def held(self) -> dict[str, set[bytes]]:
        """The entries that each worker holds by our own books; what was claimed and waits again is nobody's."""
        leased = set(self.client.zrange(self.keys.of("lease"), 0, -1))
        held: dict[str, set[bytes]] = defaultdict(set)
        for id_, (_, owner, *_) in self.metas().items():
            held[owner if id_ in leased else NOBODY].add(id_)
        return held

    def check(self, *, failed: Mapping[str, str] = NOTHING, cancelled: Collection[str] = ()) -> None:
        super().check(failed=failed, cancelled=cancelled)
        assert self.pending() == {}, "something was not acknowledged"

    def nothing_left_behind(self) -> None:
        super().nothing_left_behind()
        assert self.consumers() <= {NOBODY}


KINDS: Final[Mapping[str, type[Jobs]]] = {"list": Jobs, "stream": StreamJobs}
