"""All of a queue, as it lies in Redis and as the ledger says that it must."""

from collections.abc import Iterable
from typing import Any, Final

from redis import Redis

from greenscale_worker.queues.redis.keys import BASE, FLOW, LEDGER, OF_LISTS, RECENT, Keys
from tests.support.entries import (
    FINAL_SECONDS,
    FOREIGN,
    GROUP,
    LIVE_SECONDS,
    NOBODY,
    REMEMBERED_SECONDS,
    SCHEDULED_SECONDS,
    STRANGER,
    TOMBSTONE_SECONDS,
    Open,
    read_letter,
)
from tests.support.ledger import Ledger

Picture = dict[str, Any]

LIVES: Final = (SCHEDULED_SECONDS, LIVE_SECONDS, REMEMBERED_SECONDS, FINAL_SECONDS)

READ: Final = """
local found = {}
for i, key in ipairs(KEYS) do
  local kind, value = redis.call('TYPE', key).ok, {}
  if kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'stream' then
    local entries, pending = redis.call('XRANGE', key, '-', '+'), {}
    for _, each in ipairs(redis.pcall('XPENDING', key, ARGV[1], '-', '+', 9999)) do pending[each[1]] = each[2] end
    for _, each in ipairs(entries) do
      value[#value + 1] = {each[1], each[2][2], pending[each[1]] or ''}
      pending[each[1]] = nil
    end
    for id in pairs(pending) do value[#value + 1] = {id, 'pending, and not there', ''} end
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
        found = self._read(keys=[*keys.base, *names, *(keys.claim(owner) for owner in owners)], args=[GROUP])
        picture: Picture = {"source": found[0][1]}
        for part, (kind, value, _) in zip((*BASE, *keys.own), found[1:], strict=False):
            if part == FLOW and kind != b"list":
                pairs = zip(value[::2], value[1::2], strict=True)
                picture["turn times"] = {field: float(time) for field, time in pairs if field.startswith(b"turn|")}
            if part in {FLOW, LEDGER}:  # the rest of them has tests of its own
                continue
            if part in {RECENT, *OF_LISTS}:
                picture[part] = value
                continue
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
    name = ledger.setup.name
    letters = [(name(id_).encode(), letter) for id_, letter in ledger.dead.items()]
    jobs = {name(id_).encode(): job for id_, job in ledger.open.items()}
    places = {name(id_).encode(): float(ledger.place_of(id_)) for id_ in ledger.open}
    at_head = {id_: places[id_] for id_, job in jobs.items() if job.place == "ready"}
    control = {f"n_{name}": count for name, count in ledger.counters.items() if count}
    control |= {
        name: value
        for name in (
            "clock",
            "offset",
            "amnesty",
            "format",
            "blamed",
            "blamed_by",
            "accused",
            "answered",
            "healed",
            "noticed",
        )
        if (value := getattr(ledger, name))
    }
    if ledger.format == "2":
        control |= {"time": ledger.clock} if ledger.clock else {}
        control["clock"] = "format 2"
    if ledger.last is not None:
        control["last"] = ledger.last
    if ledger.tenancy.flag:
        control["tenants"] = ledger.tenancy.flag
    if ledger.tenancy.number is not None:
        control["turn"] = ledger.tenancy.number
    if ledger.paused:
        control["paused"] = 1
    if ledger.held:
        control["held"] = 1
    if ledger.back is not None:
        control["back"] = ledger.back
    if ledger.tidied:
        control["letters"] = 2
    of_stores: Picture = {"open": {id_: job.payload for id_, job in jobs.items()}}
    if ledger.setup.kind == "stream":
        of_stores = {}
    return (
        of_stores
        | {job_class: list(listed)[::-1] for job_class, listed in ledger.listed.items()}
        | {
            "class": {id_: written for id_, job in jobs.items() if (written := _class_of(job))},
            "turns": dict.fromkeys([*ledger.tenancy.members(), *ledger.in_lines_flight()], 0.0),
            "turns:payload": ledger.tenancy.members(),
            "turn times": ledger.tenancy.turn_times(),
            "later": {job_id.encode(): float(job.due) for job_id, job in ledger.later.items()},
            "later:payload": {
                job_id.encode(): job.job_class.encode() + b" " + job.payload for job_id, job in ledger.later.items()
            },
            "source": _source(ledger),
            "ready": {id_: score for id_, score in at_head.items() if not jobs[id_].suspect},
            "suspect": {id_: score for id_, score in at_head.items() if jobs[id_].suspect},
            "delayed": {id_: float(job.until) for id_, job in jobs.items() if job.place == "delayed"},
            "lease": {id_: float(job.until) for id_, job in jobs.items() if job.place == "lease"},
            "meta": {id_: job.meta() for id_, job in jobs.items()},
            "held": {id_: places[id_] for id_, job in jobs.items() if job.place == "held"},
            "blame": {name.encode(): f"{since}|{count}".encode() for name, (since, count) in ledger.blame.items()},
            "dead": {id_: (each.header, None if each.apart else each.payload) for id_, each in letters},
            "dead:payload": {id_: each.payload for id_, each in letters if each.apart},
            "dead:index": dict.fromkeys(ledger.index, 0.0),
            "control": {name.encode(): str(value).encode() for name, value in control.items()}
            | ({b"checked": ledger.tenancy.checked} if ledger.tenancy.checked else {}),
            "bound": {job_id.encode(): name(id_).encode() for job_id, id_ in ledger.bound.items()},
            "workers": {name.encode(): float(at) for name, at in ledger.workers.items()},
            "idle": {name.encode(): float(at) for name, at in ledger.idle.items()},
            "notify": {job_id.encode(): b"1" for job_id in ledger.notify},
            "notices": {notice.encode(): float(id_) for id_, notice in ledger.notices.items()},
            "recent": [entry.encode() for entry in ledger.recent],
            "records": {
                job_id: _living(record, ledger.lifetimes.get(job_id)) for job_id, record in ledger.records.items()
            },
            "results": {job_id: _living(text, ledger.setup.ttl) for job_id, text in ledger.results.items()},
            "tombstones": dict.fromkeys(ledger.tombstones, ("1", TOMBSTONE_SECONDS)),
            "claims": {
                owner: (f"{nonce}|{','.join(map(name, ids))}", REMEMBERED_SECONDS)
                for owner, (nonce, ids, _) in ledger.claims.items()
            },
        }
    )


def _source(ledger: Ledger) -> list[Any]:
    """What producers have written to: of a stream each entry's id, payload, and whose it is."""
    if ledger.setup.kind == "list":
        return list(ledger.waiting) if ledger.setup.side == "LEFT" else list(ledger.waiting)[::-1]
    entries = {id_: (payload, "") for id_, payload in zip(ledger.arrivals, ledger.waiting, strict=True)}
    entries |= {id_: (payload, STRANGER) for id_, payload in ledger.strays.items()}
    for id_, job in ledger.open.items():
        entries[id_] = (job.payload, job.owner if job.place == "lease" else NOBODY)
    return [
        [ledger.setup.name(id_).encode(), payload, owner.encode()] for id_, (payload, owner) in sorted(entries.items())
    ]


def _class_of(job: Open) -> bytes:
    if job.tenant:
        return f"{job.job_class} {job.tenant} 0".encode()
    return b"" if job.job_class == "standard" else job.job_class.encode()


def _living(value: Any, ttl: int | None) -> Any:
    return FOREIGN if value == FOREIGN else (value, ttl)
