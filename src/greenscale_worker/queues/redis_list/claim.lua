-- Takes up to n jobs: redeliveries first, by age, then fresh ones. Repeated with the same nonce it gives the same
-- jobs again, so that a lost reply loses nothing.
--
-- KEYS  1-11 as in prelude.lua; 12 claim:<owner> STRING nonce|id,id… of the owner's last claim
-- ARGV  2 n, 3 lease ms, 4 heartbeat ms, 5 owner, 6 nonce, 7 max crashes, 8 side to take from (RIGHT or LEFT),
--       9 bytes after which to stop, 10 whether a suspect may be taken (1 or 0)
-- Output {sleep, now ms, reaped, {{id, token, tries, crashes, first ms, payload}…}, {id buried, its job id…}}
--       sleep: ms until there may be more; -1: until told; -2: paused
local n, lease_ms, beat_ms, owner, nonce = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local max_crashes, side, max_bytes = tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local may_suspect = ARGV[10] == '1'
local LARGEST = 8 * 1024 * 1024  -- as in job.py: beyond it, not even the id is looked for
local REMEMBERED = 86400
local given, ids, bytes = {}, {}, 0
run_when_full()

local function give(id, m, payload)
  given[#given + 1] = {id, m.token, m.tries, m.crashes, m.first, payload}
end

local last_claim = call('GET', KEYS[12])
if last_claim and string.sub(last_claim, 1, #nonce + 1) == nonce .. '|' then
  for id in string.gmatch(string.sub(last_claim, #nonce + 2), '%d+') do
    local m = read_meta(id)
    if m and string.sub(m.token, 1, #nonce + 1) == nonce .. ':' and call('ZSCORE', LEASE, id) then
      call('ZADD', LEASE, digits(now + lease_ms), id)
      give(id, m, call('HGET', OPEN, id))
    end
  end
  call('EXPIRE', KEYS[12], REMEMBERED)
  return {0, digits(now), 0, given, {}}
end

tick(lease_ms, beat_ms)
local reaped, buried = reap(max_crashes)
if call('HEXISTS', CONTROL, 'paused') == 1 then return {-2, digits(now), reaped, given, buried} end
local due = call('ZRANGEBYSCORE', DELAYED, '-inf', digits(now), 'LIMIT', 0, BATCH)
for _, id in ipairs(due) do
  local m = find(id)
  if m then requeue(id, m) end
end

local function take(id, m, payload)
  m.token, m.owner = nonce .. ':' .. (#given + 1), owner
  write_meta(id, m)
  call('ZADD', LEASE, digits(now + lease_ms), id)
  ids[#ids + 1] = id
  bytes = bytes + #payload
  give(id, m, payload)
end

local function room() return #given < n and bytes < max_bytes end

local function oldest()
  local ready = call('ZRANGE', READY, 0, 0)[1]
  local suspect = may_suspect and call('ZRANGE', SUSPECT, 0, 0)[1]
  if suspect and not (ready and tonumber(ready) < tonumber(suspect)) then
    may_suspect = false
    return suspect, SUSPECT
  end
  return ready, READY
end

while room() do
  local id, from = oldest()
  if not id then break end
  call('ZREM', from, id)
  local m = find(id)
  if m then take(id, m, call('HGET', OPEN, id)) end
end

local last = tonumber(call('HGET', CONTROL, 'last') or '0')
while room() do
  local payload = call(side == 'RIGHT' and 'RPOP' or 'LPOP', LIST)
  if not payload then break end
  last = math.max(last + 1, micros)  -- never reused, even by a server restored from an older snapshot
  local id = digits(last)
  local m = {token = '', owner = '', tries = 0, crashes = 0, first = digits(now), job_id = ''}
  call('HSET', OPEN, id, payload)
  if #payload > LARGEST then
    bury(id, m, '', 'too_large', #payload .. ' bytes; more than ' .. LARGEST .. ' are not even read')
    bytes = bytes + #payload
  else
    take(id, m, payload)
  end
end

call('HSET', CONTROL, 'last', digits(last))
if #ids > 0 then
  call('SET', KEYS[12], nonce .. '|' .. table.concat(ids, ','), 'EX', REMEMBERED)
  count('claimed', #ids)
end
if reaped > 0 then ring('ready') end
if reaped == BATCH or #due == BATCH or (bytes >= max_bytes and #given < n) then
  return {0, digits(now), reaped, given, buried}
end

local function earliest(key)
  local score = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  return score and tonumber(score)
end

local due_next, expires_next = earliest(DELAYED), earliest(LEASE)
if expires_next then expires_next = math.max(expires_next, tonumber(call('HGET', CONTROL, 'amnesty') or '0')) end
local wake = due_next and expires_next and math.min(due_next, expires_next) or due_next or expires_next
return {wake and math.max(10, wake + 1 - now) or -1, digits(now), reaped, given, buried}
