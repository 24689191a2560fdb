-- Who is woken when there is something to claim: not all who have a free lane, but who has a seat. Shared by claim, heartbeat
-- and goodbye. The first two in `idle` have one: they alone wait at the store, answer the bell and wait for what falls due. Two,
-- so that the death of one costs nobody time. What is lost here (a message, the whole key) is made good by heartbeats.
local SEATS = 2

-- Lets a worker claim, by a channel of its own.
local function wake(owner) redis.pcall('PUBLISH', BELL .. ':' .. owner, 'wake') end

local function has_seat(owner)
  for _, seated in ipairs(call('ZRANGE', IDLE, 0, SEATS - 1)) do
    if seated == owner then return true end
  end
  return false
end

-- Enters a worker that has a free lane and nothing to run on it; whether it has a seat.
local function sit_down(owner)
  call('ZADD', IDLE, 'NX', digits(micros), owner)  -- who comes later, if only by a moment, unseats nobody
  return has_seat(owner)
end

-- Takes out a worker that cannot claim. If it had a seat, who has it now must look for what came meanwhile.
local function stand_up(owner)
  local had_seat = has_seat(owner)
  call('ZREM', IDLE, owner)
  local heir = had_seat and call('ZRANGE', IDLE, SEATS - 1, SEATS - 1)[1]
  if heir then wake(heir) end
end

-- Unseats who has sent no heartbeat for the time of two.
local function unseat_silent(beat_ms)
  for _, owner in ipairs(call('ZRANGE', IDLE, 0, SEATS - 1)) do
    local seen = call('ZSCORE', WORKERS, owner)
    if not seen or tonumber(seen) < now - 2 * beat_ms then stand_up(owner) end
  end
end

-- Wakes as many others as it takes to run what waits, each having so many lanes, so that a burst is not passed from seat to
-- seat. Who is woken claims, and sits down again if that brings it too little.
local function share(lanes)
  local idle = lanes > 0 and call('ZCARD', IDLE) or 0
  local waiting = idle > 0 and store.unclaimed() + call('ZCARD', READY) or 0
  if waiting == 0 then return end
  local woken = call('ZRANGE', IDLE, 0, math.min(math.ceil(waiting / lanes), BATCH) - 1)
  call('ZREM', IDLE, unpack(woken))
  for _, owner in ipairs(woken) do wake(owner) end
end
