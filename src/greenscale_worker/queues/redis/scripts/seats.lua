-- Decides which workers are woken when there is something to claim: not all with a free lane, only those with a seat. Shared by
-- claim, heartbeat and unregister. The first two in `idle` have a seat: only they wait at the store, react to the bell and wait
-- for delayed jobs. Two, so that the crash of one delays no job. Heartbeats repair what is lost here (a message, the whole key).
local SEATS = 2

-- Tells one worker to claim, on its own channel.
local function wake(owner) redis.pcall('PUBLISH', BELL .. ':' .. owner, 'wake') end

local function seats() return call('ZRANGE', IDLE, 0, SEATS - 1) end

local function has_seat(owner)
  for _, seated in ipairs(seats()) do
    if seated == owner then return true end
  end
  return false
end

-- Enters a worker that has a free lane and nothing to run; returns whether it has a seat.
local function sit_down(owner)
  length[IDLE] = nil
  call('ZADD', IDLE, 'NX', digits(micros), owner)  -- a later worker, if only by a moment, takes no seat away
  return has_seat(owner)
end

-- Removes workers that cannot claim. A worker that gets a seat thereby is woken, to look for what came meanwhile.
local function stand_up(...)
  if is_empty(IDLE) then return end
  local had_seat = {}
  for _, owner in ipairs(seats()) do had_seat[owner] = true end
  if call('ZREM', IDLE, ...) == 0 then return end
  for _, owner in ipairs(seats()) do
    if not had_seat[owner] then wake(owner) end
  end
end

-- Unseats workers without a heartbeat for the time of two, or whose last is in the future since the clock was set back.
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

-- How many jobs that no worker has claimed may be claimed now.
local function claimable()
  return turns and unclaimed() - call('HLEN', TURN_PAYLOADS) + turns.claimable() or unclaimed()
end

-- Wakes as many workers as waiting jobs need, at `lanes` jobs each, so that a burst is not passed from seat to seat. They stay in
-- `idle` until they claim: the next worker to fill its lanes wakes again those that have not claimed yet, and no others. `most`:
-- how many jobs may be claimed.
local function share(lanes, most)
  local idle = lanes > 0 and not is_empty(IDLE) and call('ZCARD', IDLE) or 0
  local waiting = idle > 0 and claimable() + call('ZCARD', READY) or 0
  waiting = math.min(waiting, most)
  if waiting <= 0 then return end
  for _, owner in ipairs(call('ZRANGE', IDLE, 0, math.min(math.ceil(waiting / lanes), BATCH) - 1)) do wake(owner) end
end
