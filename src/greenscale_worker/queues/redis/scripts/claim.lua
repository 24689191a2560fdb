-- Takes up to n jobs, class by class: redeliveries first, by age, then fresh ones; at last held ones. Repeated with the same nonce
-- it returns the same jobs, so that a lost reply loses nothing.
--
-- KEYS  as in prelude.lua; then claim:<owner> STRING nonce|id,id… of the owner's last claim
-- ARGV  3 n, 4 lease ms, 5 heartbeat ms, 6 owner, 7 nonce, 8 max crashes, 9 bytes after which to stop,
--       10 whether a suspect may be taken (1 or 0), 11 whether the owner has more free lanes than n (1 or 0),
--       12 how many lanes the owner has, free and busy; 13 limit, 14 requests and 15 tokens a minute, for the fleet (empty: none;
--       see flow.lua), 16 whether its breaker is open, so that it asks for a probe (1 or 0)
-- n is 0 if the owner no longer has a free lane: it leaves its seat.
-- Output {sleep, now ms, reaped, {{id, token, tries, crashes, first ms, payload, name, runs}…}, {id buried, its job id, its code…},
--         from, whether the owner has a seat (1 or 0), held, estimate}
--       name: the job's id if its payload has none, or empty; from: the position to wait from, for the store
--       sleep: ms until there may be more; -1: until notified; -2: paused
--       held: why jobs that wait were not given: limit, requests, tokens, pause or probe; background: jobs of that class, as fewer
--             calls must be open; else empty
--       estimate: tokens that each job was charged for its answer; empty: nothing is charged
local asked, lease_ms, beat_ms, owner, nonce = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
local max_crashes, max_bytes, remembered = tonumber(ARGV[8]), tonumber(ARGV[9]), KEYS[ITEMS]
local may_suspect, has_more_lanes, lanes = ARGV[10] == '1', ARGV[11] == '1', tonumber(ARGV[12])
local REMEMBERED = 86400
local A_LONG_TIME = 1e9
local AT_ONCE = 8  -- fresh jobs; up to this many may exceed the limit of bytes
local RANGES = {interactive = {'-inf', '(0'}, standard = {'0', '(' .. digits(STEP)}, background = {digits(STEP), '+inf'}}
if not classed then RANGES.standard = {'-inf', '+inf'} end
local given, ids, bytes = {}, {}, 0
local metas, leases, expiry = {}, {}, nil
local free_in = math.huge  -- ms until a tenant that a budget holds back may go on
local passed = 0  -- ids skipped: no longer a job, or unreadable
local n, is_probe, charged = asked, ARGV[16] == '1', ''
run_when_full()

local function give(id, m, payload, name)
  given[#given + 1] = {id, m.token, m.tries, m.crashes, m.first, payload, name or '', m.runs}
end

local last_claim = call('GET', remembered)
if last_claim and string.sub(last_claim, 1, #nonce + 1) == nonce .. '|' then
  local given_before, estimate = string.match(string.sub(last_claim, #nonce + 2), '^([^|]*)|?(%d*)$')
  for id in string.gmatch(given_before or '', '[^,]+') do
    local m = read_meta(id)
    if m and string.sub(m.token, 1, #nonce + 1) == nonce .. ':' and call('ZSCORE', LEASE, id) then
      call('ZADD', LEASE, digits(queue_now + lease_ms), id)
      if store.has(id) then give(id, m, store.payload(id)) end
    end
  end
  call('EXPIRE', remembered, REMEMBERED)
  return {0, NOW, 0, given, {}, '', 0, '', estimate or ''}
end

tick(lease_ms, beat_ms)
expiry = digits(queue_now + lease_ms)
local reaped = reap(max_crashes)
if control.paused or asked == 0 then
  if reaped > 0 then ring('ready') end
  stand_up(owner)
  return {-2, NOW, reaped, given, buried, '', 0, '', ''}
end
local flows = wants_flow
if flows then
  begin_flow()
  flow.declare(ARGV[13], ARGV[14], ARGV[15])
  n = flow.allow(asked, is_probe, beat_ms)
  charged = flow.charges() and digits(flow.estimate()) or ''
  if flow.tokens then AT_ONCE = 1 end
end
local due = is_empty(DELAYED) and {} or call('ZRANGEBYSCORE', DELAYED, '-inf', digits(queue_now), 'LIMIT', 0, BATCH)
for _, id in ipairs(due) do
  local m = load_or_forget(id)
  if m then requeue(id, m) end
end

-- Held jobs come back to the head, at most one with a claim: with every claim if no call has failed since one succeeded, otherwise
-- one for each success, or they would wait for ever behind fresh jobs where calls fail now and then. If all came back at once
-- and failed again, they would block everything behind them.
local unheld
if control.held and (not control.blamed or number_in_control('back') > 0) then
  unheld = call('ZRANGE', HELD, 0, 0)[1]
  if unheld then
    call('ZREM', HELD, unheld)
    if number_in_control('back') > 0 then add(CONTROL, 'back', -1) end
    local m = load_or_forget(unheld)
    if m then requeue(unheld, m, READY) end
  else
    call('HDEL', CONTROL, 'held', 'back')
  end
end

local function take(id, m, payload, name)
  m.token, m.owner = nonce .. ':' .. (#given + 1), owner
  if turns then turns.begins(id, payload) end
  push(metas, id, packed(m))
  push(leases, expiry, id)
  ids[#ids + 1] = id
  bytes = bytes + #payload
  if flows then flow.charge(payload) end
  give(id, m, payload, name)
end

local function write_taken()
  call_with('HSET', META, metas)
  call_with('ZADD', LEASE, leases)
  metas, leases = {}, {}
end

-- Whether the claim may go on, until it has `most` jobs.
local function room(most)
  return #given < (most or n) and bytes < max_bytes and passed < BATCH and not (flows and flow.out_of_tokens())
end

-- The oldest job with a place in this range that was claimed before.
local function oldest(low, high)
  local function first(key)
    if not is_empty(key) then return unpack(call('ZRANGE', key, low, high, 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')) end
  end
  local ready, place = first(READY)
  if not may_suspect then return ready, READY end
  local suspect, place_of_suspect = first(SUSPECT)
  if suspect and not (ready and tonumber(place) < tonumber(place_of_suspect)) then
    may_suspect = false
    return suspect, SUSPECT
  end
  return ready, READY
end

-- Takes jobs that were claimed before, in the order of `next_id`.
local function take_again(next_id, most)
  while room(most) do
    local id, from = next_id()
    if not id then break end
    call('ZREM', from, id)
    local m = load_or_forget(id)
    if m then
      store.own(id, owner)
      take(id, m, store.payload(id))
    else
      passed = passed + 1
    end
  end
  write_taken()
end

local function take_first(id, payload, name)
  if #payload > LARGEST then
    bury_unsettled(id, new_meta_of(payload, name), 'too_large',
                   #payload .. ' bytes; more than ' .. LARGEST .. ' are not even read')
    bytes = bytes + #payload
  else
    take(id, new_meta(), payload, name)
  end
end

local function take_fresh(most)
  while room(most) do
    local asked = math.min(AT_ONCE, most - #given)
    local found = store.take(owner, asked)
    for _, job in ipairs(found) do take_first(unpack(job, 1, 3)) end
    write_taken()
    if #found < asked then break end
  end
end

-- A job is stored before it leaves the list of its class: wherever the script fails, it is in one of the two places.
local function take_fresh_of(class, most)
  while room(most) do
    local payload = call('LINDEX', LISTS[class], -1)
    if not payload then break end
    local id, name = store.keep('', payload, '')
    call('HSET', CLASS, id, class)
    call('RPOP', LISTS[class])
    store.own(id, owner)
    take_first(id, payload, name)
  end
  write_taken()
end

local function take_unlined(class, most)
  if LISTS[class] then take_fresh_of(class, most) else take_fresh(most) end
end

local take_in_turn = take_unlined
if turns then
-- Takes the first job of a tenant's line, stored before it leaves that; returns whether there was one that the tenant may have.
local function take_of_line(class, tenant)
  local held, ms = turns.held(tenant)
  if ms > 0 then free_in = math.min(free_in, ms) end
  local member = held == '' and turns.first(class, tenant)
  if not member then return false end
  local payload = call('HGET', TURN_PAYLOADS, member)
  if payload then
    local id, name = store.keep('', payload, '')
    turns.claimed(class, tenant, id)
    call('HDEL', TURN_PAYLOADS, member)
    store.own(id, owner)
    take_first(id, payload, name)
    write_taken()  -- before the store is read
  else
    passed = passed + 1
  end
  call('ZREM', TURNS, member)
  return true
end

-- Takes jobs of a class that were never claimed: of tenants in turn, if any has a line.
take_in_turn = function(class, most)
  local queue = room(most) and fairness.begin(class)
  while queue and room(most) do
    local tenant, before = fairness.next(queue), #given
    if not tenant then break end
    if tenant.tenant ~= '' then
      tenant.done = not take_of_line(class, tenant.tenant)
    else
      take_unlined(class, fairness.is_last(queue) and most or before + 1)
      tenant.done = #given == before
    end
    if #given > before then fairness.served(queue, tenant) end
  end
  if queue then fairness.write(queue) else take_unlined(class, most) end
end
end

-- Takes jobs of a class, until there are `most` in all.
local function serve(class, most)
  local low, high = unpack(RANGES[class])
  take_again(function() return oldest(low, high) end, most)  -- before the store is read: it looks at the leases
  take_in_turn(class, most)
end

-- Of ten jobs in a row, whoever claims them, one is of the lowest class and one is standard, if there are such.
if classed then
  local before, drained = whole(call('HGET', CONTROL, 'n_claimed')) or 0, {}
  local function next_class(turn)
    local favoured = turn == 9 and 'background' or turn == 4 and 'standard'
    if favoured and not drained[favoured] then return favoured, #given + 1 end
    for _, class in ipairs({'interactive', 'standard', 'background'}) do
      if not drained[class] then return class, #given + (turn < 4 and 4 - turn or turn < 9 and 9 - turn or 1) end
    end
  end
  while room() do
    local class, most = next_class((before + #given) % 10)
    if not class then break end
    most = math.min(most, n, class == 'background' and flows and flow.background or n)
    if #given < most then serve(class, most) end
    drained[class] = #given < most or most < n and class == 'background' and flows and most == flow.background
  end
else
  serve('standard', n)
end

if control.held then take_again(function() return call('ZRANGE', HELD, 0, 0)[1], HELD end) end

if #ids > 0 then
  call('SET', remembered, nonce .. '|' .. table.concat(ids, ',') .. (charged ~= '' and '|' .. charged or ''), 'EX', REMEMBERED)
  increment('claimed', #ids)
end
local from = store.taken()  -- last: if it raises, the jobs given are remembered
if reaped > 0 or unheld then ring('ready') end

if flows then
  flow.charged()
  if is_probe and #given > 0 then flow.probe(nonce, lease_ms) end
  flow.write()
end
local stopped, seated = #given < n and (bytes >= max_bytes or passed >= BATCH), false
local held = flows and #given < asked and not stopped and flow.held_back(#given, n, may_suspect) or ''
if #given == asked or stopped then
  stand_up(owner)
  share(lanes, flows and flow.left(#given) or math.huge)
end
if #given < asked or has_more_lanes then seated = sit_down(owner) end
if reaped == BATCH or #due == BATCH or stopped then
  return {0, NOW, reaped, given, buried, from, 0, held, charged}
end
if not seated then return {-1, NOW, reaped, given, buried, from, 0, held, charged} end
if held ~= '' and held ~= 'background' then return {flow.wait, NOW, reaped, given, buried, from, 1, held, charged} end

local function earliest(key)
  local score = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  return score and tonumber(score)
end

local due_next, expires_next = earliest(DELAYED), earliest(LEASE)
if expires_next then expires_next = math.max(expires_next, number_in_control('amnesty')) end
local next_at = math.min(due_next or math.huge, expires_next or math.huge, queue_now + free_in)
return {next_at < math.huge and math.min(math.max(10, next_at + 1 - queue_now), A_LONG_TIME) or -1, NOW, reaped, given, buried, from, 1,
        held, charged}
