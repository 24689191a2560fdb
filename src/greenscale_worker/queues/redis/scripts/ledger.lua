-- Shared by the scripts that end jobs, put failed ones back, or count a worker's time: sums by minute (docs/queue-protocol.md,
-- "The ledger"). A field of the hash is a minute since the epoch, or `minute|tenant`. Its value is eleven numbers, as doubles: jobs
-- ended (1), failed (2), cancelled (3), calls to be made again (4), tokens in (5) and out (6), ms of calls (7), of workers (8) and of
-- busy lanes (9), most workers at once (10), tenants (11). Beside them: `off`, if no ledger is kept, and `cursor`, where `trim` goes on.
-- Another program may have written anything here: a value of another length is replaced; with a foreign type nothing is counted.
local PLACES = {ended = 1, failed = 2, cancelled = 3, retried = 4}
local DOUBLES, LENGTH = '>ddddddddddd', 88
local MOST_TENANTS = 32  -- of a minute; what others spend is only in the totals
local PORTION, MOST_DELETED = 300, 1000
local ledger = {sums = {}}  -- of this script, by tenant; '' is the total

local function sums_of(tenant)
  local sums = ledger.sums[tenant]
  if not sums then
    sums = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
    ledger.sums[tenant] = sums
  end
  return sums
end

-- Counts a job by how it ended, or as `retried`. `spent`: see settle.lua; none if no worker speaks of it.
-- Returns when its call began.
function ledger.count(what, spent)
  local total, place = sums_of(''), PLACES[what]
  total[place] = total[place] + 1
  local began, ms, prompt, completion, tenant = string.match(spent or '', '^(%d+) (%d+) (%d+) (%d+) ?(.*)$')
  if not began then return 0 end
  total[5], total[6], total[7] = total[5] + prompt, total[6] + completion, total[7] + ms
  if tenant ~= '' and what ~= 'retried' then
    local own = sums_of(tenant)
    own[place], own[5], own[6] = own[place] + 1, own[5] + prompt, own[6] + completion
  end
  return tonumber(began)
end

-- Counts a worker's time since its last heartbeat, and that of the leases it holds: two heartbeats at most, as a worker that is
-- silent for longer was stopped, or could not reach Redis. Returns whether this is its first heartbeat in this minute.
function ledger.work(owner, beat_ms, leases)
  local before, total = call('ZSCORE', WORKERS, owner), sums_of('')
  if not before or not beat_ms then return true end
  local passed = math.floor(math.min(math.max(0, now - before), 2 * beat_ms))
  total[8], total[9] = passed, passed * leases
  return math.floor(before / 60000) ~= math.floor(now / 60000)
end

-- Counts how many workers are alive: those that have sent a heartbeat within the time of two.
function ledger.alive(beat_ms) sums_of('')[10] = call('ZCOUNT', WORKERS, digits(now - 2 * beat_ms), NOW) end

-- Adds to `sums` those of a field.
local function add_sums(sums, value)
  if not value or #value ~= LENGTH then return end
  local before = {struct.unpack(DOUBLES, value)}
  for i = 1, #sums do
    local sum = is_count(before[i]) and before[i] or 0
    sums[i] = i == 10 and math.max(sum, sums[i]) or sum + sums[i]
  end
end

-- Adds to the ledger what this script has counted, with one read and one write.
function ledger.write()
  local counted, minute = ledger.sums, digits(math.floor(now / 60000))
  local total, tenants, fields, words = counted[''], {}, {'off', minute}, {}
  if not total then return end
  ledger.sums = {}
  for tenant in pairs(counted) do
    if tenant ~= '' then
      tenants[#tenants + 1] = tenant
      fields[#fields + 1] = minute .. '|' .. tenant
    end
  end
  local found = redis.pcall('HMGET', LEDGER, unpack(fields))
  if found.err or found[1] then return end
  add_sums(total, found[2])
  for i, tenant in ipairs(tenants) do
    local value = found[i + 2]
    if not value then total[11] = total[11] + 1 end
    if value or total[11] <= MOST_TENANTS then
      add_sums(counted[tenant], value)
      push(words, fields[i + 2], struct.pack(DOUBLES, unpack(counted[tenant])))
    end
  end
  push(words, minute, struct.pack(DOUBLES, unpack(total)))
  redis.pcall('HSET', LEDGER, unpack(words))
end

-- Deletes what is older than so many days, a portion at a time; 0: all of it, and no more is written.
function ledger.trim(days)
  if days == 0 then redis.pcall('HSET', LEDGER, 'off', '1') else redis.pcall('HDEL', LEDGER, 'off') end
  local cursor = redis.pcall('HGET', LEDGER, 'cursor')
  if type(cursor) == 'table' then return end
  local oldest, old = days == 0 and math.huge or math.floor(now / 60000) - 1440 * days, {}
  local part = call('HSCAN', LEDGER, digits(whole(cursor) or 0), 'COUNT', PORTION)
  for i = 1, #part[2], 2 do
    local minute = whole(string.match(part[2][i], '^%d+'))
    if minute and minute < oldest and #old < MOST_DELETED then old[#old + 1] = part[2][i] end
  end
  call_with('HDEL', LEDGER, old)
  if part[1] ~= '0' or cursor then call('HSET', LEDGER, 'cursor', part[1]) end
end
