-- Tells what holds jobs back, and what the autoscaler needs to know.
--
-- KEYS  as in prelude.lua
-- ARGV  3 ms within which a worker alive has sent a heartbeat
-- Output {unclaimed, open, in flight, workers alive, whether paused, scaled to zero, shut (1 or 0), what holds jobs back, ms until
--         that may end, ms until the next job is due, limit, requests and tokens a minute, mean ms of a call}; empty: none
local function flag(is) return is and 1 or 0 end

if control.flow then flow.read() end
local waiting, in_flight, paused = unclaimed(), call('ZCARD', LEASE), control.paused and true
local workers = call('ZCOUNT', WORKERS, digits(now - tonumber(ARGV[3])), '+inf')
local shut = flow.is_shut(workers)
local claimable = waiting + call('ZCARD', READY) + call('ZCARD', SUSPECT) + call('ZCARD', HELD)
local held, held_ms = '', 0
if claimable > 0 and paused then held = 'paused' elseif claimable > 0 and shut then held = 'breaker' end
local due = call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2]
local later = call('ZRANGE', LATER, 0, 0, 'WITHSCORES')[2]
due, later = due and due - queue_now, later and later - now
local next_due = due and later and math.min(due, later) or due or later
local limit = flow.limit()
return {waiting, call('HLEN', META), in_flight, workers, flag(paused), flag(paused and call('HGET', CONTROL, 'scaled')), flag(shut),
        held, held_ms, next_due and digits(math.max(0, next_due)) or '', limit and digits(limit) or '',
        positive(flow.values.requests) and flow.values.requests or '', positive(flow.values.tokens) and flow.values.tokens or '',
        positive(flow.values.mean_ms) and flow.values.mean_ms or ''}
