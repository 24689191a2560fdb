-- Shared by every script of the queues in Redis; the loader puts it in front, and after it the `store.lua` of the queue's
-- kind, which knows where payloads lie (docs/queue-protocol.md).
--
-- KEYS  1 source    what producers write to; its kind is the store's
--       2 ready     ZSET  id -> place     may be claimed now, oldest first: the head of the queue
--       3 suspect   ZSET  id -> place     the same, for jobs whose lease has expired twice or more
--       4 delayed   ZSET  id -> due ms    may be claimed later
--       5 lease     ZSET  id -> expiry ms in flight
--       6 meta      HASH  id -> token|owner|tries|crashes|first ms|job id: every claimed and unsettled job
--       7 dead      HASH  id -> JSON header, line feed, payload (public)
--       8 control   HASH  clock, amnesty, paused, format, n_* counters
--       9 bound     HASH  job id -> id    which open job an id stands for
--      10 workers   ZSET  worker -> time of its last heartbeat, ms
--      11 …         what the store has of its own; then those of the script, from KEYS[ITEMS] on
-- ARGV  1 the time in ms, for the model test only; empty: the server's clock
--       2 the store's own word
local SOURCE, READY, SUSPECT, DELAYED, LEASE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local META, DEAD, CONTROL, BOUND, WORKERS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local BELL = string.sub(CONTROL, 1, -8) .. 'bell'
local SUSPECT_CRASHES, BURIAL_MARGIN, BATCH = 2, 2, 64
local call = redis.call
local store = {}

-- Lua has no rollback: a foreign type under one of our keys is refused before the first write.
local function foreign(source, own)
  local kinds = {source, 'zset', 'zset', 'zset', 'zset', 'hash', 'hash', 'hash', 'hash', 'zset', own}
  for i, wanted in ipairs(kinds) do
    local found = call('TYPE', KEYS[i]).ok
    if found ~= 'none' and found ~= wanted then
      return redis.error_reply('FOREIGN ' .. KEYS[i] .. ' is a ' .. found .. ', a ' .. wanted .. ' is expected')
    end
  end
end

local time = call('TIME')
local micros = time[1] * 1000000 + time[2]
if ARGV[1] ~= '' then micros = tonumber(ARGV[1]) * 1000 end
local now = math.floor(micros / 1000)

local function digits(number) return string.format('%.0f', number) end

local NOW = digits(now)

-- A full Redis refuses a script's first write if that takes memory, but none after one that does not. Workers only move
-- jobs and free them, so their scripts begin with this; a producer's must not.
local function run_when_full() call('HDEL', CONTROL, '') end

-- Tells workers. A user without rights to the channel rings no bell; the next heartbeat says the same.
local function ring(message) redis.pcall('PUBLISH', BELL, message) end

local function count(what, by) call('HINCRBY', CONTROL, 'n_' .. what, by or 1) end

local function push(words, first, second)
  words[#words + 1] = first
  words[#words + 1] = second
end

-- One command for many jobs: most of what a command costs is its call. There are never more than Lua can hand over (8,000).
local function call_with(command, key, words) return #words > 0 and call(command, key, unpack(words)) or 0 end

-- A hash's values by their fields; false where there is none.
local function pick(key, fields)
  local values, found = {}, #fields > 0 and call('HMGET', key, unpack(fields))
  for i, field in ipairs(fields) do values[field] = found[i] end
  return values
end

local function read_metas(ids)
  local metas = pick(META, ids)
  for id, packed in pairs(metas) do
    if packed then
      local token, owner, tries, crashes, first, job_id =
        string.match(packed, '^([^|]*)|([^|]*)|(%d+)|(%d+)|(%d+)|([^|]*)$')
      metas[id] = {token = token, owner = owner, tries = tonumber(tries), crashes = tonumber(crashes), first = first,
                   job_id = job_id}
    end
  end
  return metas
end

local function read_meta(id) return read_metas({id})[id] end

local function new_meta() return {token = '', owner = '', tries = 0, crashes = 0, first = NOW, job_id = ''} end

local function packed(m) return table.concat({m.token, m.owner, m.tries, m.crashes, m.first, m.job_id}, '|') end

local function write_meta(id, m) call('HSET', META, id, packed(m)) end

local function has_place(id)
  for _, key in ipairs({READY, SUSPECT, DELAYED, LEASE}) do
    if call('ZSCORE', key, id) then return true end
  end
  return false
end

-- Forgets jobs: id -> meta.
local function forget(jobs)
  local ids, names, bindings = {}, {}, {}
  for id, m in pairs(jobs) do
    ids[#ids + 1] = id
    if m.job_id ~= '' then names[#names + 1] = m.job_id end
  end
  if #ids == 0 then return end
  store.drop(ids)
  call('HDEL', META, unpack(ids))
  local placed = call('ZREM', LEASE, unpack(ids))
  for _, key in ipairs({READY, DELAYED, SUSPECT}) do
    if placed < #ids then placed = placed + call('ZREM', key, unpack(ids)) end
  end
  for job_id, id in pairs(pick(BOUND, names)) do
    if jobs[id] then bindings[#bindings + 1] = job_id end
  end
  call_with('HDEL', BOUND, bindings)
end

-- A job of which somebody deleted a part: without its payload nothing is left to run, without the rest it begins anew.
local function find(id)
  local m = read_meta(id) or new_meta()
  if store.has(id) then return m end
  forget({[id] = m})
  for _, key in ipairs({READY, SUSPECT, DELAYED, LEASE}) do call('ZREM', key, id) end
  return nil
end

-- Back to the head: order is by place, and places are in order of first delivery.
local function requeue(id, m)
  store.own(id)
  write_meta(id, m)
  call('ZREM', LEASE, id)
  call('ZREM', DELAYED, id)
  call('ZADD', m.crashes >= SUSPECT_CRASHES and SUSPECT or READY, store.place(id), id)
end

-- The payload follows the first line feed; JSON escapes those within the header, so free text cannot hide one.
local function bury(id, m, job_id, code, message)
  local payload = store.payload(id) or ''
  forget({[id] = m})
  local header = {code = code, message = message, job_id = job_id, token = m.token, tries = m.tries,
                  crashes = m.crashes, first_claimed_ms = m.first, died_ms = NOW}
  call('HSET', DEAD, id, cjson.encode(header) .. '\n' .. payload)
  count('dead')
end

-- A dead letter's header and payload.
local function open_letter(letter)
  local feed = string.find(letter, '\n', 1, true)
  return cjson.decode(string.sub(letter, 1, feed - 1)), string.sub(letter, feed + 1)
end

-- The open job that another delivery of the same job id is bound to, if any.
local function bound_elsewhere(job_id, id)
  local other = call('HGET', BOUND, job_id)
  if other and other ~= id and store.has(other) then return other end
  return nil
end

-- Outage amnesty: if no script ran for two heartbeats, nobody could have sent one, and silence proves no death.
local function tick(lease_ms, beat_ms)
  local clock = tonumber(call('HGET', CONTROL, 'clock') or '0')
  if clock > 0 and (now - clock > 2 * beat_ms or now < clock - 1000) then
    call('HSET', CONTROL, 'amnesty', digits(now + 2 * beat_ms))
  end
  if now < clock - 1000 then  -- the clock went back (failover): nothing may take longer for that
    for _, id in ipairs(call('ZRANGEBYSCORE', LEASE, digits(now + lease_ms), '+inf')) do
      call('ZADD', LEASE, digits(now + lease_ms), id)
    end
    for _, id in ipairs(call('ZRANGE', DELAYED, 0, -1)) do call('ZINCRBY', DELAYED, digits(now - clock), id) end
    call('ZREMRANGEBYSCORE', WORKERS, '(' .. NOW, '+inf')
  end
  call('HSET', CONTROL, 'clock', NOW)
end

-- Puts jobs whose lease has expired back; says how many, and ids and job ids of those it buried. These kill even the worker
-- that only reads them; all others are buried by a worker.
local function reap(max_crashes)
  if now < tonumber(call('HGET', CONTROL, 'amnesty') or '0') then return 0, {} end
  local buried = {}
  local expired = call('ZRANGEBYSCORE', LEASE, '-inf', '(' .. NOW, 'LIMIT', 0, BATCH)
  for _, id in ipairs(expired) do
    local m = find(id)
    if m then
      m.crashes = m.crashes + 1
      if m.crashes >= max_crashes + BURIAL_MARGIN then
        bury(id, m, m.job_id, 'crashed', 'the lease expired ' .. m.crashes .. ' times')
        if m.job_id ~= '' then push(buried, id, m.job_id) end
      else
        requeue(id, m)
      end
    end
  end
  if #expired > 0 then count('reaped', #expired) end
  return #expired, buried
end

-- Writes fields of a record. One that begins tells of one run only; but when the job was handed in stays true for all of
-- them. Anything but a hash found under its name is replaced, never written onto; says whether it was.
local function write_record(key, ttl, fields, begins)
  local found = call('TYPE', key).ok
  local foreign = found ~= 'none' and found ~= 'hash'
  local submitted = begins and found == 'hash' and call('HGET', key, 'submitted_ms')
  if foreign or begins and found == 'hash' then call('DEL', key) end
  if submitted then push(fields, 'submitted_ms', submitted) end
  call('HSET', key, unpack(fields))
  call('EXPIRE', key, ttl)
  return foreign
end
