-- Prolongs leases, returns which are lost, and reaps expired ones. Sent every heartbeat, even without leases: if the clock
-- stands still for two heartbeats, an amnesty begins, during which nothing is reaped.
--
-- KEYS  as in prelude.lua; then lanes:<owner> STRING, room LIST
-- ARGV  3 lease ms, 4 heartbeat ms, 5 max crashes, 6 owner, 7 whether to reap (0 while more of our leases follow),
--       8 whether the owner has a free lane and nothing to run on it (1 or 0), 9 leases it holds in all,
--       10 days the ledger is kept (0: none is), 11 how many lanes the owner has (empty: it does not say),
--       12 limit, 13 requests and 14 tokens a minute (see claim.lua), 15 whether its breaker is open (1 or 0),
--       16 for how many ms notices are kept, 17 how many of them; then id, token of each lease held
-- Output {reaped, jobs that may be claimed now, {lost id, its token, taken or gone, …}, {id buried, its job id, its code…},
--         whether the owner has a seat (1 or 0), {job id that is due, …}, notices dropped}
--        taken: reaped, and perhaps claimed by another; gone: cancelled or settled
local lease_ms, beat_ms, max_crashes, owner = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local MOST_DROPPED = 5000  -- with one heartbeat: as many as Lua can pass

-- Whether a worker declares anything of the fleet, or anything is in use.
local function flows_by(limit, requests, tokens, more)
  return control.flow or more or (limit or '') ~= '' or (requests or '') ~= '' or (tokens or '') ~= ''
end

run_when_full()
tick(lease_ms, beat_ms)
local lost, flows = {}, flows_by(ARGV[12], ARGV[13], ARGV[14], ARGV[15] == '1')
local has_room = redis.pcall('LLEN', KEYS[ITEMS + 1]) ~= 0
if flows or control.paused or has_room then
  begin_flow()
  if flows then flow.declare(ARGV[12], ARGV[13], ARGV[14]) end
  flow.read()
end

-- Prolongs the leases that are still the owner's, and notes the others as lost.
local function prolong()
  local ids, expiry, prolonged = {}, digits(queue_now + lease_ms), {}
  for arg = 18, #ARGV, 2 do ids[#ids + 1] = ARGV[arg] end
  if #ids == 0 then return end
  local metas, expiries = read_metas(ids), call('ZMSCORE', LEASE, unpack(ids))
  for i, id in ipairs(ids) do
    local m, token = metas[id], ARGV[17 + 2 * i]
    if m and m.token == token and expiries[i] then
      push(prolonged, expiry, id)
      if flows then flow.prolong_probe(token, lease_ms) end
    else
      push(lost, id, token)
      lost[#lost + 1] = m and 'taken' or 'gone'
    end
  end
  call_with('ZADD', LEASE, prolonged)
end
prolong()

-- Requeues jobs whose place was deleted by another program; returns how many. While there are any, each heartbeat scans a part.
local function rescue()
  local placed, rescued = 0, 0
  for _, key in ipairs({READY, SUSPECT, DELAYED, LEASE, HELD}) do placed = placed + call('ZCARD', key) end
  if call('HLEN', META) <= placed then return 0 end
  local part = call('HSCAN', META, digits(whole(call('HGET', CONTROL, 'displaced')) or 0), 'COUNT', BATCH)
  for i = 1, #part[2], 2 do
    local id = part[2][i]
    local m = not has_place(id) and load_or_forget(id)
    if m then
      requeue(id, m)
      rescued = rescued + 1
    end
  end
  call('HSET', CONTROL, 'displaced', part[1])
  return rescued
end

-- Takes over what lies astray in the store; returns how much.
local function adopt()
  local adopted = 0
  for _, id in ipairs(store.strays(lease_ms)) do
    if not has_place(id) then
      if store.has(id) then
        requeue(id, new_meta())
        adopted = adopted + 1
      else
        store.drop({id})
      end
    end
  end
  return adopted
end

-- If no worker of the previous version has sent a heartbeat for two leases, metas are packed in format 2 from now on.
local function upgrade()
  for _, worker in ipairs(call('ZRANGE', WORKERS, 0, -1)) do
    if not string.find(worker, ':2%-%x+$') then return end
  end
  begin_format_2()
  call('HSET', CONTROL, 'time', NOW)
end

-- Workers of the previous version end jobs and leave their class; while it shows, each heartbeat looks through a part.
local function tidy_classes()
  if (length[CLASS] or 0) <= (length[META] or 0) then return end
  local part = call('HSCAN', CLASS, digits(whole(call('HGET', CONTROL, 'classless')) or 0), 'COUNT', BATCH)
  for i = 1, #part[2], 2 do
    if call('HEXISTS', META, part[2][i]) == 0 then call('HDEL', CLASS, part[2][i]) end
  end
  call('HSET', CONTROL, 'classless', part[1])
end

-- Jobs that are due by now, for promote.lua; those of which another program deleted the time are due at once.
local function due_later()
  if length[LATER] == 0 and length[LATER_PAYLOADS] == 0 then return {} end
  if (length[LATER] or 0) < (length[LATER_PAYLOADS] or 0) then
    local part = call('HSCAN', LATER_PAYLOADS, digits(whole(call('HGET', CONTROL, 'timeless')) or 0), 'COUNT', BATCH)
    for i = 1, #part[2], 2 do call('ZADD', LATER, 'NX', NOW, part[2][i]) end
    call('HSET', CONTROL, 'timeless', part[1])
  end
  return call('ZRANGEBYSCORE', LATER, '-inf', NOW, 'LIMIT', 0, BATCH)
end

-- Mends what another program has changed in the lines: while there are more payloads than members, each heartbeat looks through a
-- part; the payload of a member that none of our scripts wrote becomes a job of nobody. In the same way, it deletes what is in flight
-- no more. Without entries and jobs, the field that says that there are such goes away.
local function mend_lines()
  if not turns then
    local payloads = redis.pcall('HLEN', TURN_PAYLOADS)  -- a foreign type concerns nobody while there are no tenants
    if type(payloads) == 'number' and payloads > 0 then call('HSET', CONTROL, 'tenants', '1') end
    return
  end
  call('ZREMRANGEBYSCORE', TURNS, '-inf', '(0')
  call('ZREMRANGEBYSCORE', TURNS, '(0', '+inf')
  local members, payloads = 0, call('HLEN', TURN_PAYLOADS)
  for _, class in ipairs({'interactive', 'standard', 'background'}) do members = members + turns.count('w|' .. class .. '|') end
  if control.tenants == '0' and payloads == 0 and call('ZCARD', TURNS) == 0 then
    turns.clear()
    call('HDEL', CONTROL, 'tenants', 'turn')
  end
  if payloads > members then
    local part = call('HSCAN', TURN_PAYLOADS, digits(whole(call('HGET', CONTROL, 'placeless')) or 0), 'COUNT', BATCH)
    for i = 1, #part[2], 2 do
      local member, payload = part[2][i], part[2][i + 1]
      if turns.tenant_of(member) then
        call('ZADD', TURNS, '0', member)
      else
        store.push(payload)
        call('HDEL', TURN_PAYLOADS, member)
      end
    end
    call('HSET', CONTROL, 'placeless', part[1])
  end
  local _, last = turns.drop_ended('l|', call('HGET', CONTROL, 'checked'), BATCH)
  if last then call('HSET', CONTROL, 'checked', '(' .. last) else call('HDEL', CONTROL, 'checked') end
end

-- Drops notices that nobody has acknowledged in time, and the oldest beyond the number that is kept; returns how many.
local function trim_notices(kept_ms, most)
  if length[NOTICES] == 0 then return 0 end
  local dropped = call('ZREMRANGEBYSCORE', NOTICES, '-inf', '(' .. digits(micros - 1000 * kept_ms))
  local beyond = math.min(call('ZCARD', NOTICES) - most, MOST_DROPPED)
  return dropped + (beyond > 0 and call_with('ZREM', NOTICES, call('ZRANGE', NOTICES, 0, beyond - 1)) or 0)
end

local reaped, found, due, dropped = 0, 0, {}, 0
if ARGV[7] == '1' then
  reaped = reap(max_crashes)
  found = rescue() + adopt()
  tidy_classes()
  mend_lines()
  due = due_later()
  dropped = trim_notices(tonumber(ARGV[16]), tonumber(ARGV[17]))
end
local days = tonumber(ARGV[10]) or 0
if ledger.work(owner, beat_ms, tonumber(ARGV[9]) or 0) or days == 0 then ledger.trim(days) end
call('ZADD', WORKERS, NOW, owner)
if (ARGV[11] or '') ~= '' then call('SET', KEYS[ITEMS], ARGV[11], 'PX', ARGV[3]) end
ledger.alive(beat_ms)
ledger.write()
for _, silent in ipairs(call('ZRANGEBYSCORE', WORKERS, '-inf', digits(now - 2 * lease_ms))) do
  if store.dismiss(silent) then
    call('ZREM', WORKERS, silent)
    if flows then flow.forget(silent) end
  end
end
if reaped + found > 0 then ring('ready') end
local waiting, held = 0, call('ZCARD', HELD)
-- Another program deleted the field: claims would never look for held jobs again.
if held > 0 and not control.held then call('HSET', CONTROL, 'held', '1') end
if not control.paused then
  waiting = claimable() + call('ZCARD', READY) + call('ZCARD', SUSPECT) + call('ZCOUNT', DELAYED, '-inf', digits(queue_now)) + held
end
if flows then
  waiting = math.min(waiting, flow.allow(waiting, false, beat_ms))
  local alive = call('ZCOUNT', WORKERS, digits(now - 2 * beat_ms), NOW)
  flow.shut(owner, ARGV[15] == '1', lease_ms, alive, whole(ARGV[11]) or 1)
  flow.write()
  flow.tidy()
end
if flow and ARGV[7] == '1' then flow.write_room(KEYS[ITEMS + 1], flow.room(control.paused and call('HGET', CONTROL, 'scaled'))) end
if not V2 then upgrade() end
unseat_silent(beat_ms)
local seated = false
if ARGV[8] == '1' then
  seated = not control.paused and sit_down(owner)
elseif ARGV[7] == '1' then
  stand_up(owner)  -- it may have a seat by a heartbeat that a claim has overtaken, or by an older snapshot
end
return {reaped, waiting, lost, buried, seated and 1 or 0, due, dropped}
