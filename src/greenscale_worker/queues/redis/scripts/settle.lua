-- Ends jobs: result, record and acknowledgement in one step. The token must be that of the latest claim. The lease need
-- not be alive: a finished answer is worth more than a redelivery that no worker has claimed yet.
--
-- KEYS  as in prelude.lua; then for each item its result STRING and its record HASH; then for each item that has a whole
--       answer its body STRING
-- ARGV  3 seconds results and final records last (0: none are written), 4 tokens and requests to give back to the budgets, for each
--       item (empty: none), 5 what the endpoint's headers said (see flow.lua; empty: nothing);
--       then for each item: id, token, succeeded or failed, job id (empty: no result, no record), result text or
--       failure code, whole answer (empty: none is kept) or failure message, what its call spent, number of words, record field,
--       value, …; the first field of a failure is attempts. Spent: when the call began (ms by our clock; 0: none was made), ms
--       it took, tokens in, tokens out and perhaps a tenant, with blanks between them
-- Output for each item OK, STALE (claimed by another since) or GONE (ended already, or unknown); BADTYPE: OK, and a
--       foreign key was replaced
local ttl = ARGV[3]
run_when_full()

local starts, ids = {}, {}
local arg = 6
while arg <= #ARGV do
  starts[#starts + 1] = arg
  ids[#starts] = ARGV[arg]
  arg = arg + 8 + ARGV[arg + 7]
end
local metas, finished, settled = read_metas(ids, owned), {}, {succeeded = 0, failed = 0}
if control.flow then begin_flow() end
local backs = control.flow and flow.pairs(ARGV[4])
local began_last = 0  -- ms; the latest begin of a call that succeeded

-- Whether another delivery of the job id is in flight, apart from those that this script is about to end.
local function clashes(job_id, id)
  local other = bound_elsewhere(job_id, id)
  return other and not finished[other]
end

-- The header of the letter buried with this token, if any: the answer came late, or the same settle was sent twice. An answer
-- is too late if another delivery of its job id is in flight: result and record belong to that one.
local function late(id, token, succeeded, job_id)
  local letter = call('HGET', DEAD, id)
  local header = letter and letters.open(letter)
  if not header or header.token ~= token then return nil end
  if succeeded and clashes(job_id, id) then return nil end
  if succeeded then letters.drop(id, header) end
  if succeeded and header.notify then notify(job_id) end
  return header
end

local function settle(i, id, token, state, job_id, text, message, start, result, record, body)
  local m, succeeded = metas[id], state == 'succeeded'
  local letter = not m and late(id, token, succeeded, job_id)
  if not m then
    if not letter then return 'GONE' end
    if not succeeded then return 'OK' end
  elseif m.token ~= token then
    return 'STALE'
  elseif succeeded then
    if turns then turns.ends(id, ARGV[start + 6]) end
    finished[id], metas[id] = m, nil
  else
    if turns then turns.ends(id, ARGV[start + 6]) end
    local clash = job_id ~= '' and clashes(job_id, id)
    local attempts = ARGV[start + 8] == 'attempts' and tonumber(ARGV[start + 9]) or nil
    bury(id, checked(m) or without_counts(m), job_id, clash and 'conflict' or text, message, attempts)
    metas[id] = nil
    if clash then
      if control.flow then flow.give_back(backs[2 * i - 1], backs[2 * i]) end
      return 'OK'
    end
  end
  settled[state] = settled[state] + 1
  if control.flow then
    flow.ended(token, m and m.owner or '', succeeded, ARGV[start + 6])
    flow.give_back(backs[2 * i - 1], backs[2 * i])
  end
  local began = ledger.count(succeeded and 'ended' or 'failed', ARGV[start + 6])
  if succeeded then
    began_last = math.max(began_last, began)
    noticed(job_id, 'succeeded')
  end
  if job_id == '' or ttl == '0' then return 'OK' end
  if succeeded then call('SET', result, text, 'EX', ttl) end
  if body then call('SET', body, message, 'EX', ttl) end
  ended(job_id, state, not succeeded and text)
  local foreign = write_record(record, ttl, not m or m.job_id ~= job_id, 'state', state, 'finished_ms', NOW,
                               'attempts', m and shown(m.runs) + 1 or letter.tries,
                               'crashes', m and shown(m.crashes) or letter.crashes,
                               unpack(ARGV, start + 8, start + 7 + ARGV[start + 7]))
  return foreign and 'BADTYPE' or 'OK'
end

local answers, next_body = {}, ITEMS + 2 * #starts
for i, start in ipairs(starts) do
  local id, token, state, job_id, text, message = unpack(ARGV, start, start + 5)
  local key, body = ITEMS + 2 * (i - 1), nil
  if state == 'succeeded' and message ~= '' then body, next_body = KEYS[next_body], next_body + 1 end
  answers[i] = settle(i, id, token, state, job_id, text, message, start, KEYS[key], KEYS[key + 1], body)
end
if control.held and settled.succeeded > 0 then add(CONTROL, 'back', settled.succeeded) end
-- A call that began before the first failure proves nothing about it.
if control.blamed and began_last >= number_in_control('blamed') then
  call('HDEL', CONTROL, 'blamed', 'blamed_by')
  if control.held then ring('ready') end
end
if control.accused and began_last >= number_in_control('accused') then
  call('HDEL', CONTROL, 'accused')
  call('HSET', CONTROL, 'healed', digits(began_last))
elseif control.accused and began_last > number_in_control('answered') then
  call('HSET', CONTROL, 'answered', digits(began_last))
end
if control.flow then
  flow.read()
  flow.tell(ARGV[5])
  flow.settle()
end
forget(finished)  -- last: if anything before it raises, they can be settled again
for state, many in pairs(settled) do
  if many > 0 then increment(state, many) end
end
ledger.write()
tell_ends()
return answers
