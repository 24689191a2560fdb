-- Binds job ids to leases, finds duplicates, consumes cancellations and writes the records, before the jobs are run.
--
-- KEYS  as in prelude.lua; then for each item its record HASH and its cancel:<job id> STRING
-- ARGV  3 seconds a live record lasts, 4 seconds a final record lasts, 5 worker and 6 backend for the records,
--       7 tokens to give back to the budgets if the job is run, and if it is not, for each item (empty: none);
--       then for each item: id, token, job id, whether its end leaves a notice (1: yes; else as `put` was told), number of words,
--       record field, value, …
-- Output for each item RUN, DUPLICATE, CONFLICT, CANCELLED or STALE; BADTYPE: RUN, and a foreign key was replaced
local live_ttl, final_ttl, worker, backend = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
run_when_full()

local starts, ids, names = {}, {}, {}
local arg = 8
while arg <= #ARGV do
  starts[#starts + 1] = arg
  ids[#starts], names[#starts] = ARGV[arg], ARGV[arg + 2]
  arg = arg + 5 + ARGV[arg + 4]
end
local metas, bound = read_metas(ids, owned), pick(BOUND, names)
local bindings, changed, written = {}, {}, {}
local any_known = #ids > 0 and call('EXISTS', unpack(KEYS, ITEMS)) > 0  -- whether there is a record or a tombstone
local expiries = #ids > 0 and call('ZMSCORE', LEASE, unpack(ids))

local function drop(id, m, what)
  if turns then turns.ends(id) end
  forget({[id] = m})
  metas[id] = nil
  increment(what)
end

local function bind(i, token, start)
  local id, job_id, record, tombstone = ids[i], names[i], KEYS[ITEMS + 2 * i - 2], KEYS[ITEMS + 2 * i - 1]
  local m, other = metas[id], bound[job_id]
  if not m or m.token ~= token or not expiries[i] then return 'STALE' end
  if other and other ~= id and store.has(other) then
    if store.payload(other) ~= store.payload(id) then return 'CONFLICT' end
    drop(id, m, 'duplicate')
    return 'DUPLICATE'
  end
  if ARGV[start + 3] == '1' then notify(job_id) end
  if any_known and call('DEL', tombstone) == 1 then
    drop(id, m, 'cancelled')
    ledger.count('cancelled')
    noticed(job_id, 'cancelled')
    if final_ttl > 0 then
      write_record(record, final_ttl, true, 'state', 'cancelled', 'finished_ms', NOW,
                   unpack(ARGV, start + 5, start + 4 + ARGV[start + 4]))
      written[record] = true
      ended(job_id, 'cancelled')
    end
    return 'CANCELLED'
  end
  bound[job_id] = id
  push(bindings, job_id, id)
  if m.job_id ~= job_id then
    if m.job_id ~= '' and call('HGET', BOUND, m.job_id) == id then  -- replayed under another id than its payload has
      call('HDEL', BOUND, m.job_id)
      bound[m.job_id] = false
    end
    m.job_id = job_id
    push(changed, id, packed(m))
  end
  if final_ttl == 0 then return 'RUN' end
  local begins = any_known or written[record]
  written[record] = true
  local foreign = write_record(record, live_ttl, begins, 'state', 'running', 'claimed_ms', NOW, 'attempts', shown(m.runs) + 1,
                               'crashes', shown(m.crashes), 'first_claimed_ms', type(m.first) == 'string' and m.first or NOW,
                               'worker', worker, 'backend', backend,
                               unpack(ARGV, start + 5, start + 4 + ARGV[start + 4]))
  return foreign and 'BADTYPE' or 'RUN'
end

local answers = {}
for i, start in ipairs(starts) do
  answers[i] = bind(i, ARGV[start + 1], start)
end
-- A job that is not run gives back its request, too; one in conflict does when it is settled.
if ARGV[7] ~= '' and control.flow then
  begin_flow()
  local backs = flow.pairs(ARGV[7])
  for i, answer in ipairs(answers) do
    if answer == 'RUN' or answer == 'BADTYPE' then
      flow.give_back(backs[2 * i - 1], 0)
    elseif answer ~= 'CONFLICT' then
      flow.give_back(backs[2 * i], 1)
    end
  end
  flow.read()
  flow.settle()
end
call_with('HSET', BOUND, bindings)
call_with('HSET', META, changed)
ledger.write()
tell_ends()
return answers
