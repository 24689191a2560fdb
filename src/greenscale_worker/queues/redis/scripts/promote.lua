-- Appends jobs that have become due to their class; their records say `waiting`. A job is appended before it leaves its place.
--
-- KEYS  as in prelude.lua; then for each job its record HASH and its cancel:<job id> STRING
-- ARGV  3 seconds a live record lasts (0: none is written); then job ids
-- Output {how many were appended, {job id that is due by now, …}}: a portion, to be promoted by the next call
local ttl, promoted = tonumber(ARGV[3]), 0
run_when_full()

local function promote(job_id, record, tombstone)
  local due = call('ZSCORE', LATER, job_id)
  if not due or tonumber(due) > now then return end
  local kept = call('HGET', LATER_PAYLOADS, job_id)
  if kept then
    local class = string.match(kept, '^(%l+) ') or ''  -- another program's bytes are a payload of their own
    local known = LISTS[class] or class == 'standard'
    local tenant = turns and call('TYPE', record).ok == 'hash' and call('HGET', record, 'tenant')
    append(class, known and string.sub(kept, #class + 2) or kept, tenant)
    promoted = promoted + 1
  end
  call('ZREM', LATER, job_id)
  call('HDEL', LATER_PAYLOADS, job_id)
  if not kept or ttl == 0 or not is_job_id(job_id) or bound_elsewhere(job_id, '') then return end
  local state = call('EXISTS', tombstone) == 1 and 'cancelling' or 'waiting'
  write_record(record, ttl, KEPT, 'state', state, 'submitted_ms', NOW)
end

for arg = 4, #ARGV do
  local key = ITEMS + 2 * (arg - 4)
  promote(ARGV[arg], KEYS[key], KEYS[key + 1])
end
return {promoted, call('ZRANGEBYSCORE', LATER, '-inf', NOW, 'LIMIT', 0, BATCH)}
