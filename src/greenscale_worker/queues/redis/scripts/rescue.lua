-- Shared by the scripts that meet jobs whose lease has expired, or of which another program deleted a part.

local function has_place(id)
  for _, key in ipairs({READY, SUSPECT, DELAYED, LEASE, HELD}) do
    if call('ZSCORE', key, id) then return true end
  end
  return false
end

-- Jobs that this script buried and no worker will settle: id, job id (may be empty) and code of each. The worker logs them and
-- writes their records (record_dead.lua).
local buried = {}

local function bury_unsettled(id, m, code, message)
  bury(id, m, m.job_id, code, message)
  ledger.count('failed')
  ledger.write()
  leave_notices()
  push(buried, id, m.job_id)
  buried[#buried + 1] = code
end

-- A meta for a job of which only the payload is known, to be buried under the id that users know. In a payload too large to be
-- parsed, the id is found only if it is the first or the last field.
local function new_meta_of(payload, name)
  local m, job_id = new_meta(), nil
  if #payload <= LARGEST then
    local fine, job = pcall(cjson.decode, payload)
    job_id = fine and type(job) == 'table' and job.job_id
  else
    job_id = string.match(string.sub(payload, -256), '"job_id"%s*:%s*"([%w._:-]+)"%s*}%s*$')
      or string.match(string.sub(payload, 1, 256), '^%s*{%s*"job_id"%s*:%s*"([%w._:-]+)"')
  end
  if type(job_id) ~= 'string' then job_id = name or '' end
  if is_job_id(job_id) then m.job_id = job_id end
  return m
end

-- Loads a job of which another program may have deleted or overwritten a part. Without its payload it is deleted, without its
-- meta it begins anew; if the meta cannot be read, or its id is invalid, it is buried.
local function load_or_forget(id)
  local m = read_meta(id) or new_meta()
  if store.has(id) then
    if not store.is_id(id) then
      local kept = store.keep(id, store.payload(id), '')
      forget({[id] = m})
      id, m = kept, {damaged = true}
    end
    if not m.damaged then return m end
    bury_unsettled(id, new_meta_of(store.payload(id)), 'unreadable', 'what the queue knew of this job cannot be read')
    return nil
  end
  forget({[id] = m})
  for _, key in ipairs({READY, SUSPECT, DELAYED, LEASE, HELD}) do call('ZREM', key, id) end
  return nil
end

-- Workers of the previous version know no offset: while there are some, future times are moved instead.
local function move_back(lease_ms, by)
  for _, id in ipairs(call('ZRANGEBYSCORE', LEASE, digits(now + lease_ms), '+inf')) do
    call('ZADD', LEASE, digits(now + lease_ms), id)
  end
  for _, id in ipairs(call('ZRANGE', DELAYED, 0, -1)) do call('ZINCRBY', DELAYED, digits(-by), id) end
end

-- Outage amnesty: if no script ran for two heartbeats, no worker could have sent one, and silence does not prove a crash. The
-- same if the clock went back (failover), which must not prolong any lease or delay.
local function tick(lease_ms, beat_ms)
  local field_of_clock = V2 and 'time' or 'clock'
  look_up(field_of_clock, 'amnesty', 'paused', 'answered', 'healed')
  local clock = number_in_control(field_of_clock)
  local went_back = now < clock - 1000
  if went_back then
    if V2 then
      call('HSET', CONTROL, 'offset', digits(number_in_control('offset') + clock - now))
      queue_now = queue_now + clock - now
    else
      move_back(lease_ms, clock - now)
    end
    call('ZREMRANGEBYSCORE', WORKERS, '(' .. NOW, '+inf')
  end
  if clock > 0 and (now - clock > 2 * beat_ms or went_back) then
    control.amnesty = digits(queue_now + 2 * beat_ms)
    call('HSET', CONTROL, 'amnesty', control.amnesty)
  end
  for _, field in ipairs({'blamed', 'accused', 'answered', 'healed'}) do
    if number_in_control(field) > now then  -- no success would ever be later
      control[field] = NOW
      call('HSET', CONTROL, field, NOW)
    end
  end
  call('HSET', CONTROL, field_of_clock, NOW)
end

-- Requeues jobs whose lease has expired; returns how many. It buries only those that kill even the worker that reads them; a
-- worker buries all others.
local function reap(max_crashes)
  if queue_now < number_in_control('amnesty') then return 0 end
  local expired = call('ZRANGEBYSCORE', LEASE, '-inf', '(' .. digits(queue_now), 'LIMIT', 0, BATCH)
  for _, id in ipairs(expired) do
    local m = load_or_forget(id)
    if m then
      m.crashes = m.crashes + 1
      if m.crashes >= max_crashes + BURIAL_MARGIN then
        bury_unsettled(id, m, 'crashed', 'the lease expired ' .. m.crashes .. ' times')
      else
        requeue(id, m)
      end
    end
  end
  if #expired > 0 then increment('reaped', #expired) end
  return #expired
end
