-- Appends jobs, each with a record that says `waiting`, in one step, so before any worker can claim them; or keeps them until they
-- are due, with a record that says `scheduled`.
--
-- KEYS  as in prelude.lua; then for each job its record HASH and its cancel:<job id> STRING; with an attendance gateways and alike
--       (see attendance.lua)
-- ARGV  3 seconds a live record lasts (0: none is written), 4 which jobs to skip: fold (those that are known and have not failed),
--       once (those that have any record), or none, 5 class, 6 when they are due, ms (empty: at once), 7 tenant and 8 digest for
--       the records (empty: none), 9 attendance: a member of alike (empty: none), 10 whether ends leave a notice (1 or 0); then for
--       each job: id, payload, created_at and metadata for its record (empty: none)
-- Output for each job 1; 0: it was skipped, as is one to be kept under an id that is kept already
local ttl, skip, class, due, tenant, digest = tonumber(ARGV[3]), ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
local attendance, wants_notice = ARGV[9], ARGV[10] == '1'
local answers, names, written, own = {}, {}, {}, {}
for arg = 11, #ARGV, 4 do names[#names + 1] = ARGV[arg] end
local bound = pick(BOUND, names)
local any_known = #names > 0 and call('EXISTS', unpack(KEYS, ITEMS, ITEMS + 2 * #names - 1)) > 0  -- whether there is a record or a tombstone
if due and due <= now then due = nil end
push(own, 'class', LISTS[class] and class or 'standard')
if tenant ~= '' then push(own, 'tenant', tenant) end
if digest ~= '' then push(own, 'digest', digest) end
if due then push(own, 'due_ms', digits(due)) end

local function is_known(record)
  local state = call('TYPE', record).ok == 'hash' and call('HGET', record, 'state')
  return state and (skip == 'once' or state ~= 'failed' and state ~= 'cancelled')
end

local function with_own(created_at, metadata)
  if created_at == '' and metadata == '' then return own end
  local fields = {unpack(own)}
  if created_at ~= '' then push(fields, 'created_at', created_at) end
  if metadata ~= '' then push(fields, 'metadata', metadata) end
  return fields
end

local function put(job_id, payload, created_at, metadata, record, tombstone)
  local is_open, may_exist = bound[job_id] and store.has(bound[job_id]), any_known or written[record]
  local is_later = (due or length[LATER] ~= 0) and call('ZSCORE', LATER, job_id)
  if is_later and due then return 0 end
  if skip ~= 'none' and (is_open or is_later or may_exist and is_known(record)) then return 0 end
  -- First, so that a full Redis refuses: after a script's first write it would not.
  if due then
    call('HSET', LATER_PAYLOADS, job_id, class .. ' ' .. payload)
    call('ZADD', LATER, digits(due), job_id)
  else
    append(class, payload, tenant)
  end
  if wants_notice then notify(job_id) end
  if ttl > 0 and not is_open then
    local cancelled = any_known and call('EXISTS', tombstone) == 1
    if may_exist then call('DEL', record) end
    local life = due and ttl + math.ceil((due - now) / 1000) or ttl
    local state = due and 'scheduled' or cancelled and 'cancelling' or 'waiting'
    write_record(record, life, false, 'state', state, 'submitted_ms', NOW, unpack(with_own(created_at, metadata)))
    written[record] = true
  end
  return 1
end

for arg = 11, #ARGV, 4 do
  local key = ITEMS + (arg - 11) / 2
  answers[#answers + 1] = put(ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3], KEYS[key], KEYS[key + 1])
end
if attendance ~= '' then
  local gateways, alike = KEYS[#KEYS - 1], KEYS[#KEYS]
  pcall(show_alive, gateways, string.match(attendance, ' (%S+) '))  -- a foreign type under these keys does not undo what was put
  pcall(attend, alike, attendance)
end
return answers
