-- Ties job ids to leases, finds duplicates, consumes cancellations and writes the records, before anything is run.
--
-- KEYS  as in prelude.lua; then for each item its record HASH and its cancel:<job id> STRING
-- ARGV  3 seconds a live record lasts, 4 seconds a final record lasts;
--       then for each item: id, token, job id, number of words, record field, value, …
-- Output for each item RUN, DUPLICATE, CONFLICT, CANCELLED or STALE; BADTYPE: RUN, and a foreign key was replaced
local live_ttl, final_ttl = ARGV[3], ARGV[4]
run_when_full()

local function bind(id, token, job_id, record, tombstone, fields)
  local m = read_meta(id)
  if not m or m.token ~= token or not call('ZSCORE', LEASE, id) then return 'STALE' end
  local other = bound_elsewhere(job_id, id)
  if other then
    if store.payload(other) ~= store.payload(id) then return 'CONFLICT' end
    forget(id, m)
    count('duplicate')
    return 'DUPLICATE'
  end
  if call('DEL', tombstone) == 1 then
    forget(id, m)
    count('cancelled')
    if tonumber(final_ttl) > 0 then
      begin_record(record)
      write_record(record, final_ttl, {'state', 'cancelled', 'finished_ms', digits(now)})
    end
    return 'CANCELLED'
  end
  call('HSET', BOUND, job_id, id)
  if m.job_id ~= job_id then
    m.job_id = job_id
    write_meta(id, m)
  end
  if tonumber(final_ttl) == 0 then return 'RUN' end
  begin_record(record)
  push(fields, 'state', 'running')
  push(fields, 'claimed_ms', digits(now))
  if write_record(record, live_ttl, fields) then return 'BADTYPE' end
  return 'RUN'
end

local answers, key, arg = {}, ITEMS, 5
while arg <= #ARGV do
  local words = tonumber(ARGV[arg + 3])
  local fields = {}
  for i = 1, words do fields[i] = ARGV[arg + 3 + i] end
  answers[#answers + 1] = bind(ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], KEYS[key], KEYS[key + 1], fields)
  key, arg = key + 2, arg + 4 + words
end
return answers
