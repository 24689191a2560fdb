-- Shared by every script of the queues in Redis. The loader puts it in front of each, followed by list_store.lua or
-- stream_store.lua, which know where payloads lie (docs/queue-protocol.md).
--
-- KEYS  1 source    what producers write to; its kind is the store's
--       2 ready     ZSET  id -> place     may be claimed now, oldest first: the head of the queue
--       3 suspect   ZSET  id -> place     the same, for jobs whose lease expired twice or more
--       4 delayed   ZSET  id -> due ms    may be claimed later
--       5 lease     ZSET  id -> expiry ms in flight
--       6 meta      HASH  id -> see `packed`: every job claimed and not settled
--       7 dead      HASH  id -> JSON header; in format 1 also a line feed and the payload (public)
--       8 control   HASH  time (in format 1: clock), offset, amnesty, paused, scaled, format, blamed, blamed_by, held, back, flow,
--                         letters, n_* counters
--       9 bound     HASH  job id -> id    the open job that has this job id
--      10 workers   ZSET  worker -> time of its last heartbeat, ms
--      11 held      ZSET  id -> place     may be claimed when nothing else waits (docs/blame.md)
--      12 blame     HASH  fingerprint -> when the last two jobs were buried for it: ms|ms
--      13 payloads  HASH  id -> payload of a dead letter
--      14 index     ZSET  of dead letters by time, by code and by job id, as `letters.members` makes them; all scores 0
--      15 recent    LIST of the jobs that ended last, latest first: "ms state job-id code" (see `ended`)
--      16 idle      ZSET  worker -> since when it has a free lane and nothing to run, microseconds: see seats.lua
--      17 interactive, 18 background  LIST  payloads of these classes that no worker has claimed
--      19 class     HASH  id -> class of a claimed job, unless that is standard; where it came from a tenant's line, also its tenant
--                   and the tokens that this was charged for it, with blanks between them
--      20 later     ZSET  job id -> ms: jobs that are not due yet; 21 later:payload HASH job id -> class and payload
--      22 ledger    HASH  minute, or minute and tenant -> sums: see ledger.lua
--      23 notify    HASH  job id -> 1: jobs whose end leaves a notice; 24 notices ZSET "id ms state job-id code" -> id: those
--                   that nobody has acknowledged (see `noticed`)
--      25 flow      HASH  what holds jobs back: see flow.lua
--      26 turns     ZSET  tenants' lines, and what they have in flight; all scores 0; 27 turns:payload HASH member -> payload
--                   (public): see turns.lua
--      28 …         the store's own keys, if any; then those of the script, from KEYS[ITEMS] on
-- Times in delayed and lease, and the end of an amnesty, are in the queue's time: the server's clock plus an offset for every
-- step back it made, so that the queue's time never goes back. All other times are the server's.
-- Other programs may write to these keys, so every value is checked before it is used: an error would recur with every call
-- and stop every worker.
--
-- ARGV  1 the time in ms, for the model test only; empty: the server's clock
--       2 the store's word: see its file
local SOURCE, READY, SUSPECT, DELAYED, LEASE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local META, DEAD, CONTROL, BOUND, WORKERS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local HELD, BLAME, PAYLOADS, INDEX, RECENT, IDLE = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15], KEYS[16]
local INTERACTIVE, BACKGROUND, CLASS, LATER, LATER_PAYLOADS, LEDGER = KEYS[17], KEYS[18], KEYS[19], KEYS[20], KEYS[21], KEYS[22]
local NOTIFY, NOTICES, FLOW, TURNS, TURN_PAYLOADS = KEYS[23], KEYS[24], KEYS[25], KEYS[26], KEYS[27]
local BELL, ENDED = string.sub(CONTROL, 1, -8) .. 'bell', string.sub(CONTROL, 1, -8) .. 'ended'
local SUSPECT_CRASHES, BURIAL_MARGIN, BATCH, MOST_RECENT, LONGEST_CODE = 2, 2, 64, 1000, 64
local LARGEST = 8 * 1024 * 1024  -- bytes of a payload that workers read; as in job.py
local MOST = 9e15  -- of a count; Lua is exact up to 2^53
local call = redis.call
local store = {}
local turns  -- of tenants; nil while there is nothing of them: see turns.lua
local wants_flow = true  -- whether flow.lua is to define anything

-- Lua has no rollback, so a foreign type under one of our keys is refused before the first write. Asking for the length costs
-- half as much as asking for the type.
local LENGTHS = {list = 'LLEN', stream = 'XLEN', zset = 'ZCARD', hash = 'HLEN'}

local length = {}  -- of the keys, as the script found them; nil without rights to the command, or once the script adds to them

-- Whether there is surely nothing in a key. Each command that is not sent is a fortieth of those of a claim.
local function is_empty(key) return length[key] == 0 end

local function is_foreign(key, wanted)
  local found_length = redis.pcall(LENGTHS[wanted], key)
  if type(found_length) == 'number' then
    length[key] = found_length
    return nil
  end
  local found = call('TYPE', key).ok
  if found == wanted or found == 'none' then return nil end  -- the user has no rights to the length command
  return redis.error_reply('FOREIGN ' .. key .. ' is a ' .. found .. ', a ' .. wanted .. ' is expected')
end

local function foreign(source, own)
  local refused = is_foreign(SOURCE, source) or own and is_foreign(KEYS[28], own)
  for _, key in ipairs({READY, SUSPECT, DELAYED, LEASE, WORKERS, HELD, IDLE, LATER, NOTICES}) do
    refused = refused or is_foreign(key, 'zset')
  end
  for _, key in ipairs({META, DEAD, CONTROL, BOUND, BLAME, CLASS, LATER_PAYLOADS, NOTIFY}) do
    refused = refused or is_foreign(key, 'hash')
  end
  for _, key in ipairs({INTERACTIVE, BACKGROUND}) do refused = refused or is_foreign(key, 'list') end
  return refused  -- the other keys may be foreign: what reads or writes them works without
end

local time = call('TIME')
local micros = time[1] * 1000000 + time[2]
if ARGV[1] ~= '' then micros = tonumber(ARGV[1]) * 1000 end
local now = math.floor(micros / 1000)

local function digits(number) return string.format('%.0f', number) end

local NOW = digits(now)

-- A full Redis refuses a script whose first write takes memory; after one that takes none, it allows all. Workers only move and
-- free jobs, so their scripts begin with this; a producer's must not.
local function run_when_full() call('HDEL', CONTROL, '') end

-- Notifies workers. Without rights to the channel nothing is sent; the next heartbeat tells them.
local function ring(message) redis.pcall('PUBLISH', BELL, message) end

-- Jobs that this script ends, in order: for the list of recent ends, and for clients that wait for an end.
local ends, ended_ids = {}, {}

local function ended(job_id, state, code, at)
  ends[#ends + 1] = (at or NOW) .. ' ' .. state .. ' ' .. job_id .. ' ' .. (code and string.sub(code, 1, LONGEST_CODE) or '')
  ended_ids[#ended_ids + 1] = job_id
end

-- Publishes them after all else is written, so that a listener finds result and record. A foreign type or a missing right does
-- not undo an end; clients that wait poll, too.
local function publish_ends()
  if #ends == 0 then return end
  redis.pcall('LPUSH', RECENT, unpack(ends))
  redis.pcall('LTRIM', RECENT, 0, MOST_RECENT - 1)
  redis.pcall('PUBLISH', ENDED, table.concat(ended_ids, ' '))
end

-- Adds to a counter; one that is not a number is reset.
local function add(key, field, by)
  local answer = redis.pcall('HINCRBY', key, field, by)
  if type(answer) == 'table' then call('HSET', key, field, by) end
end

local function increment(what, by) add(CONTROL, 'n_' .. what, by or 1) end

local function is_count(value) return type(value) == 'number' and value % 1 == 0 and value >= 0 and value < MOST end

-- Text as a whole number below MOST; nil for NaN, 0x10, 1e999 and the like.
local function whole(text)
  return text and #text <= 16 and string.find(text, '^%d+$') and tonumber(text) < MOST and tonumber(text) or nil
end

-- As in job.py.
local function is_job_id(text) return #text <= 128 and string.find(text, '^[A-Za-z0-9._:-]+$') ~= nil end

local function push(words, first, second)
  words[#words + 1] = first
  words[#words + 1] = second
end

-- One command for many jobs: most of a command's cost is its call. There are never more words than Lua can pass (8,000).
local function call_with(command, key, words) return #words > 0 and call(command, key, unpack(words)) or 0 end

-- The values of a hash by field; false if there is none.
local function pick(key, fields)
  local values, found = {}, #fields > 0 and call('HMGET', key, unpack(fields))
  for i = 1, #fields do values[fields[i]] = found[i] end
  return values
end

-- Jobs that this script ends and whose end is to leave a notice, in order: job id, state and code of each.
local notices, with_notice = {}, {}

-- Lets the end of a job leave a notice.
local function notify(job_id)
  call('HSET', NOTIFY, job_id, '1')
  length[NOTIFY], with_notice[job_id] = nil, nil
end

-- Notes the end of a job; returns whether it leaves a notice. Costs nothing where no job asks for one.
local function noticed(job_id, state, code)
  if length[NOTIFY] == 0 or job_id == '' or with_notice[job_id] or call('HEXISTS', NOTIFY, job_id) == 0 then return false end
  notices[#notices + 1] = NOW .. ' ' .. state .. ' ' .. job_id .. ' ' .. (code and string.sub(code, 1, LONGEST_CODE) or '')
  with_notice[job_id] = true
  return true
end

-- Writes the notices, after all else is written. An id is given as that of a job is: never twice, and in order.
local function leave_notices()
  if #notices == 0 then return end
  local last, words, names = whole(call('HGET', CONTROL, 'noticed')) or 0, {}, {}
  for _, notice in ipairs(notices) do
    last = math.max(last + 1, micros)
    push(words, digits(last), digits(last) .. ' ' .. notice)
  end
  for job_id in pairs(with_notice) do names[#names + 1] = job_id end
  call('HSET', CONTROL, 'noticed', digits(last))
  call_with('ZADD', NOTICES, words)
  call_with('HDEL', NOTIFY, names)
  notices, with_notice = {}, {}
end

local function tell_ends()
  leave_notices()
  publish_ends()
end

-- Set by `read_control`, after the types of the keys were checked: fields of control, whether the format is 2, the queue's time,
-- whether any job has a class.
local control, V2, queue_now, classed

-- Reads fields of control at once. One that was not is read when it is asked for: each costs a search through the whole hash.
local function look_up(...)
  for field, text in pairs(pick(CONTROL, {...})) do control[field] = text end
end

-- A field of control as a number; 0 if it is missing or not a number.
local function number_in_control(field) return whole(control[field]) or 0 end

local function read_control()
  control = setmetatable({}, {__index = function(_, field)
    look_up(field)
    return rawget(control, field)
  end})
  look_up('format', 'offset', 'flow', 'tenants', 'held', 'blamed', 'accused')
  V2 = control.format == '2'
  queue_now = now + number_in_control('offset')
  classed = control.tenants or (length[INTERACTIVE] or 1) + (length[BACKGROUND] or 1) + (length[CLASS] or 1) > 0
end

-- Classes other than `standard`: where their unclaimed jobs are, latest first, and what is added to the places of jobs that
-- were claimed before, so that all places are in order of class, then of age. Exact, as places are below 4e15 until 2096.
local LISTS = {interactive = INTERACTIVE, background = BACKGROUND}
local STEP = 4000000000000000
local SHIFT = {interactive = -STEP, background = STEP}

-- The class of a claimed job (nil: standard), and the tenant from whose line it came (nil: none).
local function class_of(id)
  if not classed then return nil end
  local class, tenant = string.match(call('HGET', CLASS, id) or '', '^(%l+) ?([%l%d-]*)')
  return LISTS[class] and class or nil, tenant ~= '' and tenant or nil
end

-- A job's place among those that were claimed before.
local function place_of(id)
  local shift = SHIFT[class_of(id)]
  return shift and digits(tonumber(store.place(id)) + shift) or store.place(id)
end

-- How many jobs of all classes no worker has claimed.
local function unclaimed()
  return store.unclaimed() + (classed and call('LLEN', INTERACTIVE) + call('LLEN', BACKGROUND) or 0)
    + (turns and call('HLEN', TURN_PAYLOADS) or 0)
end

-- A worker of the previous version that was suspended during the upgrade cannot read format 2 when it wakes. Its claim and
-- heartbeat read the clock first: a clock that is not a number makes them fail before they write anything.
local function begin_format_2() call('HSET', CONTROL, 'format', '2', 'clock', 'format 2') end

local function new_meta()
  return {token = '', owner = '', tries = 0, crashes = 0, first = NOW, job_id = '', runs = 0, failed = 0}
end

local ARRAY_OF_8 = '\152'  -- the first byte of an array of eight in MessagePack; its values follow

-- tries: thousandths of a try used up. runs: calls that failed. failed: ms of its last failure with prior `job`; 0: none.
-- Format 1, for the previous version, is written until the fleet has no worker of that version.
local function packed(m)
  if V2 then return ARRAY_OF_8 .. cmsgpack.pack(m.token, m.owner, m.tries, m.crashes, m.first, m.job_id, m.runs, m.failed) end
  return table.concat({m.token, m.owner, math.floor(m.tries / 1000), m.crashes, m.first, m.job_id}, '|')
end

local function checked(m)
  local texts = type(m.token) == 'string' and type(m.owner) == 'string' and type(m.first) == 'string'
    and type(m.job_id) == 'string'
  local counts = is_count(m.tries) and is_count(m.crashes) and is_count(m.runs) and is_count(m.failed)
  if texts and counts and #m.first <= 15 and string.find(m.first, '^%d+$') and (m.job_id == '' or is_job_id(m.job_id)) then
    return m
  end
end

-- A cheaper check where only the token and the job's id matter, as in bind and settle; counts are checked where they are used.
-- Checking all of them twice more would be 2 % of a job's cost here.
local function owned(m) return type(m.token) == 'string' and type(m.job_id) == 'string' and m end

-- A count of a meta that passed `owned`, for a record.
local function shown(count) return type(count) == 'number' and count or 0 end

-- A meta that passed `owned` but whose counts cannot be read: they are reset, and its binding is kept.
local function without_counts(m)
  local whole_meta = new_meta()
  whole_meta.token, whole_meta.job_id = m.token, m.job_id
  return whole_meta
end

-- Returns nil if it cannot be read.
local function unpacked(text, check)
  if string.sub(text, 1, 1) == ARRAY_OF_8 then
    local fine, token, owner, tries, crashes, first, job_id, runs, failed = pcall(cmsgpack.unpack, string.sub(text, 2))
    return fine and check({token = token, owner = owner, tries = tries, crashes = crashes, first = first, job_id = job_id,
                           runs = runs, failed = failed}) or nil
  end
  local token, owner, tries, crashes, first, job_id =
    string.match(text, '^([^|]*)|([^|]*)|(%d+)|(%d+)|(%d+)|([^|]*)$')
  return token and check({token = token, owner = owner, tries = 1000 * tries, crashes = tonumber(crashes), first = first,
                            job_id = job_id, runs = tonumber(tries), failed = 0})
end

-- The metas of jobs by id; false if there is none. One that cannot be read has no owner. `check`: see `owned`.
local function read_metas(ids, check)
  local metas = pick(META, ids)
  for id, text in pairs(metas) do
    if text then
      metas[id] = unpacked(text, check or checked)
      if not metas[id] then
        metas[id] = new_meta()
        metas[id].damaged = true
      end
    end
  end
  return metas
end

local function read_meta(id) return read_metas({id})[id] end

local function write_meta(id, m) call('HSET', META, id, packed(m)) end

-- Deletes jobs, given as id -> meta.
local function forget(jobs)
  local ids, names, bindings = {}, {}, {}
  for id, m in pairs(jobs) do
    ids[#ids + 1] = id
    if m.job_id ~= '' then names[#names + 1] = m.job_id end
  end
  if #ids == 0 then return end
  store.drop(ids)
  call('HDEL', META, unpack(ids))
  if turns then turns.forget(ids) end
  if classed then call('HDEL', CLASS, unpack(ids)) end
  local placed = call('ZREM', LEASE, unpack(ids))
  for _, key in ipairs({READY, DELAYED, SUSPECT, HELD}) do
    if placed < #ids then placed = placed + call('ZREM', key, unpack(ids)) end
  end
  for job_id, id in pairs(pick(BOUND, names)) do
    if jobs[id] then bindings[#bindings + 1] = job_id end
  end
  call_with('HDEL', BOUND, bindings)
end

-- The open job that another delivery with the same job id is bound to, if any.
local function bound_elsewhere(job_id, id)
  local other = call('HGET', BOUND, job_id)
  if other and other ~= id and store.has(other) then return other end
  return nil
end

-- What a record says of the job and not of a run, and that with what its payload says; the same names are in replaying.py.
local OF_THE_JOB = {'submitted_ms', 'class', 'tenant', 'digest', 'drains'}
local KEPT = {'submitted_ms', 'class', 'tenant', 'digest', 'drains', 'created_at', 'metadata'}

local function is_wrong_type(answer)
  return type(answer) == 'table' and answer.err ~= nil and string.find(answer.err, 'WRONGTYPE', 1, true) ~= nil
end

-- Writes fields and values of a record. `begins`: the old record is deleted, except for what is OF_THE_JOB, or for the names
-- given in its place. A value of another type under its name is replaced; returns whether it was.
local function write_record(key, ttl, begins, ...)
  local foreign, words = false, {...}
  if begins then
    local names = type(begins) == 'table' and begins or OF_THE_JOB
    local found = redis.pcall('HMGET', key, unpack(names))
    foreign = is_wrong_type(found)
    for i, name in ipairs(names) do
      if found[i] then push(words, name, found[i]) end
    end
    call('DEL', key)
  end
  local written = redis.pcall('HSET', key, unpack(words))
  if type(written) == 'table' then
    foreign = is_wrong_type(written)
    if foreign then call('DEL', key) end
    call('HSET', key, unpack(words))
  end
  call('EXPIRE', key, ttl)
  return foreign
end
