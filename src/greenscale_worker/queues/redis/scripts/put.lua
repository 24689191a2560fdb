-- Appends jobs, each with a record that says `waiting`, in one step, so before any worker can claim them.
--
-- KEYS  as in prelude.lua; then for each job its record HASH and its cancel:<job id> STRING
-- ARGV  3 seconds a live record lasts (0: none is written), 4 whether to skip jobs that are known and have not failed (1 or 0);
--       then for each job: job id, payload
-- Output for each job 1; 0: it was skipped
local ttl, fold = tonumber(ARGV[3]), ARGV[4] == '1'
local answers, names, written = {}, {}, {}
for arg = 5, #ARGV, 2 do names[#names + 1] = ARGV[arg] end
local bound = pick(BOUND, names)
local any_known = #names > 0 and call('EXISTS', unpack(KEYS, ITEMS)) > 0  -- whether there is a record or a tombstone

local function is_known(record)
  local state = call('TYPE', record).ok == 'hash' and call('HGET', record, 'state')
  return state and state ~= 'failed' and state ~= 'cancelled'
end

local function put(job_id, payload, record, tombstone)
  local is_open, may_exist = bound[job_id] and store.has(bound[job_id]), any_known or written[record]
  if fold and (is_open or may_exist and is_known(record)) then return 0 end
  -- First, so that a full Redis refuses: after a script's first write it would not.
  store.push(payload)
  if ttl > 0 and not is_open then
    local cancelled = any_known and call('EXISTS', tombstone) == 1
    if may_exist then call('DEL', record) end
    write_record(record, ttl, false, 'state', cancelled and 'cancelling' or 'waiting', 'submitted_ms', NOW)
    written[record] = true
  end
  return 1
end

for arg = 5, #ARGV, 2 do
  local key = ITEMS + arg - 5
  answers[#answers + 1] = put(ARGV[arg], ARGV[arg + 1], KEYS[key], KEYS[key + 1])
end
return answers
