-- Decides about jobs whose call failed, by what the whole fleet has seen (docs/blame.md): each is delayed, held until another
-- job succeeds, or dead. Needs a live lease and its token, so that a call sent twice counts once.
--
-- KEYS  as in prelude.lua; then for each item its record HASH
-- ARGV  3 seconds a live record lasts, 4 seconds a final record lasts (0: none is written), 5 what the endpoint's headers said (see
--       flow.lua; empty: nothing);
--       then for each item: id, token, job id (empty: no record), code, message, prior (job, endpoint or unknown),
--       fingerprint, thousandths of a try that the failure uses up, thousandths at which the job is dead, delay ms, what
--       its call spent (see settle.lua), for how many ms the endpoint asked the fleet to make no calls
-- Output for each item its verdict DELAYED, HELD, DEAD, STALE or GONE, 1 if a foreign key was replaced, and ms until it is due
local live_ttl, final_ttl = ARGV[3], tonumber(ARGV[4])
local WORDS, TRY = 12, 1000
local KNOWN = 1500           -- thousandths of a try: such a job is known to be at fault
local ALONE_MS = 120000      -- between two tries of a job without any other: five take eight minutes
local MOST_LOOKED_AT = 256   -- open jobs; with more than these, no job is alone
run_when_full()

-- Whether there is no other job, claimed or not, except those known to be at fault.
local function alone(id)
  local open = call('HLEN', META)
  if open > MOST_LOOKED_AT or unclaimed() > 0 then return false end
  local metas = call('HGETALL', META)
  for i = 1, #metas, 2 do
    local m = metas[i] ~= id and unpacked(metas[i + 1], checked)
    if m and m.tries < KNOWN then return false end
  end
  return true
end

-- A failure that seems the job's own fault: it is, unless others fail alike and none succeeds. A success answers only failures
-- before its call began: calls in flight when an outage begins prove nothing. A late call, begun before the success that ended an
-- outage, belongs to that outage and proves nothing about what comes after. It uses up a try all the same: otherwise a slow job
-- at fault would be spared for ever beside others like it.
local function verdict_of_job(m, fingerprint, began, most)
  local late = not control.accused and began <= number_in_control('healed')
  local answered, unsure = math.huge, false
  if control.accused or late then
    answered = number_in_control('answered')
    unsure = late or began < answered  -- whether a success came between that call and others that failed
    if began < answered then answered = 0 end
  end
  local proven = m.failed > 0 and m.failed <= answered
  if not control.accused and not late then  -- what failed before this is answered
    call('DEL', BLAME)
    control.answered = digits(now - 1)
    call('HSET', CONTROL, 'answered', control.answered)
  end
  local older, newer = string.match(call('HGET', BLAME, fingerprint) or '', '^(%d+)|(%d+)$')
  older, newer = whole(older) or 0, whole(newer) or 0
  if not late then
    m.failed, control.accused = now, NOW
    call('HSET', CONTROL, 'accused', NOW)
  end
  local spared = not proven and older > answered
  if spared and unsure then m.tries = m.tries + TRY end
  if spared and m.tries < most then return V2 and 'HELD' or 'DELAYED' end  -- format 1 knows no holding
  call('HSET', BLAME, fingerprint, digits(newer) .. '|' .. NOW)
  return 'DEAD'
end

local function retry(item, record)
  local id, token, job_id, code, message, prior, fingerprint = unpack(item, 1, 7)
  local used, most, delay, began = tonumber(item[8]), tonumber(item[9]), tonumber(item[10]), tonumber(string.match(item[11], '^%d+'))
  local m = read_meta(id)
  if not m then return 'GONE' end
  if m.token ~= token or not call('ZSCORE', LEASE, id) then return 'STALE' end
  m.runs = m.runs + 1
  if turns then turns.ends(id, item[11], true) end
  local hold = tonumber(item[12])
  if hold > 0 then
    begin_flow()
    flow.pause(hold)
  end
  if control.flow then flow.ended(token, m.owner, false) end
  local verdict
  if prior == 'job' then
    verdict = verdict_of_job(m, fingerprint, began, most)
  else
    local again = m.runs > 1  -- the first failure of a job alone proves nothing, and a user may be waiting for it
    if again and used < TRY and (prior == 'unknown' or m.tries >= TRY) and alone(id) then
      used, delay = TRY, math.max(delay, ALONE_MS)
    end
    m.tries = m.tries + used
    verdict = m.tries >= most and 'DEAD' or 'DELAYED'
  end
  if not control.blamed then
    control.blamed = NOW
    call('HSET', CONTROL, 'blamed', NOW, 'blamed_by', code .. ': ' .. message)
  end
  local fields = {'attempts', m.runs, 'crashes', m.crashes, 'error_code', code, 'error_message', message}
  local ttl = final_ttl > 0 and live_ttl or 0
  if verdict == 'DEAD' then
    if job_id ~= '' and bound_elsewhere(job_id, id) then ttl = 0 end
    bury(id, m, job_id, code, message, m.runs)
    increment('failed')
    ledger.count('failed', item[11])
    push(fields, 'state', 'failed')
    push(fields, 'finished_ms', NOW)
    ttl = ttl == 0 and 0 or final_ttl
    if job_id ~= '' and ttl > 0 then ended(job_id, 'failed', code) end
  else
    postpone(id, m, delay)
    increment('released')
    ledger.count('retried', item[11])
    push(fields, 'state', verdict == 'HELD' and 'held' or 'delayed')
    push(fields, 'due_ms', digits(now + delay))
  end
  if job_id == '' or ttl == 0 then return verdict, 0, delay end
  return verdict, write_record(record, ttl, false, unpack(fields)) and 1 or 0, delay
end

if control.flow then begin_flow() end
local answers, rings = {}, false
for arg = 6, #ARGV, WORDS do
  local verdict, foreign, delay = retry({unpack(ARGV, arg, arg + WORDS - 1)}, KEYS[ITEMS + (arg - 6) / WORDS])
  push(answers, verdict, foreign or 0)
  answers[#answers + 1] = delay or 0
  rings = rings or verdict == 'DELAYED' or verdict == 'HELD'
end
if flow then
  flow.read()
  flow.tell(ARGV[5])
  flow.settle()
end
if rings then ring('ready') end
ledger.write()
tell_ends()
return answers
