-- Tells what holds jobs back, and what the autoscaler needs to know.
--
-- KEYS  as in prelude.lua
-- ARGV  3 ms within which a worker alive has sent a heartbeat
-- Output {unclaimed, open, in flight, workers alive, whether paused, scaled to zero, shut (1 or 0), what holds jobs back, ms until
--         that may end, ms until the next job is due, limit, requests and tokens a minute, mean ms of a call, why
--         the engine cannot be seen}; empty: none
local function flag(is) return is and 1 or 0 end

begin_flow()
flow.read()
local values, waiting = flow.values, unclaimed()
local shut, held, held_ms = flow.is_dark(), '', 0
if waiting + call('ZCARD', READY) + call('ZCARD', SUSPECT) + call('ZCARD', HELD) > 0 then
  if control.paused then
    held = 'paused'
  elseif shut then
    held = 'breaker'
  elseif control.flow and flow.allow(1, false, 0) == 0 then
    held, held_ms = flow.why, (flow.why == 'limit' or not flow.held_until()) and flow.why ~= 'requests' and flow.why ~= 'tokens'
      and 0 or flow.wait
  end
end
local due = call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2]
local later = call('ZRANGE', LATER, 0, 0, 'WITHSCORES')[2]
due, later = due and due - queue_now, later and later - now
local next_due = due and later and math.min(due, later) or due or later
local limit = flow.limit()
local function text_of(field) return flow.positive(values[field]) and values[field] or '' end

return {waiting, call('HLEN', META), call('ZCARD', LEASE), call('ZCOUNT', WORKERS, digits(now - tonumber(ARGV[3])), '+inf'),
        flag(control.paused), flag(control.paused and call('HGET', CONTROL, 'scaled')), flag(shut), held, held_ms,
        next_due and digits(math.min(math.max(0, next_due), 1e15)) or '', limit and digits(limit) or '', text_of('requests'), text_of('tokens'),
        text_of('mean_ms'), string.find(values.limit or '', '^engine') and values.engine_why or ''}
