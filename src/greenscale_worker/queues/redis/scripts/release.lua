-- Requeues jobs that were not run to their end, at once (to the head, in their old order) or after a delay. Needs a live
-- lease and its token, so that a call sent twice takes effect once.
--
-- KEYS  as in prelude.lua; then for each item its record HASH
-- ARGV  3 seconds a live record lasts (0: none is written), 4 tokens and requests to give back to the budgets, for each item (empty:
--       none);
--       then for each item: id, token, delay ms, job id (empty: no record), reason; snoozed clears the count of crashes
-- Output for each item OK, STALE or GONE; BADTYPE: OK, and a foreign key was replaced. Then how many drains have cut the job
--       off by now, as its record says; 0 where this one is none
local ttl = tonumber(ARGV[3])
if control.flow then begin_flow() end
local rings, backs = false, control.flow and flow.pairs(ARGV[4])
run_when_full()

local function release(i, id, token, delay, job_id, reason, record)
  local m = read_meta(id)
  if not m then return 'GONE', 0 end
  if m.token ~= token or not call('ZSCORE', LEASE, id) then return 'STALE', 0 end
  if control.flow then
    flow.ended(token, m.owner, false)
    flow.give_back(backs[2 * i - 1], backs[2 * i])
  end
  if reason == 'snoozed' then m.crashes = 0 end  -- a job of many steps is no poison pill for each worker it outlived
  if turns then turns.ends(id) end
  if delay > 0 then postpone(id, m, delay) else requeue(id, m) end
  rings = true
  increment('released')
  if job_id == '' or ttl == 0 then return 'OK', 0 end
  local foreign = write_record(record, ttl, false, 'state', 'delayed', 'due_ms', digits(now + delay), 'error_code', reason)
  local drains = 0
  if reason == 'drain' then
    drains = (whole(call('HGET', record, 'drains')) or 0) + 1
    call('HSET', record, 'drains', drains)
  end
  return foreign and 'BADTYPE' or 'OK', drains
end

local answers, key = {}, ITEMS
for arg = 5, #ARGV, 5 do
  push(answers, release(arg / 5, ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2]), ARGV[arg + 3], ARGV[arg + 4], KEYS[key]))
  key = key + 1
end
if control.flow then
  flow.read()
  flow.settle()
end
if rings then ring('ready') end
return answers
