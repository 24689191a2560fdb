-- Shared by the scripts that end jobs, put failed ones back, or count a worker's time: sums by minute (docs/queue-protocol.md,
-- "The ledger"). A field of the hash is a minute since the epoch, or `minute|tenant`; its value is a JSON array of the sums named
-- below, zeros at its end left out. Beside them: `off`, if none is kept, and `cursor`, where `trim` goes on.
-- Another program may have written anything here: what is no sum counts as 0, and with a foreign type nothing is counted.
local NAMES = {'ended', 'failed', 'cancelled', 'retried', 'prompt', 'completion', 'call_ms', 'replica_ms', 'lane_ms',
               'replicas', 'tenants'}
local MOST_TENANTS = 32  -- of a minute; what others spend is only in the totals
local PORTION, MOST_DELETED = 300, 1000
local MINUTE = math.floor(now / 60000)
local ledger = {sums = {}}  -- of this script, by tenant; '' is the total

local function add_to(tenant, name, by)
  local sums = ledger.sums[tenant] or {}
  ledger.sums[tenant] = sums
  sums[name] = (sums[name] or 0) + by
end

-- Counts a job by how it ended, or as `retried`. `spent`: see settle.lua; none if no worker speaks of it.
function ledger.count(what, spent)
  add_to('', what, 1)
  local ms, prompt, completion, tenant = string.match(spent or '', '^%d+ (%d+) (%d+) (%d+) ?(.*)$')
  if not ms then return end
  add_to('', 'call_ms', ms)
  add_to('', 'prompt', prompt)
  add_to('', 'completion', completion)
  if tenant == '' or what == 'retried' then return end
  add_to(tenant, what, 1)
  add_to(tenant, 'prompt', prompt)
  add_to(tenant, 'completion', completion)
end

-- Counts a worker's time since its last heartbeat, and that of the leases it holds: two heartbeats at most, as a worker that is
-- silent for longer was stopped, or could not reach Redis.
function ledger.work(owner, beat_ms, leases)
  local before = call('ZSCORE', WORKERS, owner)
  if not before or not beat_ms then return end
  local passed = math.floor(math.min(math.max(0, now - before), 2 * beat_ms))
  add_to('', 'replica_ms', passed)
  add_to('', 'lane_ms', passed * leases)
end

-- Counts how many workers are alive: those that have sent a heartbeat within the time of two.
function ledger.alive(beat_ms) add_to('', 'replicas', call('ZCOUNT', WORKERS, digits(now - 2 * beat_ms), NOW)) end

-- A field's value by name.
local function read_sums(text)
  local fine, found = pcall(cjson.decode, text)
  local sums = {}
  for i, name in ipairs(NAMES) do
    local value = fine and type(found) == 'table' and found[i]
    sums[name] = is_count(value) and value or 0
  end
  return sums
end

local function written_sums(sums, more)
  local values, last = {}, 0
  for i, name in ipairs(NAMES) do
    local add = more[name] or 0
    values[i] = name == 'replicas' and math.max(sums[name], add) or sums[name] + add
    if values[i] > 0 then last = i end
  end
  for i = #values, last + 1, -1 do values[i] = nil end
  return last > 0 and cjson.encode(values) or '[]'
end

-- Adds to the ledger what this script has counted, with one read and one write. Returns whether `trim` is due: once a minute.
function ledger.write()
  local total, fields, words = ledger.sums[''], {'off', digits(MINUTE)}, {}
  if not total then return end
  for tenant in pairs(ledger.sums) do
    if tenant ~= '' then fields[#fields + 1] = digits(MINUTE) .. '|' .. tenant end
  end
  local found = redis.pcall('HMGET', LEDGER, unpack(fields))
  if found.err or found[1] then return not found.err end
  local known = read_sums(found[2])
  for i = 3, #fields do
    if found[i] or known.tenants + (total.tenants or 0) < MOST_TENANTS then
      if not found[i] then add_to('', 'tenants', 1) end
      push(words, fields[i], written_sums(read_sums(found[i]), ledger.sums[string.match(fields[i], '|(.*)')]))
    end
  end
  push(words, fields[2], written_sums(known, total))
  redis.pcall('HSET', LEDGER, unpack(words))
  ledger.sums = {}
  return known.replicas == 0
end

-- Deletes what is older than so many days, a portion at a time; 0: all of it, and no more is written.
function ledger.trim(days)
  redis.pcall(days == 0 and 'HSET' or 'HDEL', LEDGER, 'off', days == 0 and '1' or nil)
  local oldest, old = days == 0 and math.huge or MINUTE - 1440 * days, {}
  local cursor = redis.pcall('HGET', LEDGER, 'cursor')
  if type(cursor) == 'table' then return end
  local part = call('HSCAN', LEDGER, digits(whole(cursor) or 0), 'COUNT', PORTION)
  for i = 1, #part[2], 2 do
    local minute = whole(string.match(part[2][i], '^(%d+)'))
    if minute and minute < oldest and #old < MOST_DELETED then old[#old + 1] = part[2][i] end
  end
  call_with('HDEL', LEDGER, old)
  if part[1] ~= '0' or cursor then call('HSET', LEDGER, 'cursor', part[1]) end
end
