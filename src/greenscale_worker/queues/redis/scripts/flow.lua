-- Shared by the scripts that decide, or read, how many jobs the fleet may run (docs/queue-protocol.md, "Flow control"). FLOW is a
-- hash of which no field is needed; the field `flow` of control is there while it is in use:
--   limit, requests, tokens  as the last claim or heartbeat declared them: how many calls may be open (a number, `engine`, or
--                            `engine` and the most that it may be), how many may begin in a minute, and how many tokens they may cost
--   engine, engine_ms        the limit that the engine's own metrics allow, and when that was found, ms of the queue's time
--   engine_calm, engine_why  for who looks next; why the engine cannot be seen (empty: it can)
--   looker                   until when, and by whom, the engine is looked at: see observe.lua
--   r, t, at                 what the budgets held, and when, ms of the queue's time
--   told                     requests and tokens a minute by the endpoint's headers, and when they came
--   mean_out, mean_ms        running means of an answer's tokens and of a call's time
--   hold                     until when no call is to begin, ms of the queue's time
--   ramp                     how many calls may be open after that, and at how many the slow start ends
--   probe                    until when a probe of the fleet is out, and the nonce of its claim
--   shut|<owner>, dark       until when this worker's breaker is open; until when those of all are, and where the slow start ends
-- Another program may have written anything here: what cannot be read counts as missing, and a foreign type as no field at all.
local flow, begin_flow

-- Defines the functions of this part, once. Only where they are needed: to define them takes a tenth of a job's time here, and to
-- make a function that may do so takes a hundredth, as it holds a name of most of what is above it.
if wants_flow then
begin_flow = function()
if flow then return end
flow = {values = {}, changed = {}, background = nil, why = '', wait = 0, free = math.huge}
local FLOW_FIELDS = {'limit', 'requests', 'tokens', 'engine', 'r', 't', 'at', 'told', 'mean_out', 'mean_ms', 'hold', 'ramp', 'probe',
                     'dark', 'engine_ms', 'engine_why'}
local LONGEST_HOLD = 700000   -- ms; an endpoint may ask for 600 s, to which jitter is added
local LONGEST_PROBE = 3600000  -- ms
local TOLD_MS = 60000          -- what headers said counts for so long
local UNKNOWN_OUT = 256        -- tokens of an answer, until there was one
local LEARNING = 16            -- answers that the running means look back at
local FOR_OTHERS = 0.3         -- of the limit, where `background` does not go
local MOST_ROOM = 9999
local A_MINUTE = 60000
local LONGEST_WAIT = 700000    -- ms
local MOST_OUT = 1e6           -- tokens of an answer
local LEVEL = {requests = 'r', tokens = 't'}  -- the fields with what the budgets held

-- Text as a number; nil for all else.
local function decimal(text)
  local number = text and #text <= 24 and string.find(text, '^%-?%d+%.?%d*$') and tonumber(text)
  return number and math.abs(number) < MOST and number or nil
end

function flow.positive(text)
  local number = decimal(text)
  return number and number > 0 and number or nil
end

-- Reads the hash, once, if it is in use.
function flow.read()
  if flow.loaded then return end
  flow.loaded = true
  local found = control.flow and redis.pcall('HMGET', FLOW, unpack(FLOW_FIELDS)) or {}
  for i, field in ipairs(FLOW_FIELDS) do flow.values[field] = not found.err and found[i] or nil end
end

-- Sets a field, or deletes it with nil; `flow.write` writes it.
local function set(field, text)
  flow.values[field], flow.changed[field] = text, true
end

-- Writes what has changed. A foreign type under the key does not undo what the script has done.
function flow.write()
  local words, gone = {}, {}
  for field in pairs(flow.changed) do
    if flow.values[field] then push(words, field, flow.values[field]) else gone[#gone + 1] = field end
  end
  flow.changed = {}
  if #words > 0 then redis.pcall('HSET', FLOW, unpack(words)) end
  if #gone > 0 then redis.pcall('HDEL', FLOW, unpack(gone)) end
  if #words > 0 and not control.flow then
    call('HSET', CONTROL, 'flow', '1')
    control.flow = '1'
  end
end

-- Until when no call is to begin; nil: calls may.
function flow.held_until()
  local hold = whole(flow.values.hold)
  return hold and hold > queue_now and hold <= queue_now + LONGEST_HOLD and hold or nil
end

-- Until when, and for what, a field holds, if it does: `until word`.
local function lasting(field)
  local till, word = string.match(flow.values[field] or '', '^(%d+) (%S+)$')
  till = whole(till)
  return till and till > queue_now and till <= queue_now + LONGEST_PROBE and till or nil, word
end

-- How many calls the fleet may have open; nil: no limit.
function flow.limit()
  local limit = flow.values.limit
  local most = string.match(limit or '', '^engine ?(%d*)$')
  if most then
    local age = queue_now - (whole(flow.values.engine_ms) or 0)
    limit = whole(flow.values.engine) or 8
    if age < 0 or age > A_MINUTE then limit = math.min(limit, 8) end  -- nobody has looked; as in engine_limit.py
    limit = math.min(limit, whole(most) or limit)
  else
    limit = whole(limit)
  end
  return limit and math.max(1, limit)
end

-- How many calls may be open in a slow start, and at how many it ends; nil: there is none.
local function ramp()
  local allowed, goal = string.match(flow.values.ramp or '', '^(%d+) (%d+)$')
  allowed, goal = whole(allowed), whole(goal)
  if allowed and goal and allowed < goal then return math.max(1, allowed), goal end
end

local function begin_ramp(goal)
  local _, before = ramp()
  goal = math.max(goal, before or 0)
  set('ramp', goal > 1 and '1 ' .. digits(goal) or nil)
end

-- How much a budget gets in a minute; nil: it has no bound. Headers may only lower it.
local PLACE = {requests = 1, tokens = 2}
local function rate(what)
  local own = flow.positive(flow.values[what])
  if not own then return nil end
  local told = {string.match(flow.values.told or '', '^(%S+) (%S+) (%d+)$')}
  local age = queue_now - (whole(told[3]) or 0)
  return math.min(own, age >= 0 and age <= TOLD_MS and flow.positive(told[PLACE[what]]) or own)
end

-- What a budget holds; nil: it has no bound. Half a second's worth at most: providers judge by the second, and theirs must never be
-- emptier than ours. Tokens may go into debt; a request is one at least.
local function level(what)
  local per_minute, before = rate(what), decimal(flow.values[LEVEL[what]])
  if not per_minute then return nil end
  local most = math.max(per_minute / 120, what == 'requests' and 1 or 0)
  local at = whole(flow.values.at) or 0
  if not before or at > queue_now + A_MINUTE then return most, per_minute, most end  -- no script of ours wrote that time
  local passed = math.max(0, queue_now - at)  -- at is later until a claim or heartbeat notices that the clock went back
  local least = what == 'requests' and 0 or -60 * per_minute
  return math.min(most, math.max(least, before) + passed * per_minute / A_MINUTE), per_minute, most
end

-- Sets what the budgets hold, as of now.
local function set_levels(requests, tokens)
  if requests then set('r', string.format('%.6f', requests)) end
  if tokens then set('t', string.format('%.6f', tokens)) end
  if requests or tokens then set('at', digits(queue_now)) end
end

-- Takes over what a worker declares of the fleet.
function flow.declare(limit, requests, tokens)
  local declared = {limit = limit or '', requests = requests or '', tokens = tokens or ''}
  flow.read()
  local requests_left, tokens_left = level('requests'), level('tokens')
  local is_changed = (flow.values.requests or '') ~= declared.requests or (flow.values.tokens or '') ~= declared.tokens
  if is_changed then set_levels(requests_left, tokens_left) end  -- what was filled by the old rate
  for field, text in pairs(declared) do
    if (flow.values[field] or '') ~= text then
      set(field, text ~= '' and text or nil)
      if text == '' and LEVEL[field] then set(LEVEL[field], nil) end
    end
  end
end

-- What a call is charged for its answer before it is known.
function flow.estimate()
  local mean = flow.positive(flow.values.mean_out)
  return math.ceil(mean and mean <= MOST_OUT and mean or UNKNOWN_OUT)
end

-- How many jobs may be claimed now, of so many asked for; `flow.why` and `flow.wait` then say what allows no more, and for how long.
function flow.allow(asked, is_probe, beat_ms)
  flow.read()
  local n, limit, allowed = asked, flow.limit(), ramp()
  local function bound(most, why, wait)
    most = math.max(0, most)
    flow.free = math.min(flow.free, most)
    if most < n then n, flow.why, flow.wait = most, why, math.max(1, math.ceil(math.min(wait, LONGEST_WAIT))) end
  end
  local hold, probe = flow.held_until(), lasting('probe')
  if hold then bound(0, 'pause', hold - queue_now) end
  if is_probe and probe then bound(0, 'probe', probe - queue_now) end
  if limit or allowed then
    local in_flight = call('ZCARD', LEASE)
    if limit then bound(limit - in_flight, 'limit', beat_ms) end
    if allowed then bound(allowed - in_flight, 'pause', beat_ms) end
    local most = math.min(limit or allowed, allowed or limit)
    flow.background = math.ceil(most * (1 - FOR_OTHERS)) - in_flight
  end
  local left, a_minute = level('requests')
  if left then bound(math.floor(left + 1e-6), 'requests', (math.floor(left + 1e-6) + 1 - left) * A_MINUTE / a_minute) end
  flow.tokens, a_minute = level('tokens')
  if flow.tokens then flow.tokens_a_minute = a_minute end
  flow.out_of_tokens(bound)
  return n
end

-- Whether the budget of tokens is used up; `bound` is then told of it.
function flow.out_of_tokens(bound)
  local is_out = flow.tokens and flow.tokens <= 0
  if is_out and bound then bound(0, 'tokens', 1 - flow.tokens * A_MINUTE / flow.tokens_a_minute) end
  return is_out
end

-- How many jobs more may be claimed, after so many.
function flow.left(given) return flow.out_of_tokens() and 0 or flow.free - given end

-- Charges a job that a claim takes: one request, its payload, and what an answer costs in the mean.
function flow.charge(payload)
  flow.requests_charged = (flow.requests_charged or 0) + 1
  if flow.tokens then flow.tokens = flow.tokens - math.ceil(#payload / 4) - flow.estimate() end
end

-- Whether jobs are charged.
function flow.charges() return flow.positive(flow.values.requests) or flow.positive(flow.values.tokens) end

-- Why jobs that wait were not given by a claim: so many were, and it was allowed to give n; empty: none waits.
function flow.held_back(given, n, may_suspect)
  local ready = call('ZCARD', READY)
  local waiting = unclaimed() + ready + call('ZCARD', HELD) + (may_suspect and call('ZCARD', SUSPECT) or 0)
  if waiting == 0 then return '' end
  if flow.out_of_tokens(function(_, why, wait) flow.why, flow.wait = why, math.ceil(math.min(wait, 60000)) end) then return 'tokens' end
  if given == n then return flow.why end
  local listed = classed and flow.background and flow.background <= given and call('LLEN', BACKGROUND) + ready
    + (turns and turns.count('w|background|') or 0) or 0
  return listed > 0 and 'background' or ''
end

-- Notes that a probe is out: while it is, no other worker whose breaker is open makes one.
function flow.probe(nonce, lease_ms) set('probe', digits(queue_now + lease_ms) .. ' ' .. nonce) end

-- Prolongs a probe that is still out.
function flow.prolong_probe(token, lease_ms)
  local probe, nonce = lasting('probe')
  if probe and string.sub(token, 1, #nonce + 1) == nonce .. ':' then flow.probe(nonce, lease_ms) end
end

-- Notes whether the breaker of a worker is open, and, if so, whether those of all are: of `alive` workers with `lanes` each.
function flow.shut(owner, is_shut, lease_ms, alive, lanes)
  local field = 'shut|' .. owner
  if not is_shut then
    if control.flow then
      redis.pcall('HDEL', FLOW, field)
      if flow.values.dark then set('dark', nil) end
    end
    return
  end
  set(field, digits(queue_now + lease_ms))
  local found, open = redis.pcall('HGETALL', FLOW), 1
  for i = 1, found.err and 0 or #found, 2 do
    local other = string.match(found[i], '^shut|(.*)$')
    if other and other ~= owner and (whole(found[i + 1]) or 0) > queue_now and call('ZSCORE', WORKERS, other) then open = open + 1 end
  end
  local goal = math.max(alive * lanes, call('ZCARD', LEASE))
  set('dark', open >= alive and digits(queue_now + lease_ms) .. ' ' .. digits(goal) or nil)
end

-- Deletes all that is no longer in use, and at last the flag.
function flow.tidy()
  local values = flow.values
  local declared = values.limit or values.requests or values.tokens
  if not control.flow or declared or flow.held_until() or ramp() or lasting('probe') or lasting('dark') then return end
  redis.pcall('HDEL', FLOW, 'looker', 'engine_calm', unpack(FLOW_FIELDS))
  if redis.pcall('HLEN', FLOW) == 0 then call('HDEL', CONTROL, 'flow') end
end

-- Forgets a worker that has left.
function flow.forget(owner)
  if control.flow then redis.pcall('HDEL', FLOW, 'shut|' .. owner) end
end

-- Notes what a claim has charged.
function flow.charged()
  if flow.requests_charged then
    local left = level('requests')
    set_levels(left and left - flow.requests_charged, flow.tokens)
  end
end

-- The numbers in a text of pairs: those of item i are 2 i - 1 and 2 i.
function flow.pairs(text)
  local numbers = {}
  for number in string.gmatch(text or '', '%S+') do numbers[#numbers + 1] = decimal(number) or 0 end
  return numbers
end

-- Gives back to the budgets what was charged too much; less than 0: too little.
function flow.give_back(tokens, requests)
  flow.back_tokens = (flow.back_tokens or 0) + (tokens or 0)
  flow.back_requests = (flow.back_requests or 0) + (requests or 0)
end

local function learn(field, number)
  local before = flow.positive(flow.values[field])
  if number > 0 then set(field, string.format('%.1f', before and before + (number - before) / LEARNING or number)) end
end

-- Notes the end of a call: the means learn from it, a probe is over, a slow start goes on.
function flow.ended(token, owner, succeeded, spent)
  flow.read()
  local ms, completion = string.match(spent or '', '^%d+ (%d+) %d+ (%d+)')
  if succeeded and ms then
    learn('mean_ms', tonumber(ms))
    learn('mean_out', tonumber(completion))
  end
  local probe, nonce = lasting('probe')
  if probe and string.sub(token, 1, #nonce + 1) == nonce .. ':' then
    local dark, goal = lasting('dark')
    set('probe', nil)
    if succeeded then
      set('shut|' .. owner, nil)
      set('dark', nil)
      if dark then begin_ramp(whole(goal) or 0) end
    end
  elseif succeeded and not flow.held_until() then
    local allowed, goal = ramp()
    if allowed then set('ramp', allowed + 1 < goal and digits(allowed + 1) .. ' ' .. digits(goal) or nil) end
  end
end

-- Lowers the budgets by what the endpoint's headers say: limit and remaining requests, limit and remaining tokens; `-`: unknown.
function flow.tell(told)
  local limit_r, left_r, limit_t, left_t = string.match(told, '^(%S+) (%S+) (%S+) (%S+)$')
  if not limit_r then return end
  if flow.positive(limit_r) or flow.positive(limit_t) then set('told', limit_r .. ' ' .. limit_t .. ' ' .. digits(queue_now)) end
  flow.left_requests, flow.left_tokens = flow.positive(left_r), flow.positive(left_t)
end

-- Puts the budgets right, and writes what this script has noted of calls that ended.
function flow.settle()
  local requests, tokens = level('requests'), level('tokens')
  local back_r, back_t, least_r, least_t = flow.back_requests or 0, flow.back_tokens or 0, flow.left_requests, flow.left_tokens
  if back_r ~= 0 or back_t ~= 0 or least_r or least_t then
    local _, _, most_r = level('requests')
    local _, _, most_t = level('tokens')
    requests = requests and math.min(requests + back_r, most_r or requests + back_r, least_r or math.huge)
    tokens = tokens and math.min(tokens + back_t, most_t or tokens + back_t, least_t or math.huge)
    set_levels(requests, tokens)
  end
  flow.write()
end

-- Lets the fleet make no call for so many ms, and then begin slowly.
function flow.pause(ms)
  flow.read()
  local hold = queue_now + math.min(ms, LONGEST_HOLD)
  if hold > (flow.held_until() or 0) then set('hold', digits(hold)) end
  begin_ramp(call('ZCARD', LEASE))
end

-- Whether the breakers of all workers are open.
function flow.is_dark() return control.flow and lasting('dark') and true or false end

-- How many jobs the endpoint can work on at once; nil: no bound is known. As `Flow.room` in queues/flow.py.
function flow.room(scaled)
  if control.paused and scaled then return 0 end
  if control.paused or flow.is_dark() then return math.max(1, call('ZCARD', LEASE)) end
  local limit, requests, mean_ms = flow.limit(), flow.positive(flow.values.requests), flow.positive(flow.values.mean_ms)
  local by_rate = requests and mean_ms and math.max(1, math.ceil(requests / 60 * mean_ms / 1000))
  return limit and by_rate and math.min(limit, by_rate) or limit or by_rate
end

-- Makes a list as long as the room, and one longer; no list: no bound. KEDA reads a missing one as 0.
function flow.write_room(key, room)
  local wanted, length = room and math.min(room, MOST_ROOM) + 1 or 0, redis.pcall('LLEN', key)
  if type(length) ~= 'number' or length == wanted then return end
  if wanted == 0 then
    redis.pcall('DEL', key)
  elseif wanted < length then
    redis.pcall('LTRIM', key, 0, wanted - 1)
  end
  while length < wanted do
    local words = {}
    for _ = 1, math.min(wanted - length, 5000) do words[#words + 1] = '0' end
    redis.pcall('LPUSH', key, unpack(words))
    length = length + #words
  end
end
end
end
