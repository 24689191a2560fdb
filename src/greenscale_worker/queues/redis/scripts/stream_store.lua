-- A stream keeps every job until it has ended. Its entry is acknowledged and deleted in one step, so the stream's length counts
-- all jobs that wait, are delayed or run. A job's id is its entry's. A consumer's pending entries are its worker's leases.
--
-- KEYS  1 stream  STREAM  entries: the field job and perhaps job_id, or plain fields, which become the payload
-- ARGV  2 consumer group
local ITEMS, GROUP, NOBODY = 28, ARGV[2], '-'
local refused = foreign('stream')
if refused then return refused end
read_control()

-- Whether Redis would write these digits as part of an id.
local function is_part(digits)
  return digits == '0' or string.find(digits, '^[1-9]%d*$') and (#digits < 20 or #digits == 20 and digits <= '18446744073709551615')
end

-- Whether this is a valid id: an entry's, exactly as Redis writes it.
function store.is_id(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return ms and is_part(ms) and is_part(seq) and true or false
end

-- A job's place at the head of the queue: its entry's time, exact while that is below 2^53 / 1024 ms.
function store.place(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if not ms or #id > 41 then return '0' end
  return digits(tonumber(ms) * 1024 + math.min(tonumber(seq), 1023))
end

local function entry(id) return store.is_id(id) and call('XRANGE', SOURCE, id, id)[1] end

-- An entry's payload, and the job's id if the payload has none. The order of fields is kept, so that equal entries have equal
-- payloads.
local function read(id, fields)
  if #fields == 2 and fields[1] == 'job' then return fields[2], id end
  if #fields == 4 and fields[1] == 'job' and fields[3] == 'job_id' then return fields[2], fields[4] end
  if #fields == 4 and fields[1] == 'job_id' and fields[3] == 'job' then return fields[4], fields[2] end
  local words = {}
  for i, field in ipairs(fields) do
    words[2 * i - 1] = i == 1 and '{' or i % 2 == 0 and ':' or ','
    words[2 * i] = cjson.encode(field)
  end
  words[#words + 1] = '}'
  return table.concat(words), id
end

-- Whether a claimed job still exists.
function store.has(id) return entry(id) and true or false end

-- A claimed job's payload, and its id if the payload has none.
function store.payload(id)
  local found = entry(id)
  if not found then return nil end
  return read(id, found[2])
end

-- At 0, so that entries added before the first worker came are not skipped.
local function make_group(run) return run('XGROUP', 'CREATE', SOURCE, GROUP, '0', 'MKSTREAM') end

local function next_for(owner, n)
  local function read_by(run) return run('XREADGROUP', 'GROUP', GROUP, owner, 'COUNT', n, 'STREAMS', SOURCE, '>') end
  local found = read_by(redis.pcall)
  if found and found.err then  -- repeated, whatever the error: one that persists is raised
    if string.find(found.err, 'NOGROUP', 1, true) then make_group(call) end
    found = read_by(call)
  end
  return found and found[1][2] or {}
end

-- If the group was destroyed, the next group reads the entry again, and then it is given to its owner.
local function give_to(owner, id, ...) redis.pcall('XCLAIM', SOURCE, GROUP, owner, 0, id, 'JUSTID', ...) end

-- The oldest unclaimed entries, n at most: {id, payload, name} of each. A replayed job may be claimed before the group reads its
-- entry; then the entry goes back to its owner. A claim skips a limited number of these; the worker then waits behind the last
-- one skipped, and any later entry ends that wait at once.
function store.take(owner, n)
  local taken, passed = {}, 0
  repeat
    local asked = n - #taken
    local found, ids = next_for(owner, asked), {}
    for i, each in ipairs(found) do ids[i] = each[1] end
    local metas = read_metas(ids)
    for i, id in ipairs(ids) do
      if metas[id] then
        give_to(call('ZSCORE', LEASE, id) and metas[id].owner or NOBODY, id)
        passed = passed + 1
      else
        taken[#taken + 1] = {id, read(id, found[i][2])}
      end
    end
  until #found < asked or #taken == n or passed >= BATCH
  return taken
end

local function last_delivered()
  for _, flat in ipairs(call('XINFO', 'GROUPS', SOURCE)) do
    local group = {}
    for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
    if group.name == GROUP then return group['last-delivered-id'] end
  end
  return '0-0'
end

local added, last_added = {}, nil  -- entries that this script has added

-- Ends a claim; returns the entry to wait behind: the last one delivered to the group, or added by this claim just behind that.
function store.taken()
  local last = last_delivered()
  local unread = last_added and call('XRANGE', SOURCE, '(' .. last, '+', 'COUNT', 1)[1]
  return unread and added[unread[1]] and last_added or last
end

-- Deletes jobs that have ended.
function store.drop(ids)
  local entries = {}
  for _, id in ipairs(ids) do
    if store.is_id(id) then entries[#entries + 1] = id end
  end
  if #entries == 0 then return end
  call('XACK', SOURCE, GROUP, unpack(entries))
  call('XDEL', SOURCE, unpack(entries))
end

-- Stores a payload as a claimed job's: a dead letter's under its old name, or one of another class. Returns the job's new id, and
-- its job id if the payload has none.
function store.keep(_, payload, name)
  make_group(redis.pcall)  -- there may be one
  local id = call('XADD', SOURCE, '*', 'job', payload, unpack(name ~= '' and {'job_id', name} or {}))
  give_to(NOBODY, id, 'FORCE')
  added[id], last_added = true, id
  return id, name ~= '' and name or id
end

function store.push(payload) call('XADD', SOURCE, '*', 'job', payload) end

-- How many entries are unclaimed; 0 if the group has read the last one. Entries before the group's start, or acknowledged and not
-- deleted by another program, would otherwise count as work for ever.
function store.unclaimed()
  local most = call('XLEN', SOURCE) - call('HLEN', META)
  if most <= 0 or #call('XRANGE', SOURCE, '(' .. last_delivered(), '+', 'COUNT', 1) == 0 then return 0 end
  return most
end

-- Sets the owner of a job.
function store.own(id, owner) give_to(owner or NOBODY, id) end

-- Removes a consumer, unless it has pending entries, which would be lost; returns whether it is gone.
function store.dismiss(owner)
  local pending = redis.pcall('XPENDING', SOURCE, GROUP, '-', '+', 1, owner)
  if pending.err then return true end
  if #pending > 0 then return false end
  call('XGROUP', 'DELCONSUMER', SOURCE, GROUP, owner)
  return true
end

-- Entries that another program read as a consumer of our group and left idle for a lease; of many, a part with each call.
function store.strays(lease_ms)
  local summary = redis.pcall('XPENDING', SOURCE, GROUP)
  if summary.err or summary[1] <= call('HLEN', META) then return {} end
  local found, from = {}, call('HGET', CONTROL, 'strays') or ''
  if string.sub(from, 1, 1) ~= '(' or not store.is_id(string.sub(from, 2)) then from = '-' end
  local page = call('XPENDING', SOURCE, GROUP, 'IDLE', lease_ms, from, '+', BATCH)
  for _, pending in ipairs(page) do
    if call('HEXISTS', META, pending[1]) == 0 then found[#found + 1] = pending[1] end
  end
  if #page == BATCH then
    call('HSET', CONTROL, 'strays', '(' .. page[#page][1])
  else
    call('HDEL', CONTROL, 'strays')
  end
  return found
end
