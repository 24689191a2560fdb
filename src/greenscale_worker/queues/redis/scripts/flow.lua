-- Shared by the scripts that decide, or read, how many jobs the fleet may run (docs/queue-protocol.md, "Flow control"). A hash,
-- of which no field is needed; the field `flow` of control is there while it is in use:
--   limit, requests, tokens  as the last claim or heartbeat declared them: how many calls may be open (a number, or `engine`), and how
--                            many calls and tokens a minute
--   engine, looker           the limit that `observe` found; until when and by whom the engine is observed
--   r, t, at                 what the budgets hold, and when, ms of the queue's time; told: what the endpoint's headers said last
--   mean_out, mean_ms        running means of an answer's tokens and of a call's time
--   hold, hold_why           until when no call is to begin, ms of the queue's time, and why
--   ramp                     calls allowed, and how many end the slow start
--   probe                    until when a probe is out, and its nonce; shut|<owner>  until when this worker's breaker is open
-- Another program may have written anything here: what cannot be read counts as missing, and a foreign type as no field at all.
local flow = {values = {}, on = false}
local FLOW_FIELDS = {'limit', 'requests', 'tokens', 'engine', 'r', 't', 'at', 'told', 'mean_out', 'mean_ms', 'hold', 'ramp', 'probe'}
local LONGEST_HOLD = 700000  -- ms; an endpoint may ask for 600 s, to which jitter is added

-- Text as a number above 0; nil for all else.
local function positive(text)
  local number = text and #text <= 24 and string.find(text, '^%d+%.?%d*$') and tonumber(text)
  return number and number > 0 and number < MOST and number or nil
end

-- Reads the hash, once.
function flow.read()
  if flow.loaded then return end
  flow.loaded = true
  local found = redis.pcall('HMGET', FLOW, unpack(FLOW_FIELDS))
  for i, field in ipairs(FLOW_FIELDS) do flow.values[field] = not found.err and found[i] or nil end
end

-- How many calls the fleet may have open; nil: no limit.
function flow.limit()
  local values = flow.values
  if values.limit == 'engine' then return math.max(1, whole(values.engine) or 1) end
  local limit = whole(values.limit)
  return limit and math.max(1, limit)
end

-- Until when no call is to begin; nil: calls may.
function flow.held_until()
  local hold = whole(flow.values.hold)
  return hold and hold > queue_now and hold <= queue_now + LONGEST_HOLD and hold or nil
end

-- Whether the breakers of all workers alive are open.
function flow.is_shut(workers)
  if not control.flow or workers == 0 then return false end
  local found, open = redis.pcall('HGETALL', FLOW), 0
  for i = 1, found.err and 0 or #found, 2 do
    local owner = string.match(found[i], '^shut|(.*)$')
    if owner and (whole(found[i + 1]) or 0) > queue_now and call('ZSCORE', WORKERS, owner) then open = open + 1 end
  end
  return open >= workers
end
