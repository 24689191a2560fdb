-- Makes one worker of the fleet look at the engine, and takes over the limit that it found.
--
-- KEYS  as in prelude.lua
-- ARGV  3 owner, 4 ms for which it looks, 5 the limit it found (empty: none)
-- Output {whether it is the one (1 or 0), the limit found last (empty: none), calls in flight}
run_when_full()
flow.read()
local looker = redis.pcall('HGET', FLOW, 'looker')
local till, by = string.match(type(looker) == 'string' and looker or '', '^(%d+) (.*)$')
till = whole(till)
local is_taken = till and till > queue_now and till <= queue_now + 3600000 and by ~= ARGV[3]
if not is_taken then
  flow.values.looker, flow.changed.looker = digits(queue_now + tonumber(ARGV[4])) .. ' ' .. ARGV[3], true
  if whole(ARGV[5]) then flow.values.engine, flow.changed.engine = ARGV[5], true end
  flow.write()
end
local engine = whole(flow.values.engine)
return {is_taken and 0 or 1, engine and digits(engine) or '', call('ZCARD', LEASE)}
