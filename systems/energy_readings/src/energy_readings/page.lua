#!lua flags=no-writes
-- Finds readings of a site, the newest first.
--
-- KEYS  1 by_time  ZSET  readings -> their time in µs
-- ARGV  1 earliest time in µs or -inf
--       2 latest time in µs or +inf
--       3 how many at most
--       4 the reading after which to go on; none: at the beginning. Where it is gone, all that is older is gone too.
-- Gives the readings.
local from, to, most, after = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if not after then
  return redis.call('ZRANGE', KEYS[1], to, from, 'BYSCORE', 'REV', 'LIMIT', 0, most)
end
local rank = redis.call('ZREVRANK', KEYS[1], after)
if not rank then
  return {}
end
local earliest = from == '-inf' and -math.huge or tonumber(from)
local found = redis.call('ZRANGE', KEYS[1], rank + 1, rank + most, 'REV', 'WITHSCORES')
local page = {}
for at = 1, #found, 2 do
  if tonumber(found[at + 1]) >= earliest then
    page[#page + 1] = found[at]
  end
end
return page
