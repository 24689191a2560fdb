"""Seeded defects: one small change in one script each. The model has to notice every one of them."""

from dataclasses import dataclass
from typing import Final

from greenscale_worker.queues.redis.factory import SHARED
from greenscale_worker.queues.redis.script_loader import read_script
from tests.support.actors import STORES, fitted, sources
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
        """Load all scripts with the defect in them; that in a part that scripts share is in every one of these."""
        shared = {name: read_script(name) for name in ("prelude", "turns", *SHARED)}
        shared["prelude"] = fitted(shared["prelude"])
        shared["store"] = read_script(STORES[self.kind].script)
        whole = sources(self.kind)
        heads = {
            name: ("prelude", "store", "turns", *(part for part, scripts in SHARED.items() if name in scripts))
            for name in whole
        }
        bodies = {
            name: source.removeprefix(b"".join(shared[part] for part in heads[name])) for name, source in whole.items()
        }
        sound = (shared | bodies)[self.file]
        if sound.count(self.right.encode()) != 1:
            raise ValueError(f"{self.file}.lua must contain this exactly once: {self.right}")
        parts = shared | bodies | {self.file: sound.replace(self.right.encode(), self.wrong.encode())}
        return {name: b"".join(parts[part] for part in (*heads[name], name)) for name in bodies}


MUTANTS: Final = [
    # What all scripts share
    Mutant(
        "a key of a foreign type is written to", "prelude", "if found == wanted or found == 'none' then", "if true then"
    ),
    Mutant(
        "a foreign type under the bindings is not noticed",
        "prelude",
        "{META, DEAD, CONTROL, BOUND, BLAME,",
        "{META, DEAD, CONTROL, BLAME,",
    ),
    Mutant("what is known of a job outlives it", "prelude", "  call('HDEL', META, unpack(ids))\n"),
    Mutant(
        "a lease outlives its job",
        "prelude",
        "local placed = call('ZREM', LEASE, unpack(ids))",
        "local placed = 0",
    ),
    Mutant(
        "a redelivery outlives its job",
        "prelude",
        "ipairs({READY, DELAYED, SUSPECT, HELD})",
        "ipairs({DELAYED, SUSPECT, HELD})",
    ),
    Mutant(
        "a suspect outlives its job",
        "prelude",
        "ipairs({READY, DELAYED, SUSPECT, HELD})",
        "ipairs({READY, DELAYED, HELD})",
    ),
    Mutant("a binding outlives its job", "prelude", "  call_with('HDEL', BOUND, bindings)\n"),
    Mutant(
        "a job that waits again is still leased",
        "waiting",
        "  call('ZREM', LEASE, id)\n  call('ZREM', DELAYED, id)\n",
        "  call('ZREM', DELAYED, id)\n",
    ),
    Mutant(
        "a job that is due is still delayed",
        "waiting",
        "  call('ZREM', LEASE, id)\n  call('ZREM', DELAYED, id)\n",
        "  call('ZREM', LEASE, id)\n",
    ),
    Mutant(
        "a job that waits for its time is still leased",
        "waiting",
        "  call('ZREM', LEASE, id)\n  length[DELAYED]",
        "  length[DELAYED]",
    ),
    Mutant("what comes back is not looked for", "waiting", "  length[where] = nil\n"),
    Mutant(
        "a job that comes back goes to the tail",
        "waiting",
        "call('ZADD', where, place_of(id), id)",
        "call('ZADD', where, digits(micros), id)",
    ),
    Mutant("suspects wait with the others", "waiting", "if m.crashes >= SUSPECT_CRASHES then return SUSPECT end"),
    Mutant(
        "a held job outlives its end",
        "prelude",
        "ipairs({READY, DELAYED, SUSPECT, HELD})",
        "ipairs({READY, DELAYED, SUSPECT})",
    ),
    Mutant(
        "what is held waits with the others",
        "waiting",
        "V2 and m.runs > 0 and control.blamed and HELD or READY",
        "READY",
    ),
    Mutant(
        "a job that failed once is held though nothing is ill",
        "waiting",
        "m.runs > 0 and control.blamed and HELD or READY",
        "m.runs > 0 and HELD or READY",
    ),
    Mutant(
        "a job is held where workers of the version before do not look",
        "waiting",
        "V2 and m.runs > 0 and",
        "m.runs > 0 and",
    ),
    Mutant("that something is held is not noted", "waiting", "    call('HSET', CONTROL, 'held', '1')\n"),
    Mutant("format 2 is written before all workers know it", "prelude", "V2 = control.format == '2'", "V2 = true"),
    Mutant("format 2 is never written", "prelude", "V2 = control.format == '2'", "V2 = false"),
    Mutant("a worker of the version before wakes and claims", "prelude", ", 'clock', 'format 2')", ")"),
    Mutant("the upgrade forgets when a script last ran", "heartbeat", "  call('HSET', CONTROL, 'time', NOW)\n"),
    Mutant(
        "format 1 forgets the runs",
        "prelude",
        "runs = tonumber(tries), failed = 0",
        "runs = 0, failed = 0",
    ),
    Mutant(
        "blame of the future is never answered", "rescue", "if number_in_control(field) > now then", "if false then"
    ),
    Mutant("format 1 loses what was tried", "prelude", "math.floor(m.tries / 1000)", "0"),
    Mutant(
        "format 1 counts tries in thousandths",
        "prelude",
        "tries = 1000 * tries",
        "tries = tonumber(tries)",
    ),
    Mutant(
        "a dead letter loses its payload",
        "dead_letters",
        "  local payload, class, tenant = store.payload(id) or '', class_of(id)\n  forget({[id] = m})\n",
        "  local class, tenant = class_of(id)\n  forget({[id] = m})\n  local payload = store.payload(id) or ''\n",
    ),
    Mutant(
        "a line feed in a message hides the payload",
        "dead_letters",
        "cjson.encode(header) .. behind",
        "string.gsub(cjson.encode(header), '\\\\n', '\\n') .. behind",
    ),
    Mutant(
        "a bar in a reason hides the payload",
        "dead_letters",
        "return header, feed and string.sub(letter, feed + 1)",
        "return header, feed and string.match(letter, '^[^|]*\\n(.*)$')",
    ),
    Mutant(
        "format 1 has payloads apart", "dead_letters", "local apart = V2 and payload and", "local apart = payload and"
    ),
    Mutant(
        "format 2 has payloads behind the header",
        "dead_letters",
        "local apart = V2 and payload and",
        "local apart = false and",
    ),
    Mutant("a letter is not entered in the index", "dead_letters", "behind)\n  letters.enter(id, header)", "behind)"),
    Mutant("a letter is not found by its job", "dead_letters", "then members[3] =", "then local _ ="),
    Mutant(
        "a code with a zero byte is found by its beginning alone",
        "dead_letters",
        "string.gsub(header.code, '%z', ' ')",
        "header.code",
    ),
    Mutant("a letter's payload outlives it", "dead_letters", "  redis.pcall('HDEL', PAYLOADS, id)\n"),
    Mutant(
        "a letter's index entries outlive it",
        "dead_letters",
        "  if header then redis.pcall('ZREM', INDEX, unpack(letters.members(id, header))) end\n",
    ),
    Mutant(
        "after an outage leases expire at once",
        "rescue",
        "if queue_now < number_in_control('amnesty') then",
        "if false then",
    ),
    Mutant(
        "after an outage leases expire before a worker could prolong them",
        "rescue",
        "digits(queue_now + 2 * beat_ms)",
        "digits(queue_now + beat_ms)",
    ),
    Mutant("a clock that goes back is not noticed", "rescue", "went_back = now < clock - 1000", "went_back = false"),
    Mutant("the clock is not kept", "rescue", "  call('HSET', CONTROL, field_of_clock, NOW)\n"),
    Mutant("leases are reaped before their time", "rescue", "'(' .. digits(queue_now)", "digits(queue_now + 1000)"),
    Mutant("crashes are not counted", "rescue", "m.crashes = m.crashes + 1"),
    Mutant(
        "a job is buried by others than a worker",
        "rescue",
        "if m.crashes >= max_crashes + BURIAL_MARGIN then",
        "if m.crashes >= max_crashes then",
    ),
    Mutant(
        "what kills every reader comes back for ever",
        "rescue",
        "if m.crashes >= max_crashes + BURIAL_MARGIN then",
        "if false then",
    ),
    Mutant(
        "the time of submission is lost",
        "prelude",
        "      if found[i] then push(words, name, found[i]) end\n",
    ),
    Mutant("a foreign type is written onto", "prelude", "if type(written) == 'table' then", "if false then"),
    Mutant("a record begins on a foreign type", "prelude", "    foreign = is_wrong_type(found)\n"),
    Mutant("a foreign type is not reported", "prelude", "  return foreign\n", "  return false\n"),
    Mutant("records live for ever", "prelude", "  call('EXPIRE', key, ttl)\n"),
    Mutant("a delay outlives a clock that went back", "rescue", "call('ZINCRBY', DELAYED, digits(-by), id)", "local _"),
    Mutant(
        "a lease outlives a clock that went back", "rescue", "    call('ZADD', LEASE, digits(now + lease_ms), id)\n"
    ),
    Mutant("the queue's time goes back", "rescue", "    queue_now = queue_now + clock - now\n"),
    Mutant(
        "the queue's time forgets that the clock went back",
        "rescue",
        "call('HSET', CONTROL, 'offset'",
        "tostring('offset'",
    ),
    Mutant(
        "the queue's time forgets that the clock went back before",
        "rescue",
        "digits(number_in_control('offset') + clock - now)",
        "digits(clock - now)",
    ),
    Mutant("workers of the future are alive", "rescue", "call('ZREMRANGEBYSCORE', WORKERS, '(' .. NOW, '+inf')"),
    Mutant(
        "a worker is not told what was buried",
        "rescue",
        "  push(buried, id, m.job_id)\n  buried[#buried + 1] = code\n",
    ),
    Mutant("attempts of a failure are not kept", "dead_letters", "tries = attempts or m.runs", "tries = m.runs"),
    Mutant(
        "all that has expired is reaped in one call",
        "rescue",
        "'(' .. digits(queue_now), 'LIMIT', 0, BATCH)",
        "'(' .. digits(queue_now))",
    ),
    # claim
    Mutant("a repeated claim takes more", "claim", "if last_claim and string", "if false and string"),
    Mutant(
        "a repeated claim gives what is another's", "claim", "and string.sub(m.token, 1, #nonce + 1) == nonce .. ':' "
    ),
    Mutant("a repeated claim gives what was reaped", "claim", " and call('ZSCORE', LEASE, id) then", " then"),
    Mutant(
        "a repeated claim does not prolong",
        "claim",
        "call('ZADD', LEASE, digits(queue_now + lease_ms), id)\n      if store",
        "if store",
    ),
    Mutant("the youngest job is taken first", "store", "'LPOP', 'RPUSH'", "'RPOP', 'RPUSH'"),
    Mutant("two jobs of one call get the same id", "store", "math.max(last + 1, micros)", "math.max(last, micros)"),
    Mutant(
        "after a failover a job gets the id of an older one",
        "store",
        "last = last or whole(call('HGET', CONTROL, 'last')) or 0  --",
        "last = last or micros  --",
    ),
    Mutant(
        "two claims give the same token",
        "claim",
        "nonce .. ':' .. (#given + 1), owner",
        "'token:' .. (#given + 1), owner",
    ),
    Mutant("a repeated claim is soon forgotten", "claim", "'EX', REMEMBERED)", "'EX', 30)"),
    Mutant("a payload that is too large is given to a worker", "claim", "if #payload > LARGEST then", "if false then"),
    Mutant(
        "two claims give two jobs the same id",
        "store",
        "digits(last or whole(call('HGET', CONTROL, 'last')) or 0)",
        "'0'",
    ),
    Mutant(
        "a claim takes more bytes than the worker asked for",
        "claim",
        "#given < (most or n) and bytes < max_bytes and",
        "#given < (most or n) and",
    ),
    Mutant("a claim takes fresh jobs one by one", "claim", "AT_ONCE = 8", "AT_ONCE = 1"),
    Mutant("a claim takes far more fresh jobs than its bytes allow", "claim", "AT_ONCE = 8", "AT_ONCE = 64"),
    Mutant("a worker is given several suspects at once", "claim", "    may_suspect = false\n"),
    Mutant(
        "suspects jump the queue",
        "claim",
        "if suspect and not (ready and tonumber(place) < tonumber(place_of_suspect)) then",
        "if suspect then",
    ),
    Mutant(
        "fresh jobs jump the queue",
        "claim",
        "take_again(function() return oldest(low, high) end, most)  --",
        "if call('LLEN', SOURCE) == 0 then take_again(function() return oldest(low, high) end, most) end  --",
    ),
    Mutant("a pause is ignored", "claim", "if control.paused or asked == 0 then", "if asked == 0 then"),
    Mutant(
        "a worker sleeps past what falls due",
        "claim",
        "math.min(due_next or math.huge, expires_next or math.huge,",
        "math.min(math.max(due_next or expires_next or math.huge, expires_next or due_next or math.huge),",
    ),
    Mutant("a worker sleeps beside jobs that the cap left", "claim", "#due == BATCH or stopped", "#due == BATCH"),
    Mutant("a worker sleeps beside more jobs that were due", "claim", " or #due == BATCH"),
    Mutant("a worker sleeps beside more leases that have expired", "claim", "reaped == BATCH or "),
    Mutant(
        "a worker wakes before leases may expire",
        "claim",
        "math.max(expires_next, number",
        "math.min(expires_next, number",
    ),
    Mutant(
        "a job does not know its worker",
        "claim",
        "nonce .. ':' .. (#given + 1), owner",
        "nonce .. ':' .. (#given + 1), ''",
    ),
    # seats
    Mutant("more workers than two have a seat", "seats", "local SEATS = 2", "local SEATS = 99"),
    Mutant("a seat has no heir", "seats", "if not had_seat[owner] then wake(owner) end"),
    Mutant("whoever leaves wakes all that have a seat", "seats", "if not had_seat[owner] then", "if true then"),
    Mutant("the dead keep their seats", "seats", "if #silent == 0 then return end", "if true then return end"),
    Mutant("the living lose their seats", "seats", "> 2 * beat_ms then", ">= 0 then"),
    Mutant("who comes back is first again", "seats", "'NX', ", "'XX', "),
    Mutant("a burst wakes one", "seats", "math.ceil(waiting / lanes)", "1"),
    Mutant("a burst wakes all", "seats", "math.ceil(waiting / lanes)", "99"),
    Mutant("who is full keeps its seat", "claim", "  stand_up(owner)\n  share(lanes", "  share(lanes"),
    Mutant("a paused queue keeps seats taken", "claim", "  stand_up(owner)\n  return", " return"),
    Mutant(
        "who cannot claim tells nobody what it reaped",
        "claim",
        "  if reaped > 0 then ring('ready') end\n  stand",
        "  stand",
    ),
    Mutant("a burst stays where it is", "claim", "  share(lanes,", "  share(0,"),
    Mutant("a worker with one free lane wakes as if all had one", "claim", "  share(lanes,", "  share(n,"),
    Mutant(
        "without a seat, too, it waits for what falls due", "claim", "if not seated then return", "if false then return"
    ),
    Mutant(
        "a heartbeat does not say how many lanes there are",
        "heartbeat",
        "if (ARGV[11] or '') ~= '' then",
        "if false then",
    ),
    Mutant("a heartbeat enters nobody", "heartbeat", "and sit_down(owner)", "and false"),
    Mutant("a heartbeat takes nobody out", "heartbeat", "  stand_up(owner)  --", "  --"),
    Mutant("a heartbeat does not look at the list", "heartbeat", "waiting = claimable() +", "waiting ="),
    # bind
    Mutant("a job is bound with another's token", "bind", "m.token ~= token or "),
    Mutant("a job is bound without a lease", "bind", " or not expiries[i]"),
    Mutant(
        "another payload is folded",
        "bind",
        "if store.payload(other) ~= store.payload(id) then return 'CONFLICT' end",
    ),
    Mutant("a duplicate stays", "bind", "  forget({[id] = m})\n  metas[id] = nil\n"),
    Mutant("a duplicate runs", "bind", "if other and other ~= id", "if false and other ~= id"),
    Mutant("a duplicate in the same group runs", "bind", "  bound[job_id] = id\n"),
    Mutant("a former name stays bound", "bind", "      call('HDEL', BOUND, m.job_id)\n", kind="stream"),
    Mutant("a tombstone is not consumed", "bind", "call('DEL', tombstone)", "call('EXISTS', tombstone)"),
    Mutant("a tombstone is not heeded", "bind", "if any_known and", "if false and"),
    Mutant("a job does not know its binding", "bind", "call_with('HSET', META, changed)\n"),
    Mutant("nothing is bound", "bind", "call_with('HSET', BOUND, bindings)\n"),
    Mutant("a record tells of two runs", "bind", "any_known or written[record]", "written[record]"),
    Mutant("a cancellation adds to an old record", "bind", "final_ttl, true,", "final_ttl, false,"),
    Mutant(
        "all jobs of a group are written to the first one's record", "bind", "KEYS[ITEMS + 2 * i - 2]", "KEYS[ITEMS]"
    ),
    Mutant(
        "all jobs of a group are cancelled with the first one", "bind", "KEYS[ITEMS + 2 * i - 1]", "KEYS[ITEMS + 1]"
    ),
    Mutant("a stale job keeps its group from being bound", "bind", "return 'STALE'", "error('STALE')"),
    Mutant("a record does not count the runs before", "bind", "shown(m.runs) + 1", "1"),
    Mutant("a record does not count the crashes", "prelude", "and count or 0 end", "and 0 or 0 end"),
    Mutant("a record does not say who runs its job", "bind", "'worker', worker,", "'worker', '',"),
    Mutant(
        "a record forgets when its job was first claimed",
        "bind",
        "'string' and m.first or NOW",
        "'string' and NOW or NOW",
    ),
    # settle
    Mutant(
        "an answer with another's token is recorded", "settle", "  elseif m.token ~= token then\n    return 'STALE'\n"
    ),
    Mutant(
        "a finished answer is thrown away",
        "settle",
        "m.token ~= token then\n    return",
        "m.token ~= token or not call('ZSCORE', LEASE, id) then\n    return",
    ),
    Mutant("acknowledged without a result", "settle", "if succeeded then call('SET', result, text, 'EX', ttl) end"),
    Mutant("a failure is written as an answer", "settle", "if succeeded then call('SET'", "if text then call('SET'"),
    Mutant("results live for ever", "settle", "call('SET', result, text, 'EX', ttl)", "call('SET', result, text)"),
    Mutant("a late answer is refused", "settle", "if not letter then", "if true then"),
    Mutant("a late answer leaves its dead letter", "settle", "if succeeded then letters.drop(id, header) end"),
    Mutant("a late answer needs no token", "settle", " or header.token ~= token"),
    Mutant(
        "a late answer overrules the job in flight",
        "settle",
        "if succeeded and clashes(job_id, id) then return nil end",
    ),
    Mutant(
        "a conflict writes the other's record",
        "settle",
        "      return 'OK'\n    end\n  end\n  settled",
        "    end\n  end\n  settled",
    ),
    Mutant(
        "a job never bound adds to an old record",
        "settle",
        "record, ttl, not m or m.job_id ~= job_id,",
        "record, ttl, false,",
    ),
    Mutant("a late answer adds to the record of a failure", "settle", "not m or m.job_id ~=", "m and m.job_id ~="),
    Mutant(
        "all jobs of a group are answered under the first one's keys",
        "settle",
        "local key, body = ITEMS + 2 * (i - 1)",
        "local key, body = ITEMS",
    ),
    Mutant("what has succeeded stays", "settle", "forget(finished)"),
    Mutant("what ends in a group clashes with what comes after", "settle", " and not finished[other]"),
    Mutant("a stale job keeps its group from being settled", "settle", "return 'STALE'", "error('STALE')"),
    # release
    Mutant("a job is released with another's token", "release", "m.token ~= token or "),
    Mutant("a job is released without a lease", "release", " or not call('ZSCORE', LEASE, id)"),
    Mutant(
        "a job that is to wait is at the head, too",
        "release",
        "postpone(id, m, delay) else",
        "postpone(id, m, delay) requeue(id, m) else",
    ),
    Mutant("what is released wakes no worker", "release", "if rings then", " if false then"),
    Mutant("a lost job keeps its group from being released", "release", "return 'GONE', 0", "error('GONE')"),
    Mutant("drains are not counted", "release", "'drains')) or 0) + 1", "'drains')) or 0)"),
    Mutant("every release counts as a drain", "release", "reason == 'drain'", "true"),
    Mutant("drains are forgotten with each run", "prelude", "'digest', 'drains'}", "'digest'}"),
    # retry
    Mutant("tries are not counted", "retry", "m.tries = m.tries + used", "m.tries = m.tries"),
    Mutant("runs are not counted", "retry", "  m.runs = m.runs + 1\n"),
    Mutant("used-up tries do not bury", "retry", "m.tries >= most and 'DEAD'", "false and 'DEAD'"),
    Mutant(
        "a job is retried without a lease",
        "retry",
        "m.token ~= token or not call('ZSCORE', LEASE, id)",
        "m.token ~= token",
    ),
    Mutant("a job is retried with another's token", "retry", "m.token ~= token or not", "not"),
    Mutant(
        "all that fail alike are buried",
        "retry",
        "local spared = not proven and older > answered",
        "local spared = false",
    ),
    Mutant("held by a fleet that does not know it", "retry", "V2 and 'HELD' or 'DELAYED'", "'HELD'"),
    Mutant("what fails alike is never buried", "retry", "not proven and older > answered", "not proven"),
    Mutant("a slow job is spared for ever", "retry", "if spared and unsure then", "if false then"),
    Mutant("a success since proves nothing", "retry", "local proven = ", "local proven = false and "),
    Mutant("a failure is blamed on its job though nobody has succeeded since", "retry", "m.failed <= answered", "true"),
    Mutant(
        "the first failure is forgotten",
        "retry",
        "    call('HSET', CONTROL, 'blamed', NOW, 'blamed_by', code .. ': ' .. message)\n",
    ),
    Mutant(
        "who failed alike is forgotten",
        "retry",
        "  call('HSET', BLAME, fingerprint, digits(newer) .. '|' .. NOW)\n",
    ),
    Mutant("all failures are alike", "retry", "call('HSET', BLAME, fingerprint,", "call('HSET', BLAME, 'a',"),
    Mutant(
        "a job does not remember its failure", "retry", "m.failed, control.accused = now, NOW", "control.accused = NOW"
    ),
    Mutant("the first failure of the only job counts", "retry", "m.runs > 1", "m.runs > 0"),
    Mutant("the only job is in company", "retry", "and alone(id) then", "and false then"),
    Mutant("every job is alone", "retry", "and alone(id) then", "then"),
    Mutant("the ill are company", "retry", "m.tries < KNOWN then", "true then"),
    Mutant("those that wait are no company", "retry", " or unclaimed() > 0 then", " then"),
    Mutant(
        "an endpoint's fault uses up the only job's tries", "retry", "(prior == 'unknown' or m.tries >= TRY)", "true"
    ),
    Mutant("the only job's tries are over at once", "retry", "math.max(delay, ALONE_MS)", "delay"),
    Mutant("what is retried wakes no worker", "retry", "if rings then", "if false then"),
    Mutant("a lost job keeps its group from being retried", "retry", "return 'GONE'", "error('GONE')"),
    Mutant("a record of a failure lives too short", "retry", "ttl = ttl == 0 and 0 or final_ttl", "ttl = 1"),
    Mutant("an early call's answer counts", "settle", "began_last >= number_in_control('blamed')", "began_last > 0"),
    Mutant("an answer counts as if its call began when it comes", "settle", "math.max(began_last, began)", "now"),
    Mutant("the latest answer is not kept", "settle", "  call('HSET', CONTROL, 'answered', digits(began_last))\n"),
    Mutant("what was answered is forgotten", "retry", "    call('HSET', CONTROL, 'answered', control.answered)\n"),
    Mutant("an answer ends nothing", "settle", "began_last >= number_in_control('blamed')", "false"),
    Mutant("who failed alike is kept", "retry", "    call('DEL', BLAME)\n"),
    Mutant("no failure is late", "retry", "local late = ", "local late = false and "),
    Mutant("nobody knows when it healed", "settle", "  call('HSET', CONTROL, 'healed', digits(began_last))\n"),
    Mutant(
        "what fails while two are buried is no witness of it",
        "retry",
        "    if began < answered then answered = 0 end",
        "",
    ),
    Mutant("what has ended is not seen", "prelude", "  redis.pcall('LPUSH', RECENT, unpack(ends))\n"),
    Mutant("an answer wakes nobody", "settle", "  if control.held then ring('ready') end\n"),
    Mutant(
        "what is held does not come back",
        "claim",
        "if control.held and (not control.blamed or number_in_control('back') > 0) then",
        "if false then",
    ),
    Mutant(
        "what is held comes back after the last failure only",
        "claim",
        " or number_in_control('back') > 0) then",
        ") then",
    ),
    Mutant("one success brings all back", "claim", "add(CONTROL, 'back', -1)", "add(CONTROL, 'back', 0)"),
    Mutant("what was held comes back among the suspects", "claim", "requeue(unheld, m, READY)", "requeue(unheld, m)"),
    Mutant(
        "a success brings nobody back", "settle", "add(CONTROL, 'back', settled.succeeded)", "add(CONTROL, 'back', 0)"
    ),
    Mutant(
        "what is held comes back too early",
        "claim",
        "if control.held and (not control.blamed or number_in_control('back') > 0) then",
        "if control.held then",
    ),
    Mutant(
        "the youngest of what is held comes back first",
        "claim",
        "unheld = call('ZRANGE', HELD, 0, 0)",
        "unheld = call('ZRANGE', HELD, -1, -1)",
    ),
    Mutant("what is held is never claimed", "claim", "if control.held then take_again(", "if false then take_again("),
    Mutant("what was held is held, too, when it is back", "claim", "    call('ZREM', HELD, unheld)\n"),
    Mutant("what was held comes back and wakes no worker", "claim", "reaped > 0 or unheld then", "reaped > 0 then"),
    Mutant(
        "the queue is upgraded before the last worker of the version before has gone",
        "heartbeat",
        "if not string.find(worker, ':2%-%x+$') then return end",
        "if not string.find(worker, ':2%-%x+$') then break end",
    ),
    Mutant("the queue is never upgraded", "heartbeat", "if not V2 then upgrade() end"),
    # heartbeat
    Mutant("a heartbeat prolongs another's lease", "heartbeat", "m.token == token and "),
    Mutant("a reaped lease comes alive", "heartbeat", " and expiries[i]"),
    Mutant(
        "a heartbeat reaps before it prolongs",
        "heartbeat",
        "local lost, flows =",
        "reap(max_crashes)\nlocal lost, flows =",
    ),
    Mutant("a heartbeat does not reap", "heartbeat", "if ARGV[7] == '1' then\n  reaped", "if false then\n  reaped"),
    Mutant(
        "a heartbeat reaps while others of its leases follow",
        "heartbeat",
        "if ARGV[7] == '1' then\n  reaped",
        "if true then\n  reaped",
    ),
    Mutant("what is paused may be claimed", "heartbeat", "if not control.paused then", "if true then"),
    Mutant("dead workers stay on the list", "heartbeat", "    call('ZREM', WORKERS, silent)\n"),
    # check_format, cancel, put, replay
    Mutant("whoever starts changes the format", "check_format", "'HSETNX'", "'HSET'"),
    # Notices of ends
    Mutant("a job is told of at each of its ends", "prelude", "  call_with('HDEL', NOTIFY, names)\n"),
    Mutant("two notices have one id", "prelude", "last = math.max(last + 1, micros)", "last = micros"),
    Mutant("the ids of notices begin anew", "prelude", "  call('HSET', CONTROL, 'noticed', digits(last))\n"),
    Mutant(
        "a wish that comes after an end is lost with it",
        "prelude",
        "with_notice[job_id] = nil, nil",
        "with_notice[job_id] = nil, true",
    ),
    Mutant("notices grow old", "heartbeat", "'(' .. digits(micros - 1000 * kept_ms)", "'(0'"),
    Mutant(
        "there may be one notice too many",
        "heartbeat",
        "call('ZCARD', NOTICES) - most",
        "call('ZCARD', NOTICES) - most - 1",
    ),
    Mutant(
        "the latest notices go",
        "heartbeat",
        "call('ZRANGE', NOTICES, 0, beyond - 1)",
        "call('ZRANGE', NOTICES, -beyond, -1)",
    ),
    Mutant("what is put is not told of", "put", "  if wants_notice then notify(job_id) end\n"),
    Mutant("what a payload asks for is not heard", "bind", "  if ARGV[start + 3] == '1' then notify(job_id) end\n"),
    Mutant("an answer is not told of", "settle", "    noticed(job_id, 'succeeded')\n"),
    Mutant(
        "an answer after the burial is not told of",
        "settle",
        "  if succeeded and header.notify then notify(job_id) end\n",
    ),
    Mutant("a cancellation is not told of", "cancel", "  noticed(job_id, 'cancelled')\n"),
    Mutant("a cancellation of what nobody claimed is not told of", "bind", "    noticed(job_id, 'cancelled')\n"),
    Mutant("a burial by a script is not told of", "rescue", "  leave_notices()\n"),
    Mutant(
        "a conflict is told as the end of the other",
        "dead_letters",
        " and not bound_elsewhere(job_id, id) and noticed",
        " and noticed",
    ),
    Mutant(
        "what is replayed is not told of again",
        "replay",
        "  if m.job_id ~= '' and header and header.notify then notify(m.job_id) end\n",
    ),
    Mutant("an open job is forgotten", "forget", "if bound_elsewhere(job_id, '') or", "if"),
    Mutant("a cancelled job runs on", "cancel", "  forget({[id] = load_or_forget(id)})\n"),
    Mutant("a worker is not told", "cancel", "  if is_open then ring('gone ' .. id) end\n"),
    Mutant("a finished job leaves a tombstone", "cancel", "if state == 'succeeded' or", "if"),
    Mutant("a tombstone lives for ever", "cancel", ", 'EX', live_ttl)", ")"),
    Mutant("a tombstone lasts as long as a result", "cancel", "'EX', live_ttl", "'EX', final_ttl + 1"),
    Mutant(
        "a job to be cancelled still says it waits",
        "cancel",
        "write_record(record, live_ttl, false, 'state', 'cancelling')\n",
    ),
    Mutant("who is unknown is said to be cancelled later", "cancel", "if not state then return 'UNKNOWN' end\n"),
    Mutant(
        "who is unknown leaves no tombstone",
        "cancel",
        "call('SET', tombstone, '1', 'EX', live_ttl)\nif not state then return 'UNKNOWN' end",
        "if not state then return 'UNKNOWN' end\ncall('SET', tombstone, '1', 'EX', live_ttl)",
    ),
    Mutant("a cancellation is not taken back", "uncancel", "call('DEL', tombstone)", "call('EXISTS', tombstone)"),
    Mutant("what is cancelled no longer says it will be", "uncancel", "if state == 'cancelling' then", "if false then"),
    Mutant("put hides that a job will be cancelled", "put", "cancelled and 'cancelling' or 'waiting'", "'waiting'"),
    Mutant("a job that is handed in twice is pushed twice", "put", "if skip ~= 'none' and", "if false and"),
    Mutant("a job is left out though nobody asked for that", "put", "if skip ~= 'none' and", "if"),
    Mutant(
        "a job that has failed cannot be handed in again",
        "put",
        "return state and (skip == 'once' or state ~= 'failed' and state ~= 'cancelled')",
        "return state",
    ),
    Mutant(
        "a job that is handed in twice in one group is pushed twice", "put", "any_known or written[record]", "any_known"
    ),
    Mutant(
        "a cancelled job keeps the failure before",
        "cancel",
        "    call('HDEL', record, 'due_ms', 'error_code', 'error_message')",
    ),
    Mutant(
        "put does not look for records",
        "put",
        "call('EXISTS', unpack(KEYS, ITEMS, ITEMS + 2 * #names - 1)) > 0",
        "false",
    ),
    Mutant("put overwrites the record of a job in flight", "put", " and not is_open then", " then"),
    Mutant(
        "all jobs of a group are put into the first one's record",
        "put",
        "local key = ITEMS + (arg - 11) / 2",
        "local key = ITEMS",
    ),
    *(
        Mutant(name, file, right, wrong)
        for file, name, right, wrong in (
            # Classes
            ("prelude", "a class outlives its job", "  if classed then call('HDEL', CLASS, unpack(ids)) end\n", ""),
            ("prelude", "a job that has a class is not noticed", "(length[CLASS] or 1) > 0", "0 > 0"),
            (
                "prelude",
                "class, tenant and digest are lost",
                "OF_THE_JOB = {'submitted_ms', 'class', 'tenant', 'digest',",
                "OF_THE_JOB = {'submitted_ms',",
            ),
            ("waiting", "what comes back is in no class", "where, place_of(id), id)", "where, store.place(id), id)"),
            ("claim", "a lower class may starve", "turn == 9 and 'background' or turn == 4 and 'standard'", "nil"),
            ("claim", "the lowest class may starve", "turn == 9 and 'background' or ", ""),
            ("claim", "those in the middle may starve", " or turn == 4 and 'standard'", ""),
            (
                "claim",
                "each claim begins with the first turn",
                "whole(call('HGET', CONTROL, 'n_claimed')) or 0, {}",
                "0, {}",
            ),
            (
                "claim",
                "the lowest class is served first",
                "ipairs({'interactive', 'standard', 'background'})",
                "ipairs({'background', 'standard', 'interactive'})",
            ),
            ("claim", "a claimed job forgets its class", "    call('HSET', CLASS, id, class)\n", ""),
            ("claim", "a claimed job stays in its class", "    call('RPOP', LISTS[class])\n", ""),
            (
                "claim",
                "the youngest of a class is taken",
                "call('LINDEX', LISTS[class], -1)",
                "call('LINDEX', LISTS[class], 0)",
            ),
            (
                "claim",
                "what comes back is served before all classes",
                "local low, high = unpack(RANGES[class])",
                "local low, high = '-inf', '+inf'",
            ),
            ("seats", "a burst of a class stays where it is", "and claimable() +", "and store.unclaimed() +"),
            ("retry", "jobs of a class are no company", " or unclaimed() > 0", " or store.unclaimed() > 0"),
            (
                "heartbeat",
                "a heartbeat does not look at classes",
                "waiting = claimable()",
                "waiting = store.unclaimed()",
            ),
            ("dead_letters", "a dead letter forgets its class", ", class = class,", ","),
            (
                "dead_letters",
                "the class of a dead letter is not read",
                "header.class = LISTS[found.class] and",
                "local _ =",
            ),
            ("replay", "a replayed job forgets its class", "    call('HSET', CLASS, kept, header.class)\n", ""),
            ("replay", "a replayed job is put into no class", "    classed = true\n", ""),
            ("append", "a job of a class wakes nobody", "  if not rung then ring('ready') end\n", ""),
            ("append", "each job of a class rings", "if not rung then", "if true then"),
            ("append", "a job of a class is put before all others", "call('LPUSH', LISTS", "call('RPUSH', LISTS"),
            # Jobs that are due later, or put once
            ("put", "what has failed is put once more", "skip == 'once' or ", ""),
            ("put", "what is due is kept", "if due and due <= now then due = nil end", ""),
            ("put", "what is kept is replaced", "  if is_later and due then return 0 end\n", ""),
            ("put", "what is kept is not known", "is_open or is_later or", "is_open or"),
            ("put", "what is kept forgets its class", "class .. ' ' .. payload", "'standard ' .. payload"),
            (
                "put",
                "the record of what is kept expires before it is due",
                "ttl + math.ceil((due - now) / 1000)",
                "ttl",
            ),
            ("put", "a record does not say whose job it is", "push(own, 'tenant', tenant)", "local _"),
            ("put", "a record does not say its class", "push(own, 'class', LISTS[class] and class or 'standard')", ""),
            ("put", "a record lacks what the producer added", "push(fields, 'metadata', metadata)", "local _"),
            ("put", "a record does not say when its job was made", "push(fields, 'created_at', created_at)", "local _"),
            (
                "bind",
                "what is cancelled loses what its producer added",
                "NOW,\n                   unpack(ARGV, start + 5, start + 4 + ARGV[start + 4]))",
                "NOW)",
            ),
            ("cancel", "what is kept cannot be cancelled", "call('HDEL', LATER_PAYLOADS, job_id) == 1", "false"),
            ("cancel", "what is kept and cancelled becomes due", "  call('ZREM', LATER, job_id)\n", ""),
            ("heartbeat", "nobody is told what is due", "  due = due_later()\n", ""),
            ("heartbeat", "what is not due is said to be", "LATER, '-inf', NOW,", "LATER, '-inf', '+inf',"),
            ("promote", "what is not due is promoted", " or tonumber(due) > now", ""),
            ("promote", "what is promoted keeps its time", "  call('ZREM', LATER, job_id)\n", ""),
            ("promote", "what is promoted is kept, too", "  call('HDEL', LATER_PAYLOADS, job_id)\n", ""),
            ("promote", "what is promoted takes the record of a job in flight", " or bound_elsewhere(job_id, '')", ""),
            ("promote", "what is promoted hides that it will be cancelled", "call('EXISTS', tombstone) == 1", "false"),
            ("promote", "what is promoted says it is kept", "  write_record(record, ttl, KEPT, 'state',", "  print("),
            ("promote", "what is promoted was submitted twice", "ttl, KEPT, 'state'", "ttl, false, 'state'"),
            ("promote", "what is promoted loses what its producer added", "ttl, KEPT, 'state'", "ttl, true, 'state'"),
            ("promote", "what is promoted goes to no class", "append(class, known", "append('', known"),
        )
    ),
    Mutant("a replayed letter stays dead", "replay", "  letters.drop(id, header)\n"),
    Mutant("one call replays more bytes than it may", "replay", "if bytes >= most then break end"),
    Mutant(
        "a replayed job cannot be cancelled",
        "replay",
        "if m.job_id ~= '' then call('HSET', BOUND",
        "if false then call('HSET', BOUND",
    ),
    Mutant(
        "a replayed job takes another's binding",
        "replay",
        "bound_elsewhere(name, id) and '' or name",
        "name",
    ),
    # dead letters
    Mutant("the oldest come first", "list", "if order == 'latest' then", "if false then"),
    Mutant(
        "a page repeats the last letter",
        "list",
        "from == '' and low or '(' .. from",
        "from == '' and low or '[' .. from",
    ),
    Mutant("what a page did not hold is passed over", "list", "#members == n and members[n] or ''", "''"),
    Mutant("letters of other codes are told, too", "letters", "code == '' and 't\\0' or", "true and 't\\0' or"),
    Mutant("codes are counted by their beginning", "codes", "'(c\\0' .. code .. '\\1'))", "'(c\\1'))"),
    Mutant(
        "the latest are purged",
        "purge",
        "call('ZRANGE', INDEX, low, high, 'BYLEX', 'LIMIT', 0, most)",
        "call('ZRANGE', INDEX, high, low, 'BYLEX', 'REV', 'LIMIT', 0, most)",
    ),
    Mutant(
        "more is purged than is to be left", "purge", "call('HLEN', DEAD) - tonumber(ARGV[7])", "call('HLEN', DEAD)"
    ),
    Mutant("an entry without a letter stays", "tidy", "if not is_right(member) then", "if false then"),
    Mutant("a letter without an entry stays so", "letters", "    letters.enter(id, header)\n"),
    Mutant(
        "letters of the version before are never put in line",
        "tidy",
        "  if in_line() then return '' end",
        "  if true then return '' end",
    ),
    Mutant(
        "letters of format 1 stay whole",
        "tidy",
        " and (indexed == 0 or not V2 or call('HGET', CONTROL, 'letters') == '2')",
    ),
    Mutant(
        "the walk through letters ends too early",
        "tidy",
        "return page[1] == '0' and 'i' or 'l' .. page[1]",
        "return 'i'",
    ),
    Mutant(
        "the walk through the index ends too early",
        "tidy",
        "if #members == portion then return 'i' .. members[portion] end",
    ),
    # What only a stream has
    Mutant(
        "a redelivery that the group comes to again is nobody's",
        "claim",
        "  write_taken()\nend\n\nlocal function take_first",
        "end\n\nlocal function take_first",
        kind="stream",
    ),
    Mutant(
        "a job of a class is nobody's",
        "claim",
        "    store.own(id, owner)\n    take_first(id, payload, name)\n  end\n",
        "    take_first(id, payload, name)\n  end\n",
        kind="stream",
    ),
    *(
        Mutant(name, "store", right, wrong, kind="stream")
        for name, right, wrong in (
            ("an ended job stays in the stream", "  call('XDEL', SOURCE, unpack(entries))\n", ""),
            ("an ended job is not acknowledged", "  call('XACK', SOURCE, GROUP, unpack(entries))\n", ""),
            (
                "jobs that went back are in no order",
                "return digits(tonumber(ms) * 1024 + math.min(tonumber(seq), 1023))",
                "return '7'",
            ),
            ("jobs of one millisecond went back in no order", " + math.min(tonumber(seq), 1023)", ""),
            ("a replayed job is given twice", "if metas[id] then", "if false then"),
            (
                "a claim stops at entries that are no jobs any more",
                "until #found < asked or #taken == n or passed >= BATCH",
                "until true",
            ),
            (
                "what a group comes to again becomes another's",
                "give_to(call('ZSCORE', LEASE, id) and metas[id].owner or NOBODY, id)",
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
            (
                "a new group passes over what was in the stream before it",
                "GROUP, '0', 'MKSTREAM'",
                "GROUP, '$', 'MKSTREAM'",
            ),
            (
                "what a dead consumer left is adopted by nobody",
                "  for _, pending in ipairs(page) do",
                "  for _, pending in ipairs({}) do",
            ),
            ("strays are taken from the living", "'IDLE', lease_ms, from", "'IDLE', 0, from"),
            ("a worker that holds jobs is dismissed", "if #pending > 0 then return false end", ""),
            (
                "a worker waits for entries that were delivered long ago",
                "return group['last-delivered-id']",
                "return '0-0'",
            ),
            (
                "a claim waits for what it has added itself",
                "return unread and added[unread[1]] and last_added or last",
                "return last",
            ),
            ("a foreign type under the stream's name is not noticed", "foreign('stream')", "foreign('none')"),
        )
    ),
    # Tenants
    *(
        Mutant(name, file, right, wrong, kind)
        for name, file, right, wrong, kind in (
            ("a tenant has more in flight than it may", "turns", "return math.max(free, 0)", "return 1", "list"),
            (
                "what was claimed from a line does not count",
                "turns",
                "    call('ZADD', TURNS, '0', 'l|' .. tenant .. '|' .. id)\n",
                "",
                "list",
            ),
            ("what has ended is in flight for ever", "turns", "    call_with('ZREM', TURNS, members)\n", "", "list"),
            ("a job leaves its line twice", "claim", "  call('ZREM', TURNS, member)\n", "", "list"),
            ("a payload stays in its line", "claim", "    call('HDEL', TURN_PAYLOADS, member)\n", "", "list"),
            (
                "a weight is worth nothing",
                "fairness",
                "tenant.time + 1 / (entry and entry.weight or 1)",
                "tenant.time + 1",
                "list",
            ),
            (
                "whoever was away has saved up",
                "fairness",
                "if not own or not (own >= start) then own = start end",
                "own = own or 0",
                "list",
            ),
            ("whose turn it was is forgotten", "fairness", "  redis.pcall('HSET', FLOW, unpack(words))\n", "", "list"),
            (
                "who was served stays the first",
                "fairness",
                "      tenants[i], i = tenants[i + 1], i + 1\n",
                "      break\n",
                "list",
            ),
            (
                "the time of a class stands still",
                "fairness",
                "  queue.time = math.max(queue.time, tenant.time)\n",
                "",
                "list",
            ),
            (
                "jobs in no line are kept waiting by lines",
                "fairness",
                "names, fields = 'turn|' .. class, {''}, {}",
                "names, fields = 'turn|' .. class, {}, {}",
                "list",
            ),
            (
                "jobs in no line go before lines",
                "claim",
                "fairness.is_last(queue) and most or before + 1",
                "most",
                "list",
            ),
            ("a tenant's jobs go to the list of all", "append", "  if has_line then", "  if false then", "list"),
            ("a job that becomes due forgets its tenant", "promote", "or kept, tenant)", "or kept)", "list"),
            (
                "a replayed job forgets its tenant",
                "replay",
                "if header and turns and header.tenant then",
                "if false then",
                "list",
            ),
            (
                "a dead letter forgets its tenant",
                "dead_letters",
                "class = class, tenant = tenant,",
                "class = class,",
                "list",
            ),
            (
                "lines are no jobs that wait",
                "prelude",
                "    + (turns and call('HLEN', TURN_PAYLOADS) or 0)\n",
                "",
                "list",
            ),
            (
                "workers are woken for jobs that they may not claim",
                "seats",
                "return turns and unclaimed() - call('HLEN', TURN_PAYLOADS) + turns.claimable() or unclaimed()",
                "return unclaimed()",
                "list",
            ),
            (
                "a line is served from its end",
                "turns",
                "return call('ZRANGE', TURNS, low, high, 'BYLEX', 'LIMIT', 0, 1)[1]\n",
                "return call('ZRANGE', TURNS, high, low, 'BYLEX', 'REV', 'LIMIT', 0, 1)[1]\n",
                "list",
            ),
            (
                "two jobs of a line have one number",
                "turns",
                "(number or whole(call('HGET', CONTROL, 'turn')) or 0) + 1, micros)",
                "0, micros)",
                "list",
            ),
            (
                "the last entry leaves its flag",
                "heartbeat",
                "call('HDEL', CONTROL, 'tenants', 'turn')",
                "call('HDEL', CONTROL, 'turn')",
                "list",
            ),
            (
                "the last entry takes the lines with it",
                "set_tenant",
                "call('HSET', CONTROL, 'tenants', '0')",
                "call('HDEL', CONTROL, 'tenants')",
                "list",
            ),
            (
                "a stream reads what came from a line as a new entry",
                "claim",
                "    write_taken()  -- before the store is read\n",
                "",
                "stream",
            ),
            ("nobody is told of a job in a line", "append", "  if not rung then ring('ready') end\n", "", "list"),
            ("a foreign type under the lines is not noticed", "turns", "is_foreign(TURNS, 'zset') or ", "", "list"),
        )
    ),
]

LATE: Final = {
    "a success since proves nothing": 95,
    "a job is held where workers of the version before do not look": 4,
    "the upgrade forgets when a script last ran": 4,
    "format 1 forgets the runs": 4,
    "format 1 loses what was tried": 4,
    "format 1 counts tries in thousandths": 4,
    "format 1 has payloads apart": 4,
    "a delay outlives a clock that went back": 4,
    "a lease outlives a clock that went back": 4,
    "an answer with another's token is recorded": 4,
    "a stale job keeps its group from being settled": 4,
    "a job is released with another's token": 4,
    "the queue is upgraded before the last worker of the version before has gone": 4,
    "a heartbeat reaps while others of its leases follow": 4,
    "a letter without an entry stays so": 5,
    "a job is retried with another's token": 6,
    "a held job outlives its end": 7,
    "jobs of a class are no company": 7,
    "what is kept and cancelled becomes due": 4,
    "all that has expired is reaped in one call": 7,
    "a worker sleeps beside more jobs that were due": 7,
    "a worker sleeps beside more leases that have expired": 7,
    "a late answer overrules the job in flight": 7,
    "the latest answer is not kept": 7,
    "what was held comes back among the suspects": 7,
    "a job is retried without a lease": 8,
    "what fails while two are buried is no witness of it": 80,
    "a late answer leaves its dead letter": 14,
    "held by a fleet that does not know it": 14,
    "the queue's time forgets that the clock went back before": 17,
    "a late answer adds to the record of a failure": 17,
    "a former name stays bound": 21,
    "what is cancelled no longer says it will be": 28,
}
"""Which walk notices a mutant that the first four do not: it is the one to begin with."""
