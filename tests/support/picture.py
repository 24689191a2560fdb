"""All of a queue, as it lies in Redis and as the ledger says that it must."""

from collections.abc import Iterable
from typing import Any, Final

from greenscale_worker.queues.redis_list.keys import OURS, Keys
from redis import Redis

from tests.support.entries import FOREIGN, LIVE_SECONDS, REMEMBERED_SECONDS, TOMBSTONE_SECONDS, read_letter
from tests.support.ledger import Ledger

Picture = dict[str, Any]

LIVES: Final = (LIVE_SECONDS, REMEMBERED_SECONDS, TOMBSTONE_SECONDS)

READ: Final = """
local found = {}
for i, key in ipairs(KEYS) do
  local kind, value = redis.call('TYPE', key).ok, {}
  if kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'string' then value = redis.call('GET', key)
  elseif kind ~= 'none' then value = {kind} end
  found[i] = {kind, value, redis.call('TTL', key)}
end
return found
"""


class Camera:
    """Takes pictures of a queue, in one round trip each."""

    def __init__(self, redis: Redis, keys: Keys, job_ids: list[str]) -> None:
        self._keys = keys
        self._job_ids = job_ids
        self._read = redis.register_script(READ)

    def take(self, owners: Iterable[str]) -> Picture:
        """Everything in Redis, and the last claims of these workers."""
        keys = self._keys
        public = {"records": keys.record, "results": keys.result, "tombstones": keys.cancel}
        names = [name(job_id) for name in public.values() for job_id in self._job_ids]
        found = self._read(keys=[*keys.base, *names, *(keys.claim(owner) for owner in owners)])
        picture: Picture = {"list": found[0][1]}
        for part, (kind, value, _) in zip(OURS, found[1:], strict=False):
            pairs = dict(zip(value[::2], value[1::2], strict=True))
            picture[part] = {id_: float(score) for id_, score in pairs.items()} if kind == b"zset" else pairs
        picture["dead"] = {id_: read_letter(letter) for id_, letter in picture["dead"].items()}
        rest = iter(found[len(keys.base) :])
        for part in public:
            kind = b"hash" if part == "records" else b"string"
            mine = zip(self._job_ids, rest, strict=False)
            picture[part] = {job_id: _readable(kind, *each) for job_id, each in mine if each[1]}
        picture["claims"] = {
            owner: _readable(b"string", *each) for owner, each in zip(owners, rest, strict=True) if each[1]
        }
        return picture


def _readable(right: bytes, kind: bytes, value: Any, ttl: int) -> Any:
    """Text and life in seconds, of which some may have passed; or the word for a foreign type."""
    if kind != right:
        return FOREIGN
    life = next((whole for whole in LIVES if whole - 600 < ttl <= whole), ttl)
    if kind == b"string":
        return value.decode(), life
    words = [word.decode() for word in value]
    return dict(zip(words[::2], words[1::2], strict=True)), life


def of(ledger: Ledger) -> Picture:
    """What `Camera.take` must find."""
    jobs = {str(id_).encode(): job for id_, job in ledger.open.items()}
    at_head = {id_: float(id_) for id_, job in jobs.items() if job.place == "ready"}
    control = {f"n_{name}": count for name, count in ledger.counters.items() if count}
    control |= {name: value for name in ("clock", "amnesty", "format") if (value := getattr(ledger, name))}
    if ledger.last is not None:
        control["last"] = ledger.last
    if ledger.paused:
        control["paused"] = 1
    return {
        "list": list(ledger.waiting) if ledger.setup.side == "LEFT" else list(ledger.waiting)[::-1],
        "ready": {id_: score for id_, score in at_head.items() if not jobs[id_].suspect},
        "suspect": {id_: score for id_, score in at_head.items() if jobs[id_].suspect},
        "delayed": {id_: float(job.until) for id_, job in jobs.items() if job.place == "delayed"},
        "lease": {id_: float(job.until) for id_, job in jobs.items() if job.place == "lease"},
        "open": {id_: job.payload for id_, job in jobs.items()},
        "meta": {id_: job.meta().encode() for id_, job in jobs.items()},
        "dead": {str(id_).encode(): (letter.header, letter.payload) for id_, letter in ledger.dead.items()},
        "control": {name.encode(): str(value).encode() for name, value in control.items()},
        "bound": {job_id.encode(): str(id_).encode() for job_id, id_ in ledger.bound.items()},
        "workers": {name.encode(): float(at) for name, at in ledger.workers.items()},
        "records": {job_id: _living(record, ledger.lifetimes.get(job_id)) for job_id, record in ledger.records.items()},
        "results": {job_id: _living(text, ledger.setup.ttl) for job_id, text in ledger.results.items()},
        "tombstones": dict.fromkeys(ledger.tombstones, ("1", TOMBSTONE_SECONDS)),
        "claims": {
            owner: (f"{nonce}|{','.join(map(str, ids))}", REMEMBERED_SECONDS)
            for owner, (nonce, ids, _) in ledger.claims.items()
        },
    }


def _living(value: Any, ttl: int | None) -> Any:
    return FOREIGN if value == FOREIGN else (value, ttl)
