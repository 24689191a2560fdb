-- Makes one worker of the fleet look at the engine, and takes over the limit that it found. To look is a lease: if that worker dies,
-- another one looks.
--
-- KEYS  as in prelude.lua
-- ARGV  3 owner, 4 ms for which it looks, 5 the limit it found (empty: none), 6 in how many looks in a row nothing was waiting inside,
--       7 why the engine cannot be seen (empty: it can)
-- Output {whether it is the one (1 or 0), the limit found last (empty: none), calls in flight, looks without waiting}
run_when_full()
local found = redis.pcall('HMGET', FLOW, 'looker', 'engine', 'engine_calm')
local looker, limit, calm = unpack(found.err and {} or found)
local till, by = string.match(looker or '', '^(%d+) (.*)$')
till, limit, calm = whole(till), whole(limit), whole(calm)
if till and till > queue_now and till <= queue_now + tonumber(ARGV[4]) and by ~= ARGV[3] then return {0, '', 0, 0} end
local words, is_more = {'looker', digits(queue_now + tonumber(ARGV[4])) .. ' ' .. ARGV[3]}, false
local given = whole(ARGV[5])
if given then
  is_more = given > (limit or 0)
  limit, calm = given, whole(ARGV[6])
  push(words, 'engine', ARGV[5])
  push(words, 'engine_calm', ARGV[6])
  push(words, 'engine_ms', digits(queue_now))
  push(words, 'engine_why', ARGV[7])
end
redis.pcall('HSET', FLOW, unpack(words))
if is_more then ring('ready') end  -- workers that the limit holds back may claim
return {1, limit and digits(limit) or '', call('ZCARD', LEASE), digits(calm or 0)}
