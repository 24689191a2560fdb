#!lua flags=allow-oom
-- Adds readings to a site: each of them once, however often it comes, and no more than are to be kept.
--
-- What is kept are the newest by their own time. So the oldest that is kept only ever gets younger, and a reading that
-- was dropped does not come back when it is delivered again: it is older than all of those.
-- A full Redis does not stop it (allow-oom): it is the way out of the stream, and it may make room.
--
-- KEYS  1 list     LIST  readings in JSON, in the order in which they came (public)
--       2 by_time  ZSET  the same readings -> their time in µs: their order, and which there are already
-- ARGV  1 how many are kept; 0: any number
--       2 for how many ms; 0: for ever
--       3 time in µs, 4 reading; and so on
-- Gives how many are new.
local LIST, BY_TIME = KEYS[1], KEYS[2]
local most, keep_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local call = redis.call
local new, is_new = {}, {}
call('LLEN', LIST) -- fails where the key is no list, before anything is written

for at = 3, #ARGV, 2 do
  local reading = ARGV[at + 1]
  if call('ZADD', BY_TIME, 'NX', ARGV[at], reading) == 1 then
    new[#new + 1] = reading
    is_new[reading] = true
  end
end

local function drop(reading)
  if is_new[reading] then
    is_new[reading] = nil
  else
    call('LREM', LIST, 1, reading) -- from the head, where the oldest mostly are
  end
end

if keep_ms > 0 then
  local now = call('TIME')
  local oldest = string.format('(%d', now[1] * 1000000 + now[2] - keep_ms * 1000)
  for _, reading in ipairs(call('ZRANGE', BY_TIME, '-inf', oldest, 'BYSCORE')) do
    drop(reading)
  end
  call('ZREMRANGEBYSCORE', BY_TIME, '-inf', oldest)
end

local over = most > 0 and call('ZCARD', BY_TIME) - most or 0
if over > 0 then
  local oldest = call('ZPOPMIN', BY_TIME, over)
  for at = 1, #oldest, 2 do
    drop(oldest[at])
  end
end

local kept = 0
for _, reading in ipairs(new) do
  if is_new[reading] then
    call('RPUSH', LIST, reading)
    kept = kept + 1
  end
end

-- A site that has fallen silent goes with its last reading.
local newest = keep_ms > 0 and call('ZRANGE', BY_TIME, -1, -1, 'WITHSCORES')[2]
for _, key in ipairs(KEYS) do
  if newest then
    call('PEXPIREAT', key, string.format('%d', math.floor(newest / 1000) + keep_ms + 1))
  else
    call('PERSIST', key)
  end
end
return kept
