-- Ends jobs: result, record and acknowledgement in one step. The token must be that of the latest claim; the lease
-- need not be alive, for a finished answer is worth more than a redelivery that nobody has taken yet.
--
-- KEYS  as in prelude.lua; then for each item its result STRING and its record HASH
-- ARGV  3 seconds results and final records last (0: none are written);
--       then for each item: id, token, succeeded or failed, job id (empty: no result, no record), result text or
--       failure code, failure message, number of words, record field, value, …
-- Output for each item OK, STALE (claimed by another since) or GONE (ended already, or unknown); BADTYPE: OK, and a
--       foreign key was replaced
local ttl = tonumber(ARGV[3])
run_when_full()

-- What was buried with this very token: the answer came late, or the same settle was sent twice. An answer that comes
-- while another delivery of its job id is in flight is too late: result and record are that one's.
local function late(id, token, succeeded, job_id)
  local letter = call('HGET', DEAD, id)
  if not letter or open_letter(letter).token ~= token then return false end
  if succeeded and bound_elsewhere(job_id, id) then return false end
  if succeeded then call('HDEL', DEAD, id) end
  return true
end

local function settle(id, token, state, job_id, text, message, result, record, fields)
  local succeeded = state == 'succeeded'
  local m = read_meta(id)
  if not m then
    if not late(id, token, succeeded, job_id) then return 'GONE' end
    if not succeeded then return 'OK' end
  elseif m.token ~= token then
    return 'STALE'
  elseif succeeded then
    forget(id, m)
  else
    local clash = job_id ~= '' and bound_elsewhere(job_id, id)
    bury(id, m, job_id, clash and 'conflict' or text, message)
    if clash then return 'OK' end
  end
  count(state)
  if job_id == '' or ttl == 0 then return 'OK' end
  if succeeded then call('SET', result, text, 'EX', ttl) end
  if not m or m.job_id ~= job_id then begin_record(record) end
  push(fields, 'state', state)
  push(fields, 'finished_ms', digits(now))
  return write_record(record, ttl, fields) and 'BADTYPE' or 'OK'
end

local answers, key, arg = {}, ITEMS, 4
while arg <= #ARGV do
  local words = tonumber(ARGV[arg + 6])
  local fields = {}
  for i = 1, words do fields[i] = ARGV[arg + 6 + i] end
  answers[#answers + 1] = settle(ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3], ARGV[arg + 4],
                                 ARGV[arg + 5], KEYS[key], KEYS[key + 1], fields)
  key, arg = key + 2, arg + 7 + words
end
return answers
