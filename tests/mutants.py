"""Seeded defects: one small change in one script each. The model has to notice every one of them."""

from dataclasses import dataclass
from importlib import resources
from typing import Final

from greenscale_worker.queues import redis_protocol
from tests.support.actors import STORES, sources
from tests.support.entries import Kind


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defect in `file`.lua, looked for in a queue of this `kind`: `right` becomes `wrong`."""

    name: str
    file: str
    right: str
    wrong: str = ""
    kind: Kind = "list"

    def scripts(self) -> dict[str, bytes]:
        """Load all scripts with the defect in them; that in the prelude is in every one."""
        protocol, package = resources.files(redis_protocol), STORES[self.kind].package
        parts = {"prelude": protocol.joinpath("prelude.lua").read_bytes()}
        parts["store"] = resources.files(package).joinpath("store.lua").read_bytes()
        head = b"".join(parts.values())
        bodies = {name: source.removeprefix(head) for name, source in sources(self.kind).items()}
        sound = (parts | bodies)[self.file]
        if sound.count(self.right.encode()) != 1:
            raise ValueError(f"{self.file}.lua must contain this exactly once: {self.right}")
        broken = sound.replace(self.right.encode(), self.wrong.encode())
        if self.file in parts:
            head = b"".join((parts | {self.file: broken}).values())
            return {name: head + body for name, body in bodies.items()}
        return {name: head + body for name, body in (bodies | {self.file: broken}).items()}


MUTANTS: Final = [
    # What all scripts share
    Mutant("types are not guarded", "prelude", "if found ~= 'none' and found ~= wanted then", "if false then"),
    Mutant("one key's type is not guarded", "prelude", "'hash', 'hash', 'zset', own}", "'hash', 'hash', nil, own}"),
    Mutant("meta is kept", "prelude", "  store.drop(id)\n  call('HDEL', META, id)\n  if", "  store.drop(id)\n  if"),
    Mutant(
        "a lease outlives its job",
        "prelude",
        "call('ZREM', LEASE, id) == 0 and call('ZREM', READY",
        " call('ZREM', READY",
    ),
    Mutant("a redelivery outlives its job", "prelude", " and call('ZREM', READY, id) == 0"),
    Mutant("a suspect outlives its job", "prelude", "then\n    call('ZREM', SUSPECT, id)\n", "then\n"),
    Mutant("a binding outlives its job", "prelude", "if m.job_id ~= '' and call(", "if m.job_id == '' and call("),
    Mutant("requeued, still leased", "prelude", "write_meta(id, m)\n  call('ZREM', LEASE, id)", "write_meta(id, m)"),
    Mutant("due, still delayed", "prelude", "  call('ZREM', DELAYED, id)\n  call('ZADD'", "  call('ZADD'"),
    Mutant(
        "requeued at the tail",
        "prelude",
        "SUSPECT or READY, store.place(id), id)",
        "SUSPECT or READY, digits(micros), id)",
    ),
    Mutant("suspects wait with the others", "prelude", "m.crashes >= SUSPECT_CRASHES and SUSPECT or READY", "READY"),
    Mutant(
        "a dead letter loses its payload",
        "prelude",
        "  local payload = store.payload(id) or ''\n  forget(id, m)\n",
        "  forget(id, m)\n  local payload = store.payload(id) or ''\n",
    ),
    Mutant(
        "a line feed in a message hides the payload",
        "prelude",
        "cjson.encode(header) .. '\\n' .. payload",
        "string.gsub(cjson.encode(header), '\\\\n', '\\n') .. '\\n' .. payload",
    ),
    Mutant(
        "a bar in a reason hides the payload",
        "prelude",
        "return cjson.decode(string.sub(letter, 1, feed - 1)), string.sub(letter, feed + 1)",
        "return cjson.decode(string.sub(letter, 1, feed - 1)), string.match(letter, '^[^|]*\\n(.*)$')",
    ),
    Mutant("no amnesty", "prelude", "if now < tonumber(call('HGET', CONTROL, 'amnesty') or '0') then", "if false then"),
    Mutant(
        "amnesty ends too early", "prelude", "'amnesty', digits(now + 2 * beat_ms)", "'amnesty', digits(now + beat_ms)"
    ),
    Mutant("a clock that goes back is not noticed", "prelude", "if now < clock - 1000 then  --", "if false then  --"),
    Mutant("the clock is not kept", "prelude", "  call('HSET', CONTROL, 'clock', digits(now))\n"),
    Mutant(
        "leases are reaped before their time", "prelude", "'-inf', '(' .. digits(now)", "'-inf', digits(now + 1000)"
    ),
    Mutant("crashes are not counted", "prelude", "m.crashes = m.crashes + 1"),
    Mutant(
        "reaping buries",
        "prelude",
        "if m.crashes >= max_crashes + BURIAL_MARGIN then",
        "if m.crashes >= max_crashes then",
    ),
    Mutant(
        "what kills every reader comes back for ever",
        "prelude",
        "if m.crashes >= max_crashes + BURIAL_MARGIN then",
        "if false then",
    ),
    Mutant(
        "the time of submission is lost",
        "prelude",
        "if submitted then call('HSET', key, 'submitted_ms', submitted) end",
    ),
    Mutant("a foreign type is written onto", "prelude", "if foreign then call('DEL', key) end"),
    Mutant("a foreign type is not reported", "prelude", "  return foreign\n", "  return false\n"),
    Mutant("records live for ever", "prelude", "  call('EXPIRE', key, ttl)\n"),
    Mutant(
        "a delay outlives a clock that went back",
        "prelude",
        "for _, id in ipairs(call('ZRANGE', DELAYED, 0, -1)) do call('ZINCRBY', DELAYED, digits(now - clock), id) end",
    ),
    Mutant(
        "workers of the future are alive", "prelude", "call('ZREMRANGEBYSCORE', WORKERS, '(' .. digits(now), '+inf')"
    ),
    Mutant("those buried are not named", "prelude", "if m.job_id ~= '' then push(buried, id, m.job_id) end"),
    Mutant("reaping knows no limit", "prelude", "'(' .. digits(now), 'LIMIT', 0, BATCH)", "'(' .. digits(now))"),
    # claim
    Mutant("a repeated claim takes more", "claim", "if last_claim and string", "if false and string"),
    Mutant(
        "a repeated claim gives what is another's", "claim", "and string.sub(m.token, 1, #nonce + 1) == nonce .. ':' "
    ),
    Mutant("a repeated claim gives what was reaped", "claim", " and call('ZSCORE', LEASE, id) then", " then"),
    Mutant(
        "a repeated claim does not prolong",
        "claim",
        "call('ZADD', LEASE, digits(now + lease_ms), id)\n      if store",
        "if store",
    ),
    Mutant("the wrong end", "store", "'LPOP', 'RPUSH'", "'RPOP', 'RPUSH'"),
    Mutant("ids repeat", "store", "or '0')) + 1, micros)", "or '0')), micros)"),
    Mutant(
        "ids repeat after a failover",
        "store",
        "last = math.max((last or tonumber(call('HGET', CONTROL, 'last') or '0')) + 1, micros)",
        "last = math.max((last or tonumber(call('HGET', CONTROL, 'last') or micros)) + 1)",
    ),
    Mutant("tokens repeat", "claim", "nonce .. ':' .. (#given + 1), owner", "'token:' .. (#given + 1), owner"),
    Mutant("a claim is not remembered", "claim", "'EX', REMEMBERED)", "'EX', 30)"),
    Mutant("too large, and yet given", "claim", "if #payload > LARGEST then", "if false then"),
    Mutant(
        "ids are given again by the next claim",
        "store",
        "digits(last or tonumber(call('HGET', CONTROL, 'last') or '0'))",
        "'0'",
    ),
    Mutant("no cap on bytes", "claim", "#given < n and bytes < max_bytes", "#given < n"),
    Mutant("many suspects at once", "claim", "    may_suspect = false\n"),
    Mutant(
        "suspects jump the queue",
        "claim",
        "if suspect and not (ready and tonumber(store.place(ready)) < tonumber(store.place(suspect))) then",
        "if suspect then",
    ),
    Mutant(
        "fresh jobs jump the queue",
        "claim",
        "while room() do\n  local id, from",
        "while room() and call('LLEN', SOURCE) == 0 do\n  local id, from",
    ),
    Mutant("a pause is ignored", "claim", "call('HEXISTS', CONTROL, 'paused') == 1", "false"),
    Mutant("it oversleeps", "claim", "math.min(due_next, expires_next)", "math.max(due_next, expires_next)"),
    Mutant("it rests beside what the cap left", "claim", " or (bytes >= max_bytes and #given < n)"),
    Mutant("it rests beside more that was due", "claim", " or #due == BATCH"),
    Mutant("it rests beside more that has expired", "claim", "reaped == BATCH or "),
    Mutant(
        "it wakes before the amnesty ends",
        "claim",
        "math.max(expires_next, tonumber(",
        "math.min(expires_next, tonumber(",
    ),
    Mutant(
        "a job does not know its worker",
        "claim",
        "nonce .. ':' .. (#given + 1), owner",
        "nonce .. ':' .. (#given + 1), ''",
    ),
    # bind
    Mutant("bind: any token", "bind", "m.token ~= token or "),
    Mutant("bind: without a lease", "bind", " or not call('ZSCORE', LEASE, id)"),
    Mutant(
        "another payload is folded",
        "bind",
        "if store.payload(other) ~= store.payload(id) then return 'CONFLICT' end",
    ),
    Mutant("a duplicate stays", "bind", "    forget(id, m)\n    count('duplicate')", "    count('duplicate')"),
    Mutant("a duplicate runs", "bind", "if other then", "if false then"),
    Mutant("a tombstone is not consumed", "bind", "call('DEL', tombstone)", "call('EXISTS', tombstone)"),
    Mutant("a tombstone is not heeded", "bind", "if call('DEL', tombstone) == 1 then", "if false then"),
    Mutant("a job does not know its binding", "bind", "    m.job_id = job_id\n    write_meta(id, m)\n"),
    Mutant("a record tells of two runs", "bind", "  begin_record(record)\n  push", "  push"),
    Mutant("a cancellation adds to an old record", "bind", "      begin_record(record)\n"),
    Mutant("bind: all items share the first's keys", "bind", "key, arg = key + 2,", "key, arg = ITEMS,"),
    Mutant("bind: one stale item spoils its group", "bind", "return 'STALE'", "error('STALE')"),
    # settle
    Mutant("settle: any token", "settle", "  elseif m.token ~= token then\n    return 'STALE'\n"),
    Mutant(
        "a finished answer is thrown away",
        "settle",
        "m.token ~= token then\n    return",
        "m.token ~= token or not call('ZSCORE', LEASE, id) then\n    return",
    ),
    Mutant("acknowledged without a result", "settle", "if succeeded then call('SET', result, text, 'EX', ttl) end"),
    Mutant("a failure is written as an answer", "settle", "if succeeded then call('SET'", "if text then call('SET'"),
    Mutant("results live for ever", "settle", ", 'EX', ttl)", ")"),
    Mutant("a late answer is refused", "settle", "if not late(id, token, succeeded, job_id) then", "if true then"),
    Mutant("a late answer leaves its dead letter", "settle", "if succeeded then call('HDEL', DEAD, id) end"),
    Mutant("a late answer needs no token", "settle", " or open_letter(letter).token ~= token"),
    Mutant(
        "a late answer overrules the job in flight",
        "settle",
        "if succeeded and bound_elsewhere(job_id, id) then return false end",
    ),
    Mutant("a conflict writes the other's record", "settle", "    if clash then return 'OK' end\n"),
    Mutant(
        "a job never bound adds to an old record",
        "settle",
        "  if not m or m.job_id ~= job_id then begin_record(record) end\n",
    ),
    Mutant("a late answer adds to the record of a failure", "settle", "if not m or m.job_id", "if m and m.job_id"),
    Mutant("settle: all items share the first's keys", "settle", "key, arg = key + 2,", "key, arg = ITEMS,"),
    Mutant("settle: one stale item spoils its group", "settle", "return 'STALE'", "error('STALE')"),
    # release
    Mutant("release: any token", "release", "m.token ~= token or "),
    Mutant("release: without a lease", "release", " or not call('ZSCORE', LEASE, id)"),
    Mutant("tries are not counted", "release", "  m.tries = m.tries + counted\n"),
    Mutant(
        "delayed, and at the head",
        "release",
        "    call('ZREM', m.crashes >= SUSPECT_CRASHES and SUSPECT or READY, id)\n",
    ),
    Mutant("the bell stays silent", "release", "if rings then", " if false then"),
    Mutant("release: one lost item spoils its group", "release", "return 'GONE'", "error('GONE')"),
    # beat
    Mutant("beat: any token", "beat", "m.token == ARGV[arg + 1] and "),
    Mutant("a reaped lease comes alive", "beat", " and call('ZSCORE', LEASE, id)"),
    Mutant("it reaps before it prolongs", "beat", "local lost = {}", "local lost = {}\nreap(max_crashes)"),
    Mutant("it does not reap", "beat", "if ARGV[7] == '1' then", "if false then"),
    Mutant("it reaps while others of its leases follow", "beat", "if ARGV[7] == '1' then", "if true then"),
    Mutant("what is paused may be claimed", "beat", "if call('HEXISTS', CONTROL, 'paused') == 0 then", "if true then"),
    Mutant("dead workers stay on the list", "beat", "if store.dismiss(silent) then call('ZREM', WORKERS, silent) end"),
    # agree, cancel, put, replay
    Mutant("whoever starts changes the format", "agree", "'HSETNX'", "'HSET'"),
    Mutant("a cancelled job runs on", "cancel", "  forget(id, find(id))\n"),
    Mutant("a worker is not told", "cancel", "  ring('gone ' .. id)\n"),
    Mutant("a finished job leaves a tombstone", "cancel", "if state == 'succeeded' or", "if"),
    Mutant("a tombstone for ever", "cancel", ", 'EX', ARGV[4])", ")"),
    Mutant("put overwrites the record of a job in flight", "put", " and not bound_elsewhere(ARGV[arg], '')"),
    Mutant("put: all items share the first's record", "put", "  key = key + 1\n"),
    Mutant("a replayed letter stays dead", "replay", "call('HDEL', DEAD, ARGV[3])\n"),
    Mutant(
        "a replayed job cannot be cancelled",
        "replay",
        "if job_id ~= '' then call('HSET', BOUND",
        "if false then call('HSET', BOUND",
    ),
    Mutant(
        "a replayed job takes another's binding",
        "replay",
        "bound_elsewhere(header.job_id, ARGV[3]) and '' or header.job_id",
        "header.job_id",
    ),
    # What only the stream's store has
    *(
        Mutant(name, "store", right, wrong, kind="stream")
        for name, right, wrong in (
            ("an ended job stays in the stream", "  call('XDEL', SOURCE, id)\n", ""),
            ("an ended job is not acknowledged", "  call('XACK', SOURCE, GROUP, id)\n", ""),
            (
                "the head is in no order",
                "return digits(tonumber(ms) * 1024 + math.min(tonumber(seq), 1023))",
                "return '7'",
            ),
            ("the sequence is forgotten", " + math.min(tonumber(seq), 1023)", ""),
            ("a replayed job is given twice", "if not m then return id", "if true then return id"),
            (
                "what a group comes to again becomes another's",
                "give_to(call('ZSCORE', LEASE, id) and m.owner or NOBODY, id)",
                "",
            ),
            ("a replayed job is nobody's", "  give_to(NOBODY, id, 'FORCE')\n", ""),
            ("a replayed job forgets its name", "unpack(name ~= '' and {'job_id', name} or {})", "unpack({})"),
            (
                "what went back stays its worker's",
                "give_to(owner or NOBODY, id)",
                "if owner then give_to(owner, id) end",
            ),
            ("a redelivery stays with nobody", "give_to(owner or NOBODY, id)", "give_to(NOBODY, id)"),
            ("new entries only", "GROUP, '0', 'MKSTREAM'", "GROUP, '$', 'MKSTREAM'"),
            ("strays are left alone", "  for _, pending in ipairs(page) do", "  for _, pending in ipairs({}) do"),
            ("strays are taken from the living", "'IDLE', lease_ms, from", "'IDLE', 0, from"),
            ("a worker that holds jobs is dismissed", "if #pending > 0 then return false end", ""),
            ("it is waited for from the beginning", "return group['last-delivered-id']", "return '0-0'"),
            ("a foreign type is not guarded", "foreign('stream')", "foreign('none')"),
        )
    ),
]
