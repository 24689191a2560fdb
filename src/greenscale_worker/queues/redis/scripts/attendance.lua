-- Shared by the scripts that know which gateway waits for a job on behalf of a client.
--
-- alike     ZSET  of the jobs of equal requests: "job-id gateway number" -> the ms until which a retry may find it; negative: its
--                 client has gone, so a retry may join it
-- gateways  ZSET  gateway -> when it last called, ms. One that is silent for longer is dead, and its clients have gone
local ATTENDED_SECONDS, ALIVE_MS = 120, 2000  -- as in queues/jobs.py

local function attend(alike, member, has_gone)
  local last = now + 1000 * ATTENDED_SECONDS
  call('ZADD', alike, digits(has_gone and -last or last), member)
  call('ZREMRANGEBYSCORE', alike, '-' .. NOW, NOW)
  call('EXPIRE', alike, ATTENDED_SECONDS)
end

-- Also forgets the dead: afterwards, the gateways are those that live.
local function show_alive(gateways, gateway)
  call('ZADD', gateways, NOW, gateway)
  call('ZREMRANGEBYSCORE', gateways, '-inf', digits(now - ALIVE_MS))
  call('EXPIRE', gateways, ATTENDED_SECONDS)
end
