-- Who is woken when there is something to claim: not all who have a free lane, but who has a seat. Shared by claim, heartbeat
-- and goodbye. The first two in `idle` have one: they alone wait at the store, answer the bell and wait for what falls due. Two,
-- so that the death of one costs nobody time. What is lost here (a message, the whole key) is made good by heartbeats.
local SEATS = 2

-- Lets a worker claim, by a channel of its own.
local function wake(owner) redis.pcall('PUBLISH', BELL .. ':' .. owner, 'wake') end

local function seats() return call('ZRANGE', IDLE, 0, SEATS - 1) end

local function has_seat(owner)
  for _, seated in ipairs(seats()) do
    if seated == owner then return true end
  end
  return false
end

-- Enters a worker that has a free lane and nothing to run on it; whether it has a seat.
local function sit_down(owner)
  call('ZADD', IDLE, 'NX', digits(micros), owner)  -- who comes later, if only by a moment, unseats nobody
  return has_seat(owner)
end

-- Takes out workers that cannot claim. Who has a seat now and had none must look for what came meanwhile.
local function stand_up(...)
  local had_seat = {}
  for _, owner in ipairs(seats()) do had_seat[owner] = true end
  if call('ZREM', IDLE, ...) == 0 then return end
  for _, owner in ipairs(seats()) do
    if not had_seat[owner] then wake(owner) end
  end
end

-- Unseats who has sent no heartbeat for the time of two, or sent it in what is the future since the clock was set back.
local function unseat_silent(beat_ms)
  for _ = 1, BATCH do
    local silent = {}
    for _, owner in ipairs(seats()) do
      local seen = call('ZSCORE', WORKERS, owner)
      if not seen or math.abs(now - tonumber(seen)) > 2 * beat_ms then silent[#silent + 1] = owner end
    end
    if #silent == 0 then return end
    stand_up(unpack(silent))
  end
end

-- Wakes as many as it takes to run what waits, each having so many lanes, so that a burst is not passed from seat to seat. They
-- stay in `idle` until they claim: who fills its lanes next wakes those again that have not come yet, and no others.
local function share(lanes)
  local idle = lanes > 0 and call('ZCARD', IDLE) or 0
  local waiting = idle > 0 and store.unclaimed() + call('ZCARD', READY) or 0
  if waiting == 0 then return end
  for _, owner in ipairs(call('ZRANGE', IDLE, 0, math.min(math.ceil(waiting / lanes), BATCH) - 1)) do wake(owner) end
end
