#!lua flags=allow-oom
-- Adds readings to sites: each of them once, however often it comes, and no more than are to be kept.
--
-- What is kept are the newest by their own time. So the oldest that is kept only ever gets younger, and a reading that
-- was dropped does not come back when it is delivered again: it is older than all of those.
-- A full Redis does not stop it (allow-oom): it is the way out of the stream, and it may make room.
--
-- KEYS  1 sites  ZSET  sites -> the time of their newest reading in µs: which sites there are
--       for each site
--         list     LIST  readings in JSON, in the order in which they came (public)
--         by_time  ZSET  the same readings -> their time in µs: their order, and which there are already
-- ARGV  1 how many are kept of a site; 0: any number
--       2 for how many ms; 0: for ever
--       for each site
--         its name
--         how many readings
--         time in µs, reading; and so on
-- Gives for each site how many are new, or what is wrong with its keys, which are not touched then.
local most, keep_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local sites, call = KEYS[1], redis.call
local oldest, latest -- the latest is a day ahead, as no reading is
if keep_ms > 0 then
  local now = call('TIME')
  local now_us = now[1] * 1000000 + now[2]
  oldest = string.format('(%d', now_us - keep_ms * 1000)
  latest = now_us + 86400 * 1000000
end

local function fault(key, kind)
  local found = call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then
    return 'WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. kind
  end
end

local function add(site, list, by_time, first, last)
  local new, is_new, kept = {}, {}, 0
  for at = first, last, 2 do
    local reading = ARGV[at + 1]
    if call('ZADD', by_time, 'NX', ARGV[at], reading) == 1 then
      new[#new + 1] = reading
      is_new[reading] = true
    end
  end

  local function drop(reading)
    if is_new[reading] then
      is_new[reading] = nil
    else
      call('LREM', list, 1, reading) -- from the head, where the oldest mostly are
    end
  end

  if oldest then
    for _, reading in ipairs(call('ZRANGE', by_time, '-inf', oldest, 'BYSCORE')) do
      drop(reading)
    end
    call('ZREMRANGEBYSCORE', by_time, '-inf', oldest)
  end
  local over = most > 0 and call('ZCARD', by_time) - most or 0
  if over > 0 then
    local popped = call('ZPOPMIN', by_time, over)
    for at = 1, #popped, 2 do
      drop(popped[at])
    end
  end

  for _, reading in ipairs(new) do
    if is_new[reading] then
      call('RPUSH', list, reading)
      kept = kept + 1
    end
  end

  -- A site that has fallen silent goes with its last reading.
  local newest = call('ZRANGE', by_time, -1, -1, 'WITHSCORES')[2]
  if newest then
    call('ZADD', sites, newest, site)
  else
    call('ZREM', sites, site)
  end
  for _, key in ipairs({ list, by_time }) do
    if oldest and newest then
      call('PEXPIREAT', key, string.format('%d', math.floor(math.min(newest, latest) / 1000) + keep_ms + 1))
    else
      call('PERSIST', key)
    end
  end
  return kept
end

local answers, at = {}, 3
local no_index = fault(sites, 'zset')
for key = 2, #KEYS, 2 do
  local list, by_time = KEYS[key], KEYS[key + 1]
  local site, first = ARGV[at], at + 2
  local last = at + 1 + 2 * ARGV[at + 1]
  answers[#answers + 1] = no_index or fault(list, 'list') or fault(by_time, 'zset') or add(site, list, by_time, first, last)
  at = last + 1
end
if oldest and not no_index then
  call('ZREMRANGEBYSCORE', sites, '-inf', oldest)
end
return answers
